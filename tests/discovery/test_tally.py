"""What an operator reads in the log of what was done and refused."""

from __future__ import annotations

import logging
from collections import Counter

import pytest
import trio
import trio.testing

from discovery.shell.tally import INTERVAL_S, Tally


def test_only_what_has_risen_is_told() -> None:
    relay, stun = Counter(forwarded=7), Counter[str]()
    tally = Tally({"relay": relay, "STUN": stun})
    assert tally.take() == {"relay": {"forwarded": 7}}
    assert tally.take() == {}
    relay["forwarded"] += 2
    relay["quota"] += 1
    stun["limited"] += 5
    assert tally.take() == {"relay": {"forwarded": 2, "quota": 1}, "STUN": {"limited": 5}}


async def test_there_is_a_line_for_each_part_and_none_in_quiet_times(
    caplog: pytest.LogCaptureFixture, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    relay = Counter(forwarded=7)
    with caplog.at_level(logging.INFO, "discovery.tally"):
        nursery.start_soon(Tally({"relay": relay}).run)
        await trio.sleep(3.5 * INTERVAL_S)
        assert [record.message for record in caplog.records] == ["relay, in the last minutes  forwarded=7"]
    nursery.cancel_scope.cancel()
