"""The overlay keeps its full MTU over lines that do not, and no outer packet is ever cut into pieces.

            ( internet )----[discovery, relay]
        |          |             |              |             |
     1500       1280 line     1280 line      1500, shrinks in mid transfer
        |      (tells so)   (black hole)     (tells so)   (black hole)
     port-r.    port-r.      full cone        port-r.      port-r.
        |          |             |              |             |
       mia        ned           ora            pat           qui

Pings of every length up to the MTU of the overlay carry the bit that forbids to cut them; a wiretap on every narrow
line looks for pieces of outer packets.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay, Weather
from fabric.lab.overlay import connect, describe
from fabric.lab.product import until
from fabric.lab.stream import Stream
from fabric.lab.traffic import Transfer
from fabric.lab.wiretap import Wiretap

TUNNEL_MTU = 1280
PING_HEADERS_BYTES = 28
FILE_BYTES, LONG_FILE_BYTES = 5_000_000, 15_000_000
BLACK_HOLE, SLOW = Weather(mtu=TUNNEL_MTU), Weather(rate_mbit_s=40)
SHRUNK_STALL_S = 10.0
"""As long as a dead path may take to be noticed when nobody says that it is."""
PINGS_IN_A_STALL = 35
"""Five a second, and the last of them waits for its answer."""
NAMES = ("mia", "ned", "ora")
PAIRS = list(itertools.permutations(NAMES, 2))

pytestmark = pytest.mark.timeout(120)


@dataclass
class Town:
    endpoints: dict[str, Endpoint]
    taps: dict[str, Wiretap]

    def __getitem__(self, name: str) -> Endpoint:
        return self.endpoints[name]


@pytest.fixture(scope="module")
def town(lab: Lab, overlay: Overlay) -> Iterator[Town]:
    places = {
        "mia": lab.site("s-mia", Nat.PORT_RESTRICTED),
        "ned": lab.site("s-ned", Nat.PORT_RESTRICTED),
        "ora": lab.site("s-ora", Nat.FULL_CONE, weather=True),
        "pat": lab.site("s-pat", Nat.PORT_RESTRICTED, weather=True),
        "qui": lab.site("s-qui", Nat.PORT_RESTRICTED, weather=True),
    }
    places["ned"].narrow(TUNNEL_MTU)
    places["ora"].weather.make(BLACK_HOLE)
    taps = {name: Wiretap(lab, site) for name, site in places.items()}
    with ExitStack() as stack:
        for tap in taps.values():
            stack.enter_context(tap)
        made = overlay.endpoints(places)
        connect(*made.values())
        yield Town(made, taps)


def pings_whole(sender: Endpoint, receiver: Endpoint, length_bytes: int, count: int = 3) -> bool:
    """Whether a ping of that IP length gets through without being cut on the overlay; one of a few is enough."""
    words = ("ping", "-n", "-c", str(count), "-i", "0.2", "-W", "2", "-M", "do", "-s")
    return (
        " 0 received"
        not in sender.host.run(*words, str(length_bytes - PING_HEADERS_BYTES), receiver.overlay_ip()).output
    )


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_frames_of_every_length_get_through_at_once(town: Town, one: str, other: str) -> None:
    mtu = town[one].status()["endpoint"]["mtu"]
    assert mtu > TUNNEL_MTU, "else this test shows nothing"
    for length in (64, 1000, 1180, 1200, 1240, 1280, (1280 + mtu) // 2, mtu):
        assert pings_whole(town[one], town[other], length), f"{length}: {describe(town[one], town[other])}"


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_a_file_gets_through_and_how_fast(
    town: Town, one: str, other: str, lab: Lab, figure: Callable[[str], None]
) -> None:
    sent = Transfer(town[one].host, town[other].host, town[other].overlay_ip(), FILE_BYTES, lab.directory).finish()
    peer = town[one].peer(other)
    assert peer is not None
    figure(f"path MTU: {one} to {other}: {sent.mbit_per_s:.0f} Mbit/s, {peer['path']['mtu']} bytes a datagram")
    assert sent.intact


def test_the_full_mtu_gets_through_with_no_frame_lost(town: Town) -> None:
    """Every frame of a steady stream of the longest, from the first on: none waits for a probe."""
    mtu = town["mia"].status()["endpoint"]["mtu"]
    for receiver in ("ned", "ora"):
        address = town[receiver].overlay_ip()
        stream = Stream(town["mia"].host, town[receiver].host, address, payload_bytes=mtu - PING_HEADERS_BYTES)
        until(lambda stream=stream: len(stream.arrivals) > 300, "three hundred datagrams")  # type: ignore[misc]
        counted = stream.finish()
        assert (counted.lost, counted.doubled, counted.damaged) == (0, 0, 0), receiver


@pytest.mark.parametrize(("name", "tells"), [("pat", True), ("qui", False)], ids=["tells", "black-hole"])
def test_a_line_that_shrinks_in_mid_transfer_holds_it_up_for_a_moment_only(
    town: Town, lab: Lab, name: str, tells: bool, figure: Callable[[str], None]
) -> None:
    pat, mia = town[name], town["mia"]
    pat.host.site.weather.make(SLOW)  # so that the transfer is not over too soon
    assert pat.wait("mia", path="direct").code == 0
    until(lambda: knows_full_mtu(mia, pat), "the path is known to carry full packets", 20)
    transfer = Transfer(mia.host, pat.host, pat.overlay_ip(), LONG_FILE_BYTES, lab.directory)
    until(lambda: transfer.received_bytes > LONG_FILE_BYTES // 20, "a part of the file")
    if tells:
        pat.host.site.narrow(TUNNEL_MTU)
    else:
        pat.host.site.weather.make(replace(SLOW, mtu=TUNNEL_MTU))
    assert transfer.received_bytes < LONG_FILE_BYTES, "it was over before the line shrank"
    stall_s = longest_stall_s(transfer)
    sent = transfer.finish()
    kind = "told" if tells else "black hole"
    figure(f"path MTU: shrunk to {TUNNEL_MTU} in mid transfer ({kind}): longest stall {stall_s:.1f} s")
    assert sent.intact
    assert stall_s < SHRUNK_STALL_S
    # Nothing long went from pat to mia meanwhile: that way finds out by these very pings, as quickly as the other did.
    for here, there in ((mia, pat), (pat, mia)):
        assert pings_whole(here, there, here.status()["endpoint"]["mtu"], count=PINGS_IN_A_STALL), describe(mia, pat)


def knows_full_mtu(here: Endpoint, there: Endpoint) -> bool:
    peer = here.peer(there.name)
    return peer is not None and peer["path"] is not None and peer["path"]["mtu"] > 1400


def longest_stall_s(transfer: Transfer) -> float:
    """The longest time in which not a byte came in, while it runs."""
    longest, before, since = 0.0, -1, time.monotonic()
    while transfer.running:
        now = time.monotonic()
        if transfer.received_bytes != before:
            longest, before, since = max(longest, now - since), transfer.received_bytes, now
        time.sleep(0.02)
    return longest


def test_no_outer_packet_was_ever_cut_into_pieces(town: Town) -> None:
    """The last one of this file, for what the taps have heard all along."""
    for name, tap in town.taps.items():
        assert len(tap.frames) > 100, name
        assert tap.fragments() == 0, name
