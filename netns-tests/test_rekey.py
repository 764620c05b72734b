"""Keys change under load, often, and nobody inside notices.

( internet )----[discovery]
   |          |
port-r.    full cone
   |          |
 uma         vic            re-key every 3 s instead of 120
"""

from __future__ import annotations

import time

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import connect, describe
from fabric.lab.traffic import Pings, Transfer

REKEY_S = 3
LOAD_BYTES = 30_000_000
LOADED_S = 12.0

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    places = {"uma": lab.site("s-uma", Nat.PORT_RESTRICTED), "vic": lab.site("s-vic", Nat.FULL_CONE)}
    made = overlay.endpoints(places, configuration=f"rekey_after_s = {REKEY_S}")
    connect(*made.values())
    return made["uma"], made["vic"]


def test_no_frame_is_lost_across_several_rekeys(pair: tuple[Endpoint, Endpoint]) -> None:
    """A thousand small frames in each direction; one lost is one answer missing."""
    uma, vic = pair
    both = [Pings(one.host, other.overlay_ip(), 0.01) for one, other in ((uma, vic), (vic, uma))]
    time.sleep(LOADED_S)
    for answered in [pings.finish() for pings in both]:
        assert answered.sent > 500
        assert answered.lost == 0, f"{answered}\n{describe(uma, vic)}"


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
