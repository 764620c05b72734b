"""What is on its way, as a value: a head that says all but the names, and the names."""

from __future__ import annotations

from fabric.wire.handshake import MessageKind, ProofKind, decode_hello
from fabric.wire.path import Close, CloseReason, encode_control
from tests.explore import symbolic
from tests.explore.stage import Raw

Letter = tuple[str, tuple[int, ...]]
"""HELLO h | ANSWER NONE h a | ANSWER PROOF h a root | FINISH PROOF a root exporter |
RESUME h root | RESUMED h a root exporter | RECORD index exporter | CLOSE ..."""

CLOSE = encode_control(Close(CloseReason.STOPPED))
OPENINGS = ("HELLO", "RESUME")
"""What begins: a server may take one however old."""
CALL = "CALL"
"""A server asks for a HELLO: the client may want one at any time, so that only a fair run needs to be told of calls."""

ONCE = ("RECORD", "CLOSE")
"""The lane's replay window opens a record once."""


def read(raw: Raw) -> Letter:
    """Returns what it says."""
    if raw.index is not None:
        return ("CLOSE" if raw.payload else "RECORD"), (raw.index, symbolic.words(raw.key)[0])
    if not raw.message:
        return CALL, ()
    if raw.message[0] == MessageKind.HELLO:
        return "HELLO", (decode_hello(raw.message).client_index,)
    if raw.message[0] == MessageKind.RESUME:
        return "RESUME", symbolic.resume_words(raw.message)
    if raw.message[0] == MessageKind.RESUMED:
        return "RESUMED", symbolic.words(raw.message)[1:]
    _, kind, *names = symbolic.words(raw.message)
    return f"{MessageKind(raw.message[0]).name} {ProofKind(kind).name}", tuple(names)


def write(letter: Letter) -> Raw:
    head, names = letter
    if head in ONCE:
        key = symbolic.session_key(names[1], symbolic.NOBODY)
        return Raw(index=names[0], key=key, payload=CLOSE if head == "CLOSE" else b"")
    if head == "HELLO":
        return Raw(message=symbolic.hello_of(names[0]))
    if head == "RESUME":
        return Raw(message=symbolic.resume_of(*names))
    if head == "RESUMED":
        return Raw(message=symbolic.spell(MessageKind.RESUMED, *names))
    kind, proof = head.split()
    return Raw(message=symbolic.spell(MessageKind[kind], ProofKind[proof], *names))


def is_to_server(head: str) -> bool | None:
    """None for records, which go either way."""
    return None if head in ONCE else head in OPENINGS or head.startswith("FINISH")
