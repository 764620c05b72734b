"""Hosts that hold no gate: whatever they send, an endpoint's port stays dark and its sessions go on."""

from __future__ import annotations

import pytest

from fabric.wire.datagram import DATA_TYPE, GATED_TYPE, DatagramKind, classify
from fabric.wire.stun import binding_request
from tests.sim.endpoint import Endpoint
from tests.sim.link import Packet, Socket
from tests.sim.place import Access
from tests.sim.world import World

STRANGER_PORT = 40_000


def address_of(endpoint: Endpoint) -> Socket:
    """Where the whole internet can send to; only for a public place."""
    return str(endpoint.host.interfaces[0].ip), endpoint.port


def open_pair(world: World) -> tuple[Endpoint, Endpoint, list[Packet]]:
    """Two public endpoints, and all the datagrams between the first wish and some seconds of traffic."""
    overheard: list[Packet] = []
    world.record_traffic(overheard)
    alpha, beta = world.pair(Access.PUBLIC, Access.PUBLIC)
    world.until_connected((alpha, beta))
    for _ in range(20):
        world.until_frames_pass(alpha, beta)
    return alpha, beta, overheard


def test_scans_get_no_answer(world: World) -> None:
    alpha, beta, _ = open_pair(world)
    stranger = world.stranger()
    probes = [
        b"",
        b"\0",
        bytes(1472),
        binding_request(world.draw(12)),
        bytes((GATED_TYPE, 0, 0, 0)) + world.draw(60),
        bytes((DATA_TYPE, 0, 0, 0)) + world.draw(60),
        b"\x16\xfe\xfd" + world.draw(40),
        b"\xc0\0\0\0\x01" + world.draw(1195),
        b"\x01\0\0\0" + world.draw(144),
    ]
    for endpoint in (alpha, beta):
        for probe in probes:
            stranger.send(STRANGER_PORT, address_of(endpoint), probe)
            world.run_for(1.0)


@pytest.mark.parametrize("is_connected", [True, False], ids=["in a session", "peer is off"])
def test_everything_ever_said_said_again_by_a_stranger_gets_no_answer(world: World, is_connected: bool) -> None:
    alpha, beta, overheard = open_pair(world)
    if not is_connected:
        beta.kill()
        world.run_for(60.0)
    stranger = world.stranger()
    for packet in list(overheard):
        if packet.destination[1] in (alpha.port, beta.port):
            stranger.send(STRANGER_PORT, packet.destination, packet.payload)
            world.run_for(0.01)
    world.run_for(10.0)
    assert (alpha.path_to(beta) is not None) is is_connected


def test_everything_ever_said_after_a_restart_gets_no_answer(world: World) -> None:
    """What was heard before the crash is fresh by its time, but its hashes went with the memory."""
    alpha, beta, overheard = open_pair(world)
    world.site.go_down()
    beta.kill()
    alpha.kill()
    alpha.start()
    stranger = world.stranger()
    for packet in list(overheard):
        if packet.destination == address_of(alpha):
            stranger.send(STRANGER_PORT, packet.destination, packet.payload)
    world.run_for(10.0)


def test_what_an_endpoint_said_is_not_believed_when_it_comes_back_to_it(world: World) -> None:
    """Reflection: each datagram is returned to its sender, from the peer's address."""
    alpha, beta, overheard = open_pair(world)
    mirror = world.stranger()
    handshakes = world.witness.handshakes.total()
    for packet in list(overheard):
        if packet.source[1] in (alpha.port, beta.port) and classify(packet.payload) is not DatagramKind.STUN:
            mirror.send_as(packet.destination, packet.source, packet.payload)
    world.run_for(5.0)
    assert world.witness.handshakes.total() == handshakes
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_real_datagrams_again_with_the_peers_address_deliver_nothing_twice(world: World) -> None:
    alpha, beta, overheard = open_pair(world)
    forger = world.stranger()
    delivered, handshakes = len(world.witness.deliveries), world.witness.handshakes.total()
    for packet in list(overheard):
        forger.send_as(packet.source, packet.destination, packet.payload)
    world.run_for(5.0)
    assert len(world.witness.deliveries) == delivered
    assert world.witness.handshakes.total() == handshakes
    world.until_frames_pass(alpha, beta, within_s=1.0)


def test_a_flood_of_noise_costs_counters_and_nothing_else(world: World) -> None:
    alpha, beta, overheard = open_pair(world)
    stranger = world.stranger()
    to, real = address_of(alpha), [p.payload for p in overheard if p.destination == address_of(alpha)]
    before = dict(alpha.disk.records)
    for number in range(3000):
        noise = bytearray(world.chance.choice(real))
        noise[world.chance.randrange(len(noise))] ^= 1 << world.chance.randrange(8)
        stranger.send(STRANGER_PORT + number % 100, to, bytes(noise))
        if number % 100 == 0:
            world.run_for(0.05)
    world.run_for(1.0)
    assert alpha.disk.records.keys() == before.keys()
    assert disconnected(alpha, beta) is False
    world.until_frames_pass(alpha, beta, within_s=1.0)


def disconnected(alpha: Endpoint, beta: Endpoint) -> bool:
    return alpha.path_to(beta) is None or beta.path_to(alpha) is None
