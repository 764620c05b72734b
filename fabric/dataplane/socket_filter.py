"""A classic BPF program for a main UDP socket: whom the kernel lets in while strangers flood it (socket(7), bpf(4)).

    from whom was written to of late? -------------------> in
    DATA   | 0 0 0 | index of a session? ----------------> in, or one in `share`
    GATED  | 0 0 0 | index of an open gate? -------------> in, or one in `share`
    anything else from anybody else ---------------------> dropped, unread

Indices that don't all fit into a program are not looked at: any will do then. A program has no memory, and knows no
keys: it tells strangers from who may be known, and the lane tells the rest. Sources are compared by 32 bits made of IP
and port under a secret number, so that nobody can look for an address with the bits of another.
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import count

from fabric.wire.datagram import DATA_TYPE, GATED_TYPE

MAX_KEYS = 2000
"""Sources and indices that fit into the 4,096 instructions of a program (BPF_MAXINSNS)."""

INSTRUCTION = struct.Struct("=HBBI")
"""linux/filter.h, struct sock_filter: code, how far to jump if so, if not, operand."""

# linux/bpf_common.h
_LOAD_WORD, _LOAD_HALF, _LOAD_BYTE = 0x20, 0x28, 0x30
_ADD_X, _MULTIPLY, _AND = 0x0C, 0x24, 0x54
_JUMP, _JUMP_IF_EQUAL, _JUMP_IF_LEAST = 0x05, 0x15, 0x35
_RETURN, _COPY_TO_X = 0x06, 0x07

# A UDP socket's program sees the datagram from its UDP header on; what is before has addresses of its own.
_NETWORK_HEADER = 0xFFF00000
_RANDOM = 0xFFFFF038
_SOURCE_PORT, _KIND, _INDEX = 0, 8, 12
_SOURCE_IP = {4: (12,), 6: (8, 12, 16, 20)}
_WHOLE = 0xFFFFFFFF

_LEAF = 8
"""Keys that are compared one by one; more are halved."""


@dataclass(frozen=True, slots=True)
class Welcome:
    """Who is let in. `sources` are (IP, port), the most important first; of who is not among them, only DATA for
    `sessions` and GATED for `gates` (u32 indices) are: one datagram in `share`, a power of two."""

    sources: Sequence[tuple[str, int]]
    sessions: Collection[int]
    gates: Collection[int]
    share: int = 1


def filter_program(welcome: Welcome, version: int, mix: int, most: int = MAX_KEYS) -> bytes:
    """Returns a program for the socket of an IP `version`, 4 or 6, which holds at most so many sources and indices.

    Three quarters of the room are for indices, if they need it; gates come before sessions. `mix` is an odd secret of
    32 bits.
    """
    left = most * 3 // 4
    gates = welcome.gates if len(welcome.gates) <= left else None
    left -= len(gates or ())
    sessions = welcome.sessions if len(welcome.sessions) <= left else None
    room = most - len(gates or ()) - len(sessions or ())
    sources = list(dict.fromkeys(source_key(ip, port, mix) for ip, port in _of(version, welcome.sources)))[:room]
    program = _Program(mix)
    program.load_source(_SOURCE_IP[version])
    program.search(sources, program.let_in, program.strangers)
    program.label(program.strangers)
    program.load(_LOAD_BYTE, _KIND)
    for kind, indices in ((DATA_TYPE, sessions), (GATED_TYPE, gates)):
        other = program.new_label()
        program.branch(_JUMP_IF_EQUAL, kind, other)
        program.load(_LOAD_WORD, _INDEX)
        if indices is None:
            program.leap(program.listed)
        else:
            program.search(indices, program.listed, program.drop)
        program.label(other)
    program.end(welcome.share)
    return program.assemble()


def source_key(ip: str, port: int, mix: int) -> int:
    """Returns the 32 bits by which the program knows a source."""
    packed = ip_address(ip.partition("%")[0]).packed
    key = 0
    for (word,) in struct.iter_unpack("!I", packed):
        key = (key * mix + word) % 2**32
    return (key * mix + port) % 2**32


def _of(version: int, sources: Iterable[tuple[str, int]]) -> Iterable[tuple[str, int]]:
    return (source for source in sources if (":" in source[0]) == (version == 6))


class _Program:
    """Instructions whose jumps lead to labels, which stand somewhere behind."""

    def __init__(self, mix: int) -> None:
        self._mix = mix
        self._instructions: list[tuple[int, int, int, int]] = []
        self._labels = count()
        self._places: dict[int, int] = {}
        self._leaps: dict[int, int] = {}  # of a _JUMP: to which label
        self.let_in, self.strangers, self.listed, self.drop = (self.new_label() for _ in range(4))

    def new_label(self) -> int:
        return next(self._labels)

    def label(self, label: int) -> None:
        self._places[label] = len(self._instructions)

    def load(self, how: int, where: int) -> None:
        self._add(how, where)

    def load_source(self, words: Sequence[int]) -> None:
        """As `source_key` mixes it."""
        self.load(_LOAD_WORD, _NETWORK_HEADER + words[0])
        for how, where in (*((_LOAD_WORD, _NETWORK_HEADER + word) for word in words[1:]), (_LOAD_HALF, _SOURCE_PORT)):
            self._add(_MULTIPLY, self._mix)
            self._add(_COPY_TO_X, 0)
            self.load(how, where)
            self._add(_ADD_X, 0)

    def branch(self, test: int, operand: int, otherwise: int) -> None:
        """Goes on where it holds. A jump of a test is short, 255 instructions: a long one stands beside it."""
        self._add(test, operand, if_so=1)
        self.leap(otherwise)

    def leap(self, label: int) -> None:
        self._leaps[len(self._instructions)] = label
        self._add(_JUMP, 0)

    def search(self, keys: Collection[int], found: int, missing: int) -> None:
        self._search(sorted(keys), found, missing)

    def _search(self, keys: Sequence[int], found: int, missing: int) -> None:
        if len(keys) > _LEAF:
            half, low = len(keys) // 2, self.new_label()
            self.branch(_JUMP_IF_LEAST, keys[half], low)
            self._search(keys[half:], found, missing)
            self.label(low)
            self._search(keys[:half], found, missing)
            return
        for at, key in enumerate(keys):
            self._add(_JUMP_IF_EQUAL, key, if_so=len(keys) - at)  # over the leap to `missing`
        self.leap(missing)
        if keys:
            self.leap(found)

    def end(self, share: int) -> None:
        """What the labels of a whole program mean."""
        self.label(self.drop)
        self._add(_RETURN, 0)
        self.label(self.listed)
        if share > 1:
            self.load(_LOAD_WORD, _RANDOM)
            self._add(_AND, share - 1)
            self._add(_JUMP_IF_EQUAL, 0, if_so=1)
            self._add(_RETURN, 0)
        self.label(self.let_in)
        self._add(_RETURN, _WHOLE)

    def assemble(self) -> bytes:
        for at, label in self._leaps.items():
            self._instructions[at] = (_JUMP, 0, 0, self._places[label] - at - 1)
        return b"".join(INSTRUCTION.pack(*instruction) for instruction in self._instructions)

    def _add(self, code: int, operand: int, if_so: int = 0) -> None:
        self._instructions.append((code, if_so, 0, operand))
