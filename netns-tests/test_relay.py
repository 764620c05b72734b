"""A relay carries frames until there is something better, and again when there is not.

            ( internet )
       |           |            |        |         |         |         |        |
  [discovery,   [relay]      port-r.  carrier  symmetric symmetric   TCP 443 only
    relay]                      |        |       |   |     |   |       |        |
                               dan      eva    fin twin  gus twine    hal      ida

dan and eva could be direct: the internet keeps them apart where a test says so. fin and gus never can; twin and twine
neither, and send everything through two relays at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_path, await_reach, connect, describe, introduce
from fabric.lab.product import Daemon, Relay, until
from fabric.lab.stream import Counted, Stream
from fabric.lab.traffic import Pings, Transfer

FIRST_FRAME_S = 2.0
"""From the last statement of intent; a second, and what a program takes to start on a busy machine."""
DEAD_PATH_S = 3.0
FILE_BYTES = 10_000_000
KILLED_FILE_BYTES = 30_000_000
KILLED_FILE_BYTES_S = 10_000_000
"""What either relay carries without a queue: a file that takes all there is costs frames by itself, with both up."""
FAST = "relay_rate_bytes_s = 1000000000"

pytestmark = pytest.mark.timeout(180)


@dataclass
class Town:
    overlay: Overlay
    relay: Relay
    endpoints: dict[str, Endpoint]

    def __getitem__(self, name: str) -> Endpoint:
        return self.endpoints[name]

    def relays(self) -> dict[str, Daemon]:
        return {"the service": self.overlay.discovery, "the relay": self.relay}

    def bytes_at(self, which: str) -> int:
        """What a relay has passed on so far: one that has just started is sent to, and knows nobody yet."""
        return self.relays()[which].host.site.wan_counters().tx_bytes


@pytest.fixture(scope="module")
def town(lab: Lab) -> Town:
    host = lab.site("s-relay", Nat.PUBLIC).host("relay")
    overlay = Overlay(lab, configuration=f'{FAST}\nrelays = ["{host.ip}"]')
    relay = Relay(lab, host, overlay.discovery, configuration=FAST)
    relay.start()
    kinds = {
        "dan": Nat.PORT_RESTRICTED,
        "eva": Nat.CARRIER,
        "fin": Nat.SYMMETRIC,
        "gus": Nat.SYMMETRIC,
        "hal": Nat.WEB_ONLY,
        "ida": Nat.WEB_ONLY,
    }
    made = overlay.endpoints({name: lab.site(f"s-{name}", kind) for name, kind in kinds.items()})
    twins = {"twin": lab.sites["s-fin"], "twine": lab.sites["s-gus"]}
    made |= overlay.endpoints(twins, configuration="relay_copies = 2")
    return Town(overlay, relay, made)


def streams(one: Endpoint, other: Endpoint, per_second: int = 300) -> list[Stream]:
    """Numbered datagrams both ways."""
    ways = ((one, other), (other, one))
    return [
        Stream(here.host, there.host, there.overlay_ip(), per_second=per_second, payload_bytes=1000)
        for here, there in ways
    ]


def assert_nothing_lost(counts: list[Counted], *ends: Endpoint) -> None:
    for counted in counts:
        assert counted.received > 100
        assert (counted.lost, counted.doubled, counted.damaged) == (0, 0, 0), f"{counted}\n{describe(*ends)}"


# -- before, during and after punching --------------------------------------------------------------------------


@pytest.fixture
def parted(lab: Lab, town: Town) -> Iterator[tuple[Endpoint, Endpoint]]:
    """dan and eva, who can't reach each other but for the relays."""
    lab.part(town["dan"].host.site, town["eva"].host.site)
    yield town["dan"], town["eva"]
    lab.join()


def test_frames_flow_over_the_relay_from_the_first_second(
    town: Town, parted: tuple[Endpoint, Endpoint], figure: Callable[[str], None]
) -> None:
    dan, eva = parted
    pings = Pings(dan.host, eva.overlay_ip(), 0.02)
    introduce(dan, eva)
    stated = time.time()
    until(pings.answers_unix, "an answer", 20)
    first_s = pings.answers_unix()[0] - stated
    pings.finish()
    figure(f"relay: first frame {max(first_s, 0):.2f} s after the last intent, while punching goes on in vain")
    assert await_path(dan, eva, "relay-udp") < 20
    assert first_s < FIRST_FRAME_S


def test_the_move_to_a_direct_path_loses_and_doubles_no_frame(
    town: Town, parted: tuple[Endpoint, Endpoint], lab: Lab, figure: Callable[[str], None]
) -> None:
    dan, eva = parted
    await_path(dan, eva, "relay-udp")
    await_reach(dan, eva, 5)
    running = streams(dan, eva)
    until(lambda: all(len(stream.arrivals) > 100 for stream in running), "datagrams over the relay")
    lab.join()
    took_s = await_path(dan, eva, "direct-udp", within_s=90)
    until_more(running)
    counts = [stream.finish() for stream in running]
    lost, doubled, overtaken = (sum(getattr(count, of) for count in counts) for of in ("lost", "doubled", "overtaken"))
    sent = sum(count.sent for count in counts)
    told = f"{lost} lost, {doubled} doubled, {overtaken} overtaken of {sent} frames"
    figure(f"relay: upgrade to direct {took_s:.1f} s after it became possible: {told}")
    assert_nothing_lost(counts, dan, eva)


def until_more(running: list[Stream], datagrams: int = 300) -> None:
    marks = [len(stream.arrivals) for stream in running]
    until(
        lambda: all(len(stream.arrivals) > mark + datagrams for stream, mark in zip(running, marks, strict=True)),
        "more datagrams",
    )


def test_a_direct_path_that_dies_under_traffic_gives_way_to_the_relay_in_seconds(
    town: Town, lab: Lab, figure: Callable[[str], None]
) -> None:
    dan, eva = town["dan"], town["eva"]
    introduce(dan, eva)
    await_path(dan, eva, "direct-udp", within_s=60)
    running = streams(dan, eva)
    until(lambda: all(len(stream.arrivals) > 100 for stream in running), "datagrams on the direct path")
    lab.part(dan.host.site, eva.host.site)
    try:
        await_path(dan, eva, "relay-udp")
        until_more(running)
    finally:
        lab.join()
    gap_s = max(count.longest_gap_s for count in [stream.finish() for stream in running])
    figure(f"relay: direct path dead under traffic: {gap_s:.2f} s without a frame")
    assert gap_s < DEAD_PATH_S


# -- where there is nothing else --------------------------------------------------------------------------------


def test_two_networks_with_only_tcp_443_exchange_a_file(town: Town, lab: Lab, figure: Callable[[str], None]) -> None:
    hal, ida = town["hal"], town["ida"]
    introduce(hal, ida)
    await_path(hal, ida, "relay-tls")
    sent = Transfer(hal.host, ida.host, ida.overlay_ip(), FILE_BYTES, lab.directory).finish()
    running = streams(hal, ida)
    until_more(running)
    figure(f"relay: over TLS: {sent.mbit_per_s:.0f} Mbit/s")
    assert sent.intact
    assert_nothing_lost([stream.finish() for stream in running], hal, ida)


def test_a_relay_beside_a_direct_path_and_two_copies_beside_one(
    town: Town, lab: Lab, figure: Callable[[str], None]
) -> None:
    connect(town["dan"], town["eva"], timeout_s=60)
    for pair in (("fin", "gus"), ("twin", "twine")):
        introduce(town[pair[0]], town[pair[1]])
        await_path(town[pair[0]], town[pair[1]], "relay-udp")
    speeds = {}
    for what, (one, other) in {"direct": ("dan", "eva"), "relay": ("fin", "gus"), "two": ("twin", "twine")}.items():
        sent = Transfer(town[one].host, town[other].host, town[other].overlay_ip(), FILE_BYTES, lab.directory).finish()
        assert sent.intact
        speeds[what] = sent.mbit_per_s
    told = f"direct {speeds['direct']:.0f}, one relay {speeds['relay']:.0f}, two copies {speeds['two']:.0f}"
    figure(f"relay: throughput in Mbit/s: {told}")


def test_a_relay_that_is_killed_is_replaced_by_another(town: Town, figure: Callable[[str], None]) -> None:
    fin, gus = town["fin"], town["gus"]
    introduce(fin, gus)
    await_path(fin, gus, "relay-udp")
    running = streams(fin, gus)
    until_more(running)
    which = "the relay" if in_use(town, fin, gus) == town.relay.host.ip else "the service"
    town.relays()[which].kill()
    until_more(running)
    gap_s = max(count.longest_gap_s for count in [stream.finish() for stream in running])
    town.relays()[which].start()
    figure(f"relay: the one relay in use killed: {gap_s:.2f} s without a frame")
    assert gap_s < DEAD_PATH_S


def in_use(town: Town, here: Endpoint, there: Endpoint) -> str:
    """The IP address of the relay that a path goes over."""
    peer = here.peer(there.name)
    assert peer is not None
    return str(peer["path"]["remote"]).rpartition(":")[0]


# -- two copies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", ["the relay", "the service"])
def test_with_two_copies_either_relay_may_be_killed_and_not_a_frame_is_lost(
    town: Town, lab: Lab, victim: str, figure: Callable[[str], None]
) -> None:
    twin, twine = town["twin"], town["twine"]
    introduce(twin, twine)
    await_path(twin, twine, "relay-udp")
    await_reach(twin, twine, 10)
    running = streams(twin, twine)
    await_both_in_use(town)
    transfer = Transfer(
        twin.host, twine.host, twine.overlay_ip(), KILLED_FILE_BYTES, lab.directory, KILLED_FILE_BYTES_S
    )
    until(lambda: transfer.received_bytes > KILLED_FILE_BYTES // 10, "a part of the file")
    town.relays()[victim].kill()
    assert transfer.received_bytes < KILLED_FILE_BYTES, "it was over before the relay was killed"
    sent = transfer.finish()
    until_more(running)
    counts = [stream.finish() for stream in running]
    town.relays()[victim].start()
    total = sum(count.sent for count in counts)
    lost = sum(count.lost for count in counts)
    figure(f"relay: two copies, {victim} killed: {lost} of {total} frames lost, file at {sent.mbit_per_s:.0f} Mbit/s")
    assert sent.intact
    assert_nothing_lost(counts, twin, twine)


def await_both_in_use(town: Town) -> None:
    """Returns when both relays carry a part of what is on its way that is more than keepalive."""
    before = {which: town.bytes_at(which) for which in town.relays()}
    until(
        lambda: all(town.bytes_at(which) - before[which] > 500_000 for which in town.relays()),
        "both relays carry the stream",
        30,
    )
