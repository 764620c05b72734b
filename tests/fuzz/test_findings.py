"""What fuzzing has found, and that was put right."""

from __future__ import annotations

import pytest

from fabric.core.records import PeerRecord, decode_record, encode_record
from fabric.errors import DecodeError
from fabric.shell.control_wire import AskStatus, Failed, decode_answer, decode_question, encode_line


def test_a_question_in_no_utf_8_is_no_question() -> None:
    """It ended the daemon: any member of the control socket's group could."""
    line = encode_line(AskStatus()).replace(b"status", b"stat\xff\xff")
    with pytest.raises(DecodeError):
        decode_question(line)


def test_an_answer_in_no_utf_8_is_no_answer() -> None:
    with pytest.raises(DecodeError):
        decode_answer(encode_line(Failed(1, "why")).replace(b"why", b"w\x98\x85"))


def test_a_stored_record_in_no_utf_8_is_damaged_and_named_among_the_unreadable() -> None:
    with pytest.raises(DecodeError):
        decode_record(encode_record(PeerRecord(name="web-1.home")).replace(b"web-1", b"we\xa7\xff1"))
