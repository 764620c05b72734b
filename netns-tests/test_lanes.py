"""Both lanes where it is not easy: lines that lose and lines that are narrow, floods, other ways, and a sudden end.

( internet )----[discovery]
   |       |        |
 public  port-r.  no UDP
   |       |        |
  ann     bob    cay, dan     ann and bob over either lane, the others over the native one
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_connected, await_path, await_reach, introduce, start_all
from fabric.lab.product import until
from fabric.lab.traffic import Transfer, Transferred
from fabric.lab.wiretap import Wiretap

FILE_BYTES = 20_000_000
NARROW_MTU = 1280
IP_AND_UDP_BYTES = 28
FLOOD_S = 1.5
TINY, FLOOD_PORT = b"tiny", 9999
STOPPED_WITHIN_S = 2.0

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    places = {"ann": lab.site("s-ann", Nat.PUBLIC), "bob": lab.site("s-bob", Nat.PORT_RESTRICTED)}
    made = overlay.endpoints(places)
    introduce(*made.values())
    return made


@pytest.fixture(scope="module", params=["native", "reference"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def pair(lane: str, people: dict[str, Endpoint]) -> tuple[Endpoint, Endpoint]:
    ann, bob = people["ann"], people["bob"]
    for endpoint in (ann, bob):
        endpoint.stop()
        endpoint.carry_by(lane)
    start_all((ann, bob))
    await_connected(ann, bob)
    return ann, bob


def test_status_tells_the_lane_and_who_provides_its_ciphers(pair: tuple[Endpoint, Endpoint], lane: str) -> None:
    told = pair[0].status()["endpoint"]
    provider = {"native": ("OpenSSL", "libsodium"), "reference": ("cryptography",)}[lane]
    assert told["lane"] == lane
    assert str(told["cipher_provider"]).startswith(provider)
    shown = " ".join(pair[0].command("status").must().output.split())
    assert f"{lane} lane" in shown
    assert str(told["cipher_provider"]) in shown


# -- lines ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per_mille", [10, 50])
def test_a_file_arrives_where_datagrams_are_lost_and_only_what_was_lost_is_missed(
    pair: tuple[Endpoint, Endpoint], lab: Lab, per_mille: int, lane: str, figure: Callable[[str], None]
) -> None:
    ann, bob = pair
    before = drops(bob, ann)
    lab.lose(per_mille)
    try:
        file = sent(lab, ann, bob, FILE_BYTES)
    finally:
        lab.lose(0)
    assert file.intact
    figure(f"lanes: {lane}, {per_mille / 10:g} % of the datagrams lost: {file.mbit_per_s:.0f} Mbit/s")
    time.sleep(1.2)  # what waits for a lost slice is given up after a second
    after = drops(bob, ann)
    given_up = after.pop("reassembly", 0) - before.pop("reassembly", 0)
    assert given_up < 2 * FILE_BYTES / NARROW_MTU * per_mille / 1000
    assert after == before


def drops(here: Endpoint, there: Endpoint) -> dict[str, int]:
    told = here.peer(there.name)
    assert told is not None
    return dict(told["drops"])


def test_a_line_that_is_narrow_carries_super_frames_in_what_fits(pair: tuple[Endpoint, Endpoint], lab: Lab) -> None:
    """It became so while nobody sent: the first frames are lost, then the endpoints have found out by themselves."""
    ann, bob = pair
    bob.host.site.narrow(NARROW_MTU)
    try:
        until(lambda: sent(lab, ann, bob, 100_000).intact and is_narrow(ann, bob), "the length that fits")
        before = ann.host.namespace.counters("fabric0").tx_packets
        with Wiretap(lab, bob.host.site) as tap:
            assert sent(lab, ann, bob, FILE_BYTES // 4).intact
        assert ann.host.namespace.counters("fabric0").tx_packets - before < FILE_BYTES / 4 / NARROW_MTU / 2
        assert max(len(each.payload) for each in tap.datagrams()) + IP_AND_UDP_BYTES <= NARROW_MTU
        assert tap.fragments() == 0
    finally:
        bob.host.site.narrow(1500)


def sent(lab: Lab, sender: Endpoint, receiver: Endpoint, length: int) -> Transferred:
    return Transfer(sender.host, receiver.host, receiver.overlay_ip(), length, lab.directory).finish()


def is_narrow(here: Endpoint, there: Endpoint) -> bool:
    told = here.peer(there.name)
    return told is not None and told["path"] is not None and told["path"]["mtu"] + IP_AND_UDP_BYTES <= NARROW_MTU


# -- floods and ends --------------------------------------------------------------------------------------------


def test_a_flood_of_tiny_frames_holds_up_nobody_for_long(
    pair: tuple[Endpoint, Endpoint], lane: str, figure: Callable[[str], None]
) -> None:
    """What is too much is dropped; the command line is answered all the while, and frames pass at once behind it."""
    ann, bob = pair
    before = bob.host.namespace.counters("fabric0").rx_packets
    with flooded(ann, bob, 1) as counts:
        time.sleep(FLOOD_S)
        assert bob.peer("ann") is not None
        assert ann.peer("bob") is not None
    came = bob.host.namespace.counters("fabric0").rx_packets - before
    figure(f"lanes: {lane}: of {sum(counts):,} tiny frames in {FLOOD_S:g} s and the questions {came:,} arrived")
    assert came > 1000
    assert ann.reaches(bob.overlay_ip(), within_s=1)
    assert bob.reaches(ann.overlay_ip(), within_s=1)


@contextmanager
def flooded(one: Endpoint, other: Endpoint, threads: int) -> Iterator[list[int]]:
    """So many threads send, while the block lasts, as fast as the kernel lets them; how many it let counts up."""
    done, counts, to = threading.Event(), [0] * threads, (other.overlay_ip(), FLOOD_PORT)

    def flood(number: int) -> None:
        with one.host.namespace.inside(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as sender:
            while not done.is_set():
                try:
                    for _ in range(100):
                        sender.sendto(TINY, to)
                    counts[number] += 100
                except OSError:  # the device is gone
                    return

    sending = [threading.Thread(target=flood, args=(number,)) for number in range(threads)]
    for thread in sending:
        thread.start()
    try:
        yield counts
    finally:
        done.set()
        for thread in sending:
            thread.join()


def test_daemons_under_full_load_end_when_they_are_told_to(pair: tuple[Endpoint, Endpoint]) -> None:
    """The one that receives first, while the other still has it for a peer; then that one, in the midst of sending."""
    ann, bob = pair
    with flooded(ann, bob, 2):
        time.sleep(0.5)
        ends = [ended(endpoint) for endpoint in (bob, ann)]
    assert [code for code, _ in ends] == [0, 0]
    assert max(took_s for _, took_s in ends) < STOPPED_WITHIN_S
    assert not any(endpoint.host.namespace.has_device("fabric0") for endpoint in pair)
    start_all(pair)
    await_reach(ann, bob, 15)


def ended(endpoint: Endpoint) -> tuple[int, float]:
    """Its exit code, and how long it took from SIGTERM to the end."""
    started = time.monotonic()
    return endpoint.stop(), time.monotonic() - started


def test_a_peer_that_was_killed_under_load_comes_back(pair: tuple[Endpoint, Endpoint]) -> None:
    ann, bob = pair
    with flooded(ann, bob, 1):
        time.sleep(0.3)
        bob.kill()
        assert not bob.host.namespace.has_device("fabric0")
        bob.start()
        await_reach(ann, bob, 15)


def test_a_daemon_whose_device_is_taken_away_ends(pair: tuple[Endpoint, Endpoint]) -> None:
    ann, bob = pair
    ann.process.lasting = False
    ann.host.namespace.remove_device("fabric0")
    assert ann.process.wait() > 0
    ann.start()
    await_reach(ann, bob, 15)


# -- other ways -------------------------------------------------------------------------------------------------


def test_files_cross_by_tcp_which_the_threads_of_the_native_lane_leave_to_others(
    overlay: Overlay, lab: Lab, figure: Callable[[str], None]
) -> None:
    """Relays are the same to them: those are `test_relay`'s."""
    made = overlay.endpoints({name: lab.site(f"s-{name}", Nat.UDP_BLOCKED) for name in ("cay", "dan")})
    cay, dan = made.values()
    introduce(cay, dan)
    await_path(cay, dan, "direct-tcp")
    for sender, receiver in ((cay, dan), (dan, cay)):
        file = sent(lab, sender, receiver, FILE_BYTES // 5)
        figure(f"lanes: native: by TCP: {file.mbit_per_s:.0f} Mbit/s")
        assert file.intact
