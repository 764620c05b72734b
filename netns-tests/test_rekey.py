"""Keys change under load, often, and nobody inside notices.

( internet )----[discovery]
   |          |
port-r.    full cone
   |          |
 uma         vic            re-key every 2 s instead of 120, over either lane
"""

from __future__ import annotations

import time

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_connected, await_reach, describe, introduce, start_all
from fabric.lab.product import until
from fabric.lab.traffic import Pings, Transfer
from fabric.lab.wiretap import Wiretap

REKEY_S = 2
LOAD_BYTES = 30_000_000
LOADED_S = 6.5
DATA = b"\xf1"
"""The first byte of a sealed record: see docs/protocol.md."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    places = {"uma": lab.site("s-uma", Nat.PORT_RESTRICTED), "vic": lab.site("s-vic", Nat.FULL_CONE)}
    made = overlay.endpoints(places, configuration=f"rekey_after_s = {REKEY_S}")
    introduce(*made.values())
    return made["uma"], made["vic"]


@pytest.fixture(scope="module", params=["native", "reference"])
def pair(request: pytest.FixtureRequest, people: tuple[Endpoint, Endpoint]) -> tuple[Endpoint, Endpoint]:
    for endpoint in people:
        endpoint.stop()
        endpoint.carry_by(request.param)
    start_all(people)
    await_connected(*people)
    return people


def test_no_frame_is_lost_across_several_rekeys(pair: tuple[Endpoint, Endpoint], lab: Lab) -> None:
    """A thousand small frames in each direction; one lost is one answer missing."""
    uma, vic = pair
    with Wiretap(lab, uma.host.site) as tap:
        both = [Pings(one.host, other.overlay_ip(), 0.01) for one, other in ((uma, vic), (vic, uma))]
        time.sleep(LOADED_S)
        counts = [pings.finish() for pings in both]
    for answered in counts:
        assert answered.sent > LOADED_S * 40
        assert answered.lost == 0, f"{answered}\n{describe(uma, vic)}"
    assert len(sessions_towards(uma, tap)) >= LOADED_S // REKEY_S - 1


def sessions_towards(endpoint: Endpoint, tap: Wiretap) -> dict[bytes, list[bytes]]:
    """The counters of the sealed records on their way to an endpoint, by the session that they say they belong to."""
    found: dict[bytes, list[bytes]] = {}
    for each in tap.datagrams():
        if each.target == str(endpoint.host.site.wan.ip) and each.payload[:1] == DATA:
            found.setdefault(each.payload[4:8], []).append(each.payload[8:16])
    return found


def test_no_counter_comes_twice_under_a_key(pair: tuple[Endpoint, Endpoint], lab: Lab) -> None:
    """Seen from outside, under load, across re-keys and a crash: a nonce used twice would undo the cipher."""
    uma, vic = pair
    with Wiretap(lab, uma.host.site) as tap:
        pings = Pings(uma.host, vic.overlay_ip(), 0.01)
        until(lambda: len(pings.answers_unix()) > 300, "three hundred answers")
        for one, other in ((uma, vic), (vic, uma)):
            assert Transfer(one.host, other.host, other.overlay_ip(), LOAD_BYTES // 3, lab.directory).finish().intact
        vic.kill()
        vic.start()
        await_reach(uma, vic, 15)
        pings.finish()
    sessions = sessions_towards(uma, tap)
    assert len(sessions) >= 2
    for counters in sessions.values():
        assert len(set(counters)) == len(counters)


def test_a_file_goes_on_at_full_speed_across_rekeys(pair: tuple[Endpoint, Endpoint], lab: Lab) -> None:
    """TCP would show a hole as a stall: while files keep the line full, no second passes without progress."""
    uma, vic = pair
    started, stalls = time.monotonic(), []
    while time.monotonic() < started + LOADED_S:
        transfer = Transfer(uma.host, vic.host, vic.overlay_ip(), LOAD_BYTES, lab.directory)
        stalls.append(longest_stall_s(transfer))
        assert transfer.finish().intact
    assert max(stalls) < 1.0


def longest_stall_s(transfer: Transfer) -> float:
    """The longest time in which not a byte came in, while it runs."""
    longest, before, since = 0.0, -1, time.monotonic()
    while transfer.running:
        now = time.monotonic()
        if transfer.received_bytes != before:
            longest, before, since = max(longest, now - since), transfer.received_bytes, now
        time.sleep(0.02)
    return longest
