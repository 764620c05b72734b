"""Somebody who has one end's identity key, and follows no rule: every message that its key can sign, at any time.

It knows the roots of the disk that it has copied, if any, and those that came of what it said. It stands in the
copy's place in a state: its names there are the roots that it knows. What is sent to it goes nowhere else.

    as a client   HELLO, hears the ANSWER to it, and sends any FINISH; RESUME, and the record that makes it good
    as a server   answers the client's attempt as it likes, hears what comes of it, and sends the record that confirms
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.explore.shapes import Names
from tests.explore.states import Sent

MOST_ROOTS = 2
"""The newest are kept: what is older is of no use to anybody."""

COPY = 2


def finishes(answer: Names, known: Names, fresh: int) -> Iterator[tuple[Sent, Names]]:
    """Every FINISH to this ANSWER of index `answer[1]`, and what the liar knows once it has said it."""
    index = answer[1]
    yield (COPY, "FINISH FIRST", (index, 0, fresh)), learnt(known, fresh)
    yield (COPY, "FINISH MISMATCH", (index, 0, 0)), known
    yield (COPY, "FINISH ALARM", (index, 0, 0)), known
    for root in known:
        yield (COPY, "FINISH PROOF", (index, root, fresh)), learnt(known, fresh)


def answers(asked: int, known: Names, fresh: int) -> Iterator[Sent]:
    """Every ANSWER to the attempt `asked`."""
    yield COPY, "ANSWER NONE", (asked, fresh, 0)
    yield COPY, "ANSWER ALARM", (asked, fresh, 0)
    for root in known:
        yield COPY, "ANSWER PROOF", (asked, fresh, root)
        yield COPY, "RESUMED", (asked, fresh, root, fresh + 1)


def continues(resumed: Names, known: Names) -> tuple[Sent, Names]:
    """The record after RESUMED, and what the liar knows once the server has it."""
    _, index, _, exporter = resumed
    return record(index, exporter), learnt(known, exporter)


def hears(known: Names, answer: Sent, out: list[Sent]) -> tuple[Names, list[Sent]]:
    """What the liar learns from a client that took its `answer` and sends `out`; with the record that it sends then."""
    for _, head, spelled in out:
        if head in ("FINISH PROOF", "FINISH FIRST"):
            return learnt(known, spelled[2]), [*out, record(answer[2][0], spelled[2])]
        if head == "RECORD" and answer[1] == "RESUMED":
            return learnt(known, spelled[1]), [*out, record(answer[2][0], spelled[1])]
    return known, out


def record(index: int, exporter: int) -> Sent:
    """A record in a session that the other end has made with the liar."""
    return COPY, "RECORD", (index, exporter)


def learnt(known: Names, root: int) -> Names:
    return (*known, root)[-MOST_ROOTS:]
