"""Log lines: one event a line, whatever others put into a value."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator

import pytest

from fabric.shell.log import Log, start_log


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    before = root.handlers[:], root.level, logging.getLogger("fabric").level
    yield io.StringIO()
    root.handlers[:], root.level = before[0], before[1]
    logging.getLogger("fabric").setLevel(before[2])


def test_values_stand_as_fields_behind_a_sentence(stream: io.StringIO) -> None:
    start_log("info", stream, is_journal=False)
    Log("fabric.x").info("service connected", address="192.0.2.1:443", why="it was time", empty="")
    assert stream.getvalue().endswith("INFO    service connected  address=192.0.2.1:443  why='it was time'  empty=''\n")


def test_a_value_can_not_forge_a_line_or_a_field(stream: io.StringIO) -> None:
    start_log("info", stream, is_journal=False)
    Log("fabric.x").info("told", why="over\n12:00:00 ERROR all is lost  peer=bob\x1b[2J")
    assert stream.getvalue().count("\n") == 1
    assert "\x1b" not in stream.getvalue()
    assert "why='over\\n" in stream.getvalue()


def test_lines_below_the_level_are_not_written(stream: io.StringIO) -> None:
    start_log("warning", stream, is_journal=False)
    Log("fabric.x").info("quiet")
    Log("fabric.x").error("loud")
    assert "quiet" not in stream.getvalue()
    assert "loud" in stream.getvalue()


def test_the_journal_gets_a_priority_with_each_line(stream: io.StringIO) -> None:
    start_log("debug", stream, is_journal=True)
    Log("fabric.x").warning("careful")
    Log("fabric.x").debug("detail")
    assert stream.getvalue() == "<4>careful\n<7>detail\n"
