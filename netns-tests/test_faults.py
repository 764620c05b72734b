"""Whatever the line does to packets: two endpoints connect, and what arrives is whole, once, and what was sent.

    ( internet )----[discovery]
       ||                  |
      (sky)                |
       ||                  |
    port-restricted     full cone
       ||                  |
      ida                 jon

ida's line loses, delays, doubles, reorders and damages packets, all of them both ways: also those of discovery.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from fabric.lab import CALM, Endpoint, Lab, Nat, Overlay, Weather
from fabric.lab.overlay import await_reach, connect
from fabric.lab.stream import Stream
from fabric.lab.traffic import Transfer, Transferred

CONNECTED_WITHIN_S = 30.0
PATIENCE_S = {"loses 30 %": 60.0}
"""Of seven datagrams of a handshake, and two pings each way, all have to arrive: 2 s as a rule, 25 s at worst of 34."""
STREAMED_S = 2.0
PER_SECOND = 100

WEATHER = {
    "loses 1 %": Weather(loss=0.01),
    "loses 5 %": Weather(loss=0.05),
    "loses 30 %": Weather(loss=0.30),
    "takes 100 ms with jitter": Weather(delay_s=0.1, jitter_s=0.02),
    "takes 100 ms and reorders": Weather(delay_s=0.1, jitter_s=0.02, reorders=True),
    "doubles every fifth": Weather(duplication=0.2),
    "damages every twentieth": Weather(corruption=0.05),
    "damages beyond any checksum": Weather(corruption=0.02, repairs_checksum=True),
    "does all of it": Weather(0.02, 0.05, 0.01, True, 0.05, 0.01),
}
FILE_BYTES = {"loses 30 %": 8_000, "loses 5 %": 500_000}
USUAL_FILE_BYTES = 2_000_000

pytestmark = pytest.mark.timeout(200)


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    places = {
        "ida": lab.site("s-ida", Nat.PORT_RESTRICTED, weather=True),
        "jon": lab.site("s-jon", Nat.FULL_CONE),
    }
    made = overlay.endpoints(places)
    connect(*made.values())
    return made["ida"], made["jon"]


@pytest.fixture(params=WEATHER, ids=lambda name: name.replace(" ", "-"))
def weather(pair: tuple[Endpoint, Endpoint], request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of the weather that there is during the test. ida begins it without any connection."""
    pair[0].kill()
    pair[0].host.site.weather.make(WEATHER[request.param])
    yield request.param
    pair[0].host.site.weather.make(CALM)


def test_two_endpoints_connect_and_what_arrives_is_whole_and_comes_once(
    pair: tuple[Endpoint, Endpoint], weather: str, lab: Lab, figure: Callable[[str], None]
) -> None:
    ida, jon = pair
    started = time.monotonic()
    ida.start()
    await_reach(ida, jon, PATIENCE_S.get(weather, CONNECTED_WITHIN_S))
    took_s = time.monotonic() - started
    streams = [stream(ida, jon), stream(jon, ida)]
    time.sleep(STREAMED_S)
    counts = [each.finish() for each in streams]
    sent = send_file(pair, weather, lab)
    lost = ", ".join(f"{count.lost / count.sent:.1%}" for count in counts)
    figure(f"fault: a line that {weather}: back after {took_s:.1f} s, {sent.mbit_per_s:.2f} Mbit/s, lost {lost}")
    for count in counts:
        assert count.received > 0
        assert (count.doubled, count.damaged) == (0, 0)
        assert count.lost / count.sent <= WEATHER[weather].loss + WEATHER[weather].corruption + 0.1
    assert sent.intact


def stream(sender: Endpoint, receiver: Endpoint) -> Stream:
    return Stream(sender.host, receiver.host, receiver.overlay_ip(), per_second=PER_SECOND, payload_bytes=1000)


def send_file(pair: tuple[Endpoint, Endpoint], weather: str, lab: Lab) -> Transferred:
    ida, jon = pair
    length = FILE_BYTES.get(weather, USUAL_FILE_BYTES)
    return Transfer(ida.host, jon.host, jon.overlay_ip(), length, lab.directory).finish(90)
