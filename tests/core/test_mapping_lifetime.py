"""How long an idle mapping lives is learned from below, slowly, and neither loss nor silence shortens it."""

from __future__ import annotations

import pytest

from fabric.core.reflexive import MAX_INTERVAL_S
from fabric.wire.address import Address
from fabric.wire.nat import Filtering, Mapping
from tests.core.fake_nat import SERVER_IPS, Bench, FakeNat

STRICT = Filtering.ADDRESS_AND_PORT_DEPENDENT
CONE, SYMMETRIC = Mapping.ENDPOINT_INDEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT
LEARNED_S = 900.0
"""All tests of one run, each but the longest repeated, take less."""


@pytest.mark.parametrize("mapping", [CONE, SYMMETRIC])
@pytest.mark.parametrize(
    ("lifetime_s", "learned_s", "interval_s"),
    [(20.0, None, 20.0), (30.0, 25.0, 20.0), (60.0, 45.0, 27.0), (120.0, 90.0, 54.0), (300.0, 180.0, 108.0)],
)
def test_the_lifetime_is_learned_from_below(
    mapping: Mapping, lifetime_s: float, learned_s: float | None, interval_s: float
) -> None:
    bench = Bench(FakeNat(mapping, STRICT, lifetime_s=lifetime_s), ips=SERVER_IPS[:1]).start()
    bench.run(LEARNED_S)
    assert bench.reflexive.lifetime_s == learned_s
    assert bench.reflexive.interval_s == interval_s
    assert bench.reflexive.interval_s <= MAX_INTERVAL_S
    assert len(bench.reflexive.addresses) == 1


@pytest.mark.parametrize("lifetime_s", [60.0, 300.0])
def test_loss_is_not_taken_for_expiry(lifetime_s: float) -> None:
    """30 % each way: a mapping is never said to live longer, and nearly always as long as without loss."""
    right = 0
    for seed in range(20):
        bench = Bench(FakeNat(CONE, STRICT, lifetime_s=lifetime_s), loss=0.3, seed=seed).start()
        bench.run(2 * LEARNED_S)
        learned = bench.reflexive.lifetime_s
        assert learned is None or learned <= lifetime_s
        right += learned == (45.0 if lifetime_s == 60.0 else 180.0)
    assert right >= 19


def test_a_network_that_ends_in_between_shows_nothing() -> None:
    bench = Bench(FakeNat(CONE, STRICT, lifetime_s=300.0)).start()
    bench.run(60.0)
    known = bench.reflexive.lifetime_s
    assert known is not None
    bench.is_up = False
    bench.run(1000.0)
    assert bench.reflexive.lifetime_s == known
    bench.is_up = True
    bench.run(3000.0)
    assert bench.reflexive.lifetime_s == 180.0


def test_a_move_and_a_mapping_that_moved_make_it_unknown() -> None:
    bench = Bench(FakeNat(CONE, STRICT, lifetime_s=300.0)).start()
    bench.run(LEARNED_S)
    assert bench.reflexive.interval_s == 108.0
    bench.nat = FakeNat(SYMMETRIC, STRICT, lifetime_s=30.0)
    bench.run(LEARNED_S + 120.0)
    assert bench.reflexive.interval_s == 20.0
    bench.run(2 * LEARNED_S + 300.0)
    assert bench.reflexive.lifetime_s == 25.0
    bench.reflexive.handle_moved(bench.now)
    assert bench.reflexive.lifetime_s is None


def test_a_server_without_rfc_5780_is_not_asked_what_it_can_t_do() -> None:
    bench = Bench(FakeNat(CONE, STRICT), knows_5780=False).start()
    bench.run(3600.0)
    assert bench.reflexive.lifetime_s is None
    assert bench.sent == 181


@pytest.mark.parametrize(
    ("lifetime_s", "servers", "most_bytes"),
    [
        (300.0, 1, 3_600),
        (60.0, 1, 9_900),
        (20.0, 1, 12_300),
        (300.0, 2, 5_500),
    ],
)
def test_little_is_sent_in_an_hour(lifetime_s: float, servers: int, most_bytes: int) -> None:
    """UDP payload and 28 bytes of headers a request. The answers are at most three times as long."""
    bench = Bench(FakeNat(CONE, STRICT, lifetime_s=lifetime_s))
    bench.start(*(Address(ip, 3478) for ip in SERVER_IPS[:servers]))
    bench.run(3700.0)
    before = bench.sent_bytes
    bench.run(3700.0 + 3600.0)
    assert bench.sent_bytes - before <= most_bytes
