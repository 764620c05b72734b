"""Daemons that strangers flood: who belongs there is heard all the same, also who was never heard before.

( internet )----[discovery]
  |     |    \\---------[router: symmetric]----mover     comes from ports that nobody can foretell
  |     |
home  flooder           both public: no router keeps the flood away
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fabric.lab import Endpoint, Host, Lab, Nat, Overlay, Site
from fabric.lab.overlay import connect
from fabric.lab.product import until
from tests.bench import barrage, garbage

PORT = 41_000
A_SECOND = 20_000
"""Ten times what is a flood, and little for the machine that carries it all."""

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module", params=["native", "reference"])
def lane(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def flooder(lab: Lab) -> Host:
    return lab.site("flood", Nat.PUBLIC).host("flooder")


@pytest.fixture(scope="module")
def home(lab: Lab, overlay: Overlay, lane: str) -> Endpoint:
    configuration = f'port = {PORT}\nlane = "{lane}"\n'
    return overlay.endpoint(f"home-{lane}", lab.site(f"home-{lane}", Nat.PUBLIC), configuration=configuration)


@pytest.fixture(scope="module")
def away(lab: Lab, lane: str) -> Site:
    return lab.site(f"away-{lane}", Nat.SYMMETRIC)


@pytest.fixture(scope="module")
def mover(overlay: Overlay, away: Site, lane: str) -> Endpoint:
    return overlay.endpoint(f"mover-{lane}", away)


@contextmanager
def flooding(lab: Lab, flooder: Host, home: Endpoint, payloads: list[bytes]) -> Iterator[None]:
    """Holds while strangers' datagrams are dropped unread; the flood is still on at the end."""
    path = Path(lab.directory, "garbage")
    barrage.write_payloads(path, payloads)
    before = unread(home)
    words = ("-S", barrage.__file__, str(path), home.host.ip, str(PORT), "600", str(A_SECOND))
    sender = flooder.start(sys.executable, *words, log="barrage.log")
    try:
        until(lambda: unread(home) > before, "the flood is dropped unread")
        yield
        before = unread(home)
        until(lambda: unread(home) > before + A_SECOND / 10, "the flood goes on")
    finally:
        sender.terminate()


def unread(endpoint: Endpoint) -> int:
    return int(endpoint.status()["endpoint"]["drops"].get("unread", 0))


def test_in_a_flood_two_who_never_met_find_a_direct_path(
    lab: Lab, flooder: Host, home: Endpoint, mover: Endpoint
) -> None:
    with flooding(lab, flooder, home, [*garbage.noise(), *garbage.data_unknown(), *garbage.gated_unknown()]):
        connect(home, mover)
        assert home.reaches(mover.overlay_ip(), count=5, within_s=5)


def test_in_a_flood_a_peer_is_followed_to_another_address(
    lab: Lab, flooder: Host, home: Endpoint, mover: Endpoint, away: Site
) -> None:
    connect(home, mover)
    seen = str((home.peer(mover.name) or {})["path"]["remote"])
    with flooding(lab, flooder, home, [*garbage.noise(), *garbage.gated_unknown()]):
        away.move_mappings()
        until(lambda: remote(home, mover) not in {"", seen}, "the peer at another address")
        until(lambda: home.reaches(mover.overlay_ip(), count=5, within_s=5), "all of five echoes from there")


def remote(one: Endpoint, other: Endpoint) -> str:
    path = (one.peer(other.name) or {}).get("path")
    return str(path["remote"]) if path else ""
