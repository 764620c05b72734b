"""Buckets and counts: what they allow, and that strangers can't make them grow."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from discovery.core.limits import OpenCount, Rate, SourceBuckets, TokenBucket, source_of


@given(st.lists(st.floats(0, 5), max_size=60))
def test_a_bucket_never_gives_more_than_its_burst_and_its_rate(pauses: list[float]) -> None:
    bucket = TokenBucket(Rate(2.0, 5.0), 0.0)
    now, taken = 0.0, 0
    for pause in pauses:
        now += pause
        taken += bucket.take(now)
    assert taken <= 5.0 + 2.0 * now + 1e-6


def test_a_debt_is_paid_by_waiting() -> None:
    bucket = TokenBucket(Rate(2.0, 1.0), 0.0)
    assert bucket.owe(0.0) == 0.0
    assert bucket.owe(0.0) == pytest.approx(0.5)
    assert bucket.owe(10.0) == 0.0


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    bucket = TokenBucket(Rate(1.0, 1.0), 100.0)
    assert bucket.take(100.0)
    assert not bucket.take(0.0)
    assert not bucket.take(100.5)


def test_as_many_sources_are_remembered_as_allowed_and_the_busiest_is_not_forgotten() -> None:
    buckets = SourceBuckets(Rate(0.001, 1.0), limit=3)
    assert buckets.take("192.0.2.1", 0.0)
    for number in range(2, 200):
        assert buckets.take(f"192.0.2.{number}", 0.0)
        assert not buckets.take("192.0.2.1", 0.0)


@pytest.mark.parametrize(
    ("ip", "source"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2::1", "20010db800010002"),
        ("2001:db8:1:2:ffff::", "20010db800010002"),
        ("fe80::1%eth0", "fe80000000000000"),
        ("", ""),
    ],
)
def test_a_source_is_what_one_host_can_not_choose_freely(ip: str, source: str) -> None:
    assert source_of(ip) == source


@given(st.lists(st.tuples(st.booleans(), st.sampled_from(["a", "b", "c"])), max_size=80))
def test_open_things_are_counted_right_whatever_the_order(steps: list[tuple[bool, str]]) -> None:
    count = OpenCount(per_source=2, overall=4)
    inside: list[str] = []
    for enters, source in steps:
        if enters:
            allowed = inside.count(source) < 2 and len(inside) < 4
            assert count.enter(source) == allowed
            inside += [source] * allowed
        elif source in inside:
            inside.remove(source)
            count.leave(source)
        assert count.total == len(inside)
