"""Restarts, moves, sleep, and the ends of sessions, certificates and wishes: back by itself, or gone at once."""

from __future__ import annotations

import pytest

from fabric.core.settings import Settings
from fabric.core.status import PeerState
from fabric.wire.rendezvous import Renewed, ToEndpoint
from tests.sim.conftest import watched
from tests.sim.endpoint import Endpoint
from tests.sim.nat import Behaviour, PortChoice
from tests.sim.place import Access
from tests.sim.world import World

BACK_WITHIN_S = 10.0

HARD_NAT = Behaviour(lifetime_s=30.0, inbound_refreshes=False, port_choice=PortChoice.RANDOM)
"""The shortest mapping that facts.md knows, refreshed from inside only."""


def connected_pair(
    world: World, one: Access = Access.PORT_RESTRICTED, other: Access = Access.CARRIER
) -> tuple[Endpoint, Endpoint]:
    alpha, beta = world.pair(one, other)
    world.until_connected((alpha, beta))
    world.until_frames_pass(alpha, beta)
    return alpha, beta


def disconnections(world: World, alpha: Endpoint, beta: Endpoint, for_s: float, step_s: float = 1.0) -> int:
    """How many samples, `step_s` apart, saw either side not connected."""
    lost = 0
    for _ in range(int(for_s / step_s)):
        world.run_for(step_s)
        lost += alpha.path_to(beta) is None or beta.path_to(alpha) is None
    return lost


# restarts


@pytest.mark.parametrize("who", ["alpha", "beta"])
@pytest.mark.parametrize("is_service_up", [True, False], ids=["with service", "without service"])
def test_a_killed_endpoint_is_back_by_itself(world: World, who: str, is_service_up: bool) -> None:
    alpha, beta = connected_pair(world)
    if not is_service_up:
        world.go_dark()
    victim = alpha if who == "alpha" else beta
    victim.kill()
    world.run_for(2.0)
    victim.start()
    world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)


def test_both_endpoints_killed_at_once_find_each_other_without_the_service(world: World) -> None:
    alpha, beta = connected_pair(world)
    world.go_dark()
    alpha.kill()
    beta.kill()
    world.run_for(5.0)
    alpha.start()
    beta.start()
    world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)


def test_a_stopped_endpoint_says_so_and_its_peer_sees_it_at_once(world: World) -> None:
    alpha, beta = connected_pair(world)
    beta.stop()
    world.run_for(0.5)
    assert alpha.state_of(beta) is not PeerState.CONNECTED
    world.run_for(60.0)
    beta.start()
    world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)


def test_a_peer_that_vanishes_is_not_called_connected_for_long(world: World) -> None:
    alpha, beta = connected_pair(world)
    beta.host.cut(up=False)
    world.until(lambda: alpha.state_of(beta) is not PeerState.CONNECTED, within_s=20.0)
    beta.host.cut(up=True)
    world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)


def test_running_sessions_do_not_notice_that_the_service_is_gone(world: World) -> None:
    alpha, beta = connected_pair(world)
    world.go_dark()
    assert disconnections(world, alpha, beta, for_s=600.0) == 0
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_endpoints_that_started_before_the_service_meet_when_it_comes(world: World) -> None:
    world.go_dark()
    alpha, beta = world.pair(Access.PORT_RESTRICTED, Access.FULL_CONE)
    world.run_for(30.0)
    world.come_back()
    world.until_connected((alpha, beta), within_s=20.0)


# moves


def test_a_roaming_laptop_is_back_in_seconds(world: World) -> None:
    alpha, beta = connected_pair(world)
    for access in (Access.FULL_CONE, Access.PUBLIC, Access.CARRIER):
        alpha.sit(world.atlas.make(access))
        world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)


def test_a_laptop_that_comes_home_finds_its_lan(world: World) -> None:
    home = world.atlas.make(Access.PORT_RESTRICTED)
    alpha, beta = world.pair(world.atlas.make(Access.FULL_CONE), home)
    world.until_connected((alpha, beta))
    alpha.sit(home)
    world.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is world.expected_kind(alpha, beta), within_s=15.0)
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_both_ends_move_at_once(world: World) -> None:
    alpha, beta = connected_pair(world)
    alpha.sit(world.atlas.make(Access.PORT_RESTRICTED))
    beta.sit(world.atlas.make(Access.PORT_RESTRICTED))
    world.until_frames_pass(alpha, beta, within_s=20.0)


@pytest.mark.parametrize("access", [Access.FULL_CONE, Access.PORT_RESTRICTED, Access.CARRIER])
def test_a_rebooted_nat_costs_seconds(world: World, access: Access) -> None:
    alpha, beta = connected_pair(world, access, access)
    assert alpha.place is not None
    alpha.place.reboot_routers()
    alpha.lose_line()
    world.until_frames_pass(alpha, beta, within_s=30.0)


def test_a_nat_that_reboots_again_and_again_costs_seconds_each_time(relayed_world: World) -> None:
    """Each time under another address, so that the relay takes back the channel, and right after the last trouble."""
    world = relayed_world
    alpha, beta = connected_pair(world, Access.CARRIER, Access.PORT_RESTRICTED)
    assert alpha.place is not None
    for _ in range(6):
        alpha.place.renumber(world.atlas.public_ip())
        alpha.lose_line()
        world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)
        world.run_for(1.0)


def test_a_nat_that_gets_another_address_costs_seconds(world: World) -> None:
    alpha, beta = connected_pair(world, Access.FULL_CONE, Access.PORT_RESTRICTED)
    assert alpha.place is not None
    alpha.place.renumber(world.atlas.public_ip())
    alpha.lose_line()
    world.until_frames_pass(alpha, beta, within_s=30.0)


def test_an_idle_pair_keeps_its_mappings_of_30_seconds_open(world: World) -> None:
    places = [world.atlas.make(Access.PORT_RESTRICTED, behaviour=HARD_NAT) for _ in range(2)]
    alpha, beta = world.pair(*places)
    world.until_connected((alpha, beta))
    assert disconnections(world, alpha, beta, for_s=600.0) == 0
    first = alpha.send_frame(beta)
    world.run_for(0.5)
    assert first in {d.frame.number for d in world.witness.deliveries}


@pytest.mark.parametrize("sleepers", ["alpha", "beta", "both"])
def test_ten_minutes_of_sleep_are_over_in_seconds(world: World, sleepers: str) -> None:
    alpha, beta = connected_pair(world)
    asleep = [e for e in (alpha, beta) if sleepers in ("both", e.name.partition(".")[0])]
    for endpoint in asleep:
        endpoint.suspend()
    world.run_for(600.0)
    for endpoint in asleep:
        endpoint.resume()
    world.until_frames_pass(alpha, beta, within_s=BACK_WITHIN_S)


# ends


@pytest.mark.slow
def test_no_frame_is_lost_while_keys_change(world: World) -> None:
    settings = Settings(rekey_after_s=20.0)
    alpha = world.endpoint("alpha", Access.PORT_RESTRICTED, settings=settings)
    beta = world.endpoint("beta", Access.FULL_CONE, settings=settings)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.until_connected((alpha, beta))
    before = world.witness.handshakes.total()
    sent = set()
    for _ in range(2400):
        sent |= {alpha.send_frame(beta), beta.send_frame(alpha)}
        world.run_for(0.05)
    assert world.witness.handshakes.total() - before >= 10
    assert sent <= {d.frame.number for d in world.witness.deliveries}


@pytest.mark.slow
def test_an_idle_session_gets_new_keys_after_five_minutes(world: World) -> None:
    alpha, beta = connected_pair(world)
    before = world.witness.handshakes[alpha.name, beta.name]
    assert disconnections(world, alpha, beta, for_s=1250.0) == 0
    assert world.witness.handshakes[alpha.name, beta.name] - before in (4, 5)
    assert len(world.witness.sessions_of(alpha.name)) <= 2, "replaced keys are wiped"


@pytest.mark.slow
def test_a_session_in_use_gets_new_keys_after_two_minutes(world: World) -> None:
    alpha, beta = connected_pair(world)
    before = world.witness.handshakes[alpha.name, beta.name]
    for _ in range(500):
        alpha.send_frame(beta)
        world.run_for(1.0)
    assert world.witness.handshakes[alpha.name, beta.name] - before in (4, 5)


@pytest.mark.slow
def test_a_certificate_is_renewed_without_a_gap(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    world = watched(World(seed, certificate_life_s=600.0), monkeypatch)
    alpha, beta = connected_pair(world)
    first = {endpoint.name: endpoint.disk.certificate for endpoint in (alpha, beta)}
    sent = set()
    for _ in range(1800):
        sent |= {alpha.send_frame(beta), beta.send_frame(alpha)}
        world.run_for(1.0)
    assert sent <= {d.frame.number for d in world.witness.deliveries}
    assert all(endpoint.disk.certificate != first[endpoint.name] for endpoint in (alpha, beta))


def test_a_connection_ends_at_the_instant_when_a_certificate_does(hostile_world: World) -> None:
    def keep_back(message: ToEndpoint) -> ToEndpoint | None:
        return None if isinstance(message, Renewed) else message

    world = hostile_world
    world.site.rewrite = keep_back
    world.office.life_s = 400.0
    alpha = world.endpoint("alpha", Access.PUBLIC)
    world.office.life_s = 10_000.0
    beta = world.endpoint("beta", Access.PUBLIC)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.until_connected((alpha, beta))
    ends = world.calendar.instant(world.discovery.certificate_of(alpha.name).not_after)
    world.schedule.run_until(ends - 1.0)
    assert alpha.path_to(beta) is not None
    world.schedule.run_until(ends + 0.001)
    assert alpha.path_to(beta) is beta.path_to(alpha) is None
    assert world.witness.sessions_of(alpha.name) == world.witness.sessions_of(beta.name) == []
    world.stays_apart(alpha, beta, for_s=60.0)


@pytest.mark.slow
def test_a_revoked_peer_is_out_at_once_and_stays_out(world: World) -> None:
    alpha, beta = connected_pair(world)
    world.revoke(beta)
    world.run_for(0.5)
    assert alpha.path_to(beta) is beta.path_to(alpha) is None
    world.stays_apart(alpha, beta, for_s=120.0)


def test_a_revocation_is_remembered_over_a_restart_without_the_service(world: World) -> None:
    alpha, beta = connected_pair(world)
    world.revoke(beta)
    world.run_for(1.0)
    world.site.go_down()
    alpha.kill()
    alpha.start()
    world.stays_apart(alpha, beta, for_s=60.0)


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_a_removed_peer_is_gone_at_once_on_both_sides_and_may_come_back(world: World, who: str) -> None:
    alpha, beta = connected_pair(world)
    one, other = (alpha, beta) if who == "alpha" else (beta, alpha)
    one.remove(other.name)
    world.run_for(0.2)
    assert one.state_of(other) is None
    assert other.path_to(one) is None
    assert world.witness.sessions_of(one.name) == world.witness.sessions_of(other.name) == []
    world.stays_apart(alpha, beta, for_s=30.0)
    one.add(other.name)
    world.until_frames_pass(alpha, beta)


@pytest.mark.parametrize("is_service_up", [True, False], ids=["with service", "without service"])
def test_a_removal_outlives_a_restart(world: World, is_service_up: bool) -> None:
    alpha, beta = connected_pair(world)
    if not is_service_up:
        world.site.go_down()
    alpha.remove(beta.name)
    alpha.kill()
    world.run_for(1.0)
    alpha.start()
    world.site.come_back()
    world.stays_apart(alpha, beta, for_s=60.0)
    assert not world.discovery.holds_intent(alpha.name, beta.name)


@pytest.mark.parametrize("who", ["alpha", "beta"])
def test_a_disabled_peer_comes_back_when_it_is_enabled(world: World, who: str) -> None:
    alpha, beta = connected_pair(world)
    one, other = (alpha, beta) if who == "alpha" else (beta, alpha)
    one.disable(other.name)
    world.run_for(0.2)
    assert one.state_of(other) is PeerState.DISABLED
    assert other.path_to(one) is None
    one.kill()
    one.start()
    world.stays_apart(alpha, beta, for_s=30.0)
    one.enable(other.name)
    world.until_frames_pass(alpha, beta)


def test_a_pinned_fingerprint_that_fits_is_shown_as_verified(world: World) -> None:
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.FIREWALL)
    alpha.add(beta.name, world.discovery.certificate_of(beta.name).fingerprint)
    beta.add(alpha.name)
    world.until_connected((alpha, beta))
    assert alpha.status()[beta.name].verified
    assert not beta.status()[alpha.name].verified


def test_a_pinned_fingerprint_that_does_not_fit_keeps_them_apart(world: World) -> None:
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.FIREWALL)
    alpha.add(beta.name, world.discovery.certificate_of(alpha.name).fingerprint)
    beta.add(alpha.name)
    world.stays_apart(alpha, beta, for_s=30.0)
    assert "fingerprint" in alpha.status()[beta.name].why


def test_clocks_may_differ_by_minutes(world: World) -> None:
    alpha = world.endpoint("alpha", Access.PORT_RESTRICTED, clock_error_s=-120.0)
    beta = world.endpoint("beta", Access.FULL_CONE, clock_error_s=120.0)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.until_connected((alpha, beta))


def test_a_ping_comes_back_over_the_session_with_its_round_trip(world: World) -> None:
    alpha, beta = connected_pair(world, Access.PUBLIC, Access.PUBLIC)
    assert alpha.ping(beta.name, 77)
    world.run_for(1.0)
    pong = alpha.pongs()[-1]
    assert (pong.peer, pong.token) == (beta.name, 77)
    assert 0.039 < pong.rtt_s < 0.06
