"""A pair of endpoints over every pair of places: direct exactly where the oracle says, by the path it says."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from fabric.core.events import PathChanged
from fabric.core.status import PathKind
from fabric.wire.datagram import DatagramKind, classify
from tests.sim.endpoint import Endpoint
from tests.sim.link import Packet, Quality
from tests.sim.nat import Behaviour, Filtering, PortChoice
from tests.sim.place import NATS, Access, Place
from tests.sim.world import World

HOPELESS_S = 45.0
"""Long enough for every candidate pair to have been tried several times."""

DIRECT_WITHIN_S = {PathKind.DIRECT_UDP: 60.0, PathKind.DIRECT_TCP: 30.0}
PREDICTION_DATAGRAMS = 1500
GUESSING_DATAGRAMS = 12_000
QUIET_MOVES = 4
"""In a quarter of an hour at half a percent of loss: some row of probes gets lost, and the pair comes back."""

MAX_HITS = 4
"""Several guesses of one batch may hit."""

HOPELESS_DATAGRAMS = 20_000
"""Four rounds of 2,000 guesses, and of 256 sockets that send three times each, with what else is tried."""

IDLE_SEARCH_A_SECOND = 16.0


@pytest.mark.slow
@pytest.mark.parametrize(("one", "other"), list(itertools.product(Access, Access)), ids=lambda a: a.value)
def test_a_pair_ends_up_on_the_path_that_the_oracle_says(world: World, one: Access, other: Access) -> None:
    alpha, beta = world.pair(one, other)
    expected = world.expected_kind(alpha, beta)
    if expected is None:
        world.stays_apart(alpha, beta, for_s=HOPELESS_S)
        return
    world.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is expected, within_s=DIRECT_WITHIN_S[expected])
    world.until_frames_pass(alpha, beta, within_s=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("stride", [-3, 1, 2, 7])
def test_a_nat_that_gives_ports_in_a_row_is_opened_by_prediction_also_while_others_take_ports(
    world: World, stride: int
) -> None:
    behaviour = replace(NATS[Access.SEQUENTIAL], stride=stride, others_a_second=5.0)
    place = world.atlas.make(Access.SEQUENTIAL, behaviour=behaviour)
    alpha, beta = world.pair(place, Access.PORT_RESTRICTED)
    world.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is PathKind.DIRECT_UDP, within_s=15.0)
    sent = datagrams_between(alpha, beta)
    assert sent < PREDICTION_DATAGRAMS, f"{sent} datagrams"


@pytest.mark.slow
@pytest.mark.parametrize("attempt", range(8))
def test_guessing_takes_no_more_than_is_allowed(world: World, attempt: int) -> None:
    alpha, beta = world.pair(Access.SYMMETRIC, Access.PORT_RESTRICTED)
    world.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is PathKind.DIRECT_UDP, within_s=60.0)
    assert datagrams_between(alpha, beta) < GUESSING_DATAGRAMS
    world.run_for(30.0)
    assert alpha.edge.extra_sockets <= MAX_HITS, "only sockets that hit are kept"
    assert beta.edge.extra_sockets == 0


@pytest.mark.slow
@pytest.mark.parametrize("access", [Access.SYMMETRIC, Access.SEQUENTIAL], ids=lambda a: a.value)
@pytest.mark.parametrize("lifetime_s", [30.0, 60.0])
def test_a_pair_that_was_opened_by_guessing_stays_open_and_quiet(
    relayed_world: World, access: Access, lifetime_s: float
) -> None:
    """The other ports that were hit die with their mappings, and nobody moves to one of them."""
    world = relayed_world
    line = Quality(latency_s=0.02, jitter_s=0.005, loss=0.005)
    behaviour = replace(NATS[access], lifetime_s=lifetime_s)
    alpha, beta = world.pair(world.atlas.make(access, behaviour=behaviour, uplink=line), Access.PORT_RESTRICTED)
    moves: list[float] = []
    for endpoint in (alpha, beta):
        endpoint.watch = lambda event: moves.append(world.now) if isinstance(event, PathChanged) else None
    world.until_best(alpha, beta, within_s=60.0)
    world.run_for(60.0)
    settled = len(moves)
    world.run_for(900.0)
    assert world.is_best(alpha, beta)
    assert len(moves) - settled <= QUIET_MOVES


@pytest.mark.slow
def test_guessing_that_can_not_succeed_ends(world: World) -> None:
    """The symmetric NAT drops what comes from the peer, as one does whose outside address a server can't tell."""
    alpha, beta = world.endpoint("alpha", Access.SYMMETRIC), world.endpoint("beta", Access.PORT_RESTRICTED)
    assert alpha.place is not None
    alpha.place.routers[-1].deaf_to.add(beta.outside_ip)
    alpha.add(beta.name)
    beta.add(alpha.name)
    world.run_for(600.0)
    before = datagrams_between(alpha, beta)
    assert before < HOPELESS_DATAGRAMS
    world.run_for(300.0)
    assert datagrams_between(alpha, beta) - before < 300.0 * IDLE_SEARCH_A_SECOND
    assert alpha.edge.extra_sockets == beta.edge.extra_sockets == 0


def datagrams_between(one: Endpoint, other: Endpoint) -> int:
    """What the two have spent on each other so far."""
    return one.host.sent_to[other.outside_ip] + other.host.sent_to[one.outside_ip]


@pytest.mark.parametrize("access", [a for a in Access if a.is_nat], ids=lambda a: a.value)
def test_two_hosts_behind_one_nat_use_their_lan_and_send_nothing_to_each_other_over_the_wan(
    world: World, access: Access
) -> None:
    place = world.atlas.make(access)
    alpha, beta = world.pair(place, place)
    world.until_connected((alpha, beta))
    world.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is PathKind.LAN, within_s=2.0)
    overheard: list[Packet] = []
    world.record_traffic(overheard)
    world.until_frames_pass(alpha, beta, within_s=1.0)
    world.run_for(30.0)
    assert not [packet for packet in overheard if classify(packet.payload) is DatagramKind.DATA]


def test_neighbours_behind_a_hairpinning_nat_end_up_on_the_lan_too(world: World) -> None:
    behaviour = Behaviour(filtering=Filtering.ENDPOINT_INDEPENDENT, hairpin=True)
    place = world.atlas.make(Access.FULL_CONE, behaviour=behaviour)
    alpha, beta = world.pair(place, place)
    world.until(lambda: alpha.path_to(beta) is beta.path_to(alpha) is PathKind.LAN, within_s=10.0)


@pytest.mark.parametrize("hairpin", [True, False])
def test_houses_behind_one_carrier_are_direct_where_it_turns_packets_round(world: World, hairpin: bool) -> None:
    behaviour = Behaviour(port_choice=PortChoice.RANDOM, hairpin=hairpin)
    first = world.atlas.make(Access.CARRIER, behaviour=behaviour)
    carrier = Place(Access.CARRIER, first.routers[0].outside, first.routers[1:], ["10.64.0.50/24"], first.line)
    second = world.atlas.make(Access.CARRIER, behind=carrier)
    alpha, beta = world.pair(first, second)
    if world.expected_kind(alpha, beta) is None:
        world.stays_apart(alpha, beta, for_s=HOPELESS_S)
    else:
        world.until_connected((alpha, beta))


def test_a_host_with_the_peers_private_address_on_the_own_lan_is_never_taken_for_it(world: World) -> None:
    """Both LANs are 192.168.1.0/24, and on each one another endpoint has the address of the other side's one."""
    here, there = world.atlas.make(Access.PORT_RESTRICTED), world.atlas.make(Access.FULL_CONE)
    decoy_here, decoy_there = world.endpoint("decoy-here", here), world.endpoint("decoy-there", there)
    alpha = world.endpoint("alpha", here)
    beta = world.endpoint("beta", there)
    assert alpha.host.interfaces == beta.host.interfaces
    assert decoy_here.host.interfaces == decoy_there.host.interfaces
    for one, other in ((alpha, decoy_there), (beta, decoy_here)):
        one.add(other.name)
        other.add(one.name)
    world.until_connected((alpha, decoy_there), (beta, decoy_here))
    assert alpha.path_to(decoy_there) is PathKind.DIRECT_UDP
    world.until_frames_pass(alpha, decoy_there)
    world.until_frames_pass(beta, decoy_here)


def test_ipv6_is_taken_where_both_have_it_even_behind_nats_that_no_punching_opens(world: World) -> None:
    places = [world.atlas.make(Access.SYMMETRIC) for _ in range(2)]
    for place in places:
        world.atlas.add_ipv6(place)
    alpha, beta = world.pair(*places)
    world.until_connected((alpha, beta))
    remote = alpha.status()[beta.name].path
    assert remote is not None
    assert remote.remote.is_ipv6
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_ipv6_on_one_side_alone_does_no_harm(world: World) -> None:
    place = world.atlas.make(Access.PORT_RESTRICTED)
    world.atlas.add_ipv6(place)
    alpha, beta = world.pair(place, Access.CARRIER)
    world.until_connected((alpha, beta))
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_a_wish_on_one_side_alone_makes_no_sound(world: World) -> None:
    alpha, beta = world.endpoint("alpha", Access.PUBLIC), world.endpoint("beta", Access.PUBLIC)
    overheard: list[Packet] = []
    world.record_traffic(overheard)
    alpha.add(beta.name)
    world.run_for(60.0)
    addresses = {str(interface.ip) for endpoint in (alpha, beta) for interface in endpoint.host.interfaces}
    assert not [p for p in overheard if {p.source[0], p.destination[0]} <= addresses]
    assert world.witness.handshakes.total() == 0


def test_the_mesh_never_carries_a_frame_of_one_peer_to_another(world: World) -> None:
    hub, left, right = (world.endpoint(name, Access.PORT_RESTRICTED) for name in ("hub", "left", "right"))
    for peer in (left, right):
        hub.add(peer.name)
        peer.add(hub.name)
    world.until_connected((hub, left), (hub, right))
    left.send_frame(None)
    left.send_frame(right)
    heard = hub.send_frame(None)
    world.run_for(1.0)
    receivers = [(d.frame.sender, d.receiver) for d in world.witness.deliveries]
    assert (left.name, hub.name) in receivers
    assert (left.name, right.name) not in receivers
    assert {d.receiver for d in world.witness.deliveries if d.frame.number == heard} == {left.name, right.name}
