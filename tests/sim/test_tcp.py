"""TCP of this world: who connects to whom through what, and what a connection delivers."""

from __future__ import annotations

import itertools

import pytest

from tests.sim.link import Quality, Socket
from tests.sim.network import Network, Policy
from tests.sim.place import Access, Atlas, Place
from tests.sim.schedule import Schedule
from tests.sim.tcp import SILENCE_S, Connection, State

PORT, SERVICE = 7000, 3478
NAT_KINDS = (
    Access.PUBLIC,
    Access.FIREWALL,
    Access.FULL_CONE,
    Access.ADDRESS_RESTRICTED,
    Access.PORT_RESTRICTED,
    Access.CARRIER,
    Access.SYMMETRIC,
)


class Party:
    """A host that listens and connects on one port, as a TCP puncher does, and knows where a server sees it."""

    def __init__(self, network: Network, place: Place, name: str) -> None:
        self.host = network.make_host(name)
        place.seat(self.host)
        self.open: list[Connection] = []
        self.heard: list[bytes] = []
        self.failures: list[str] = []
        self.reflexive: Socket | None = None
        self.host.tcp.listen(PORT, self.keep)

    def ask(self, server: Socket) -> None:
        connection = self.host.tcp.connect(PORT, server, 5.0)
        assert connection is not None
        connection.message = self.learn

    def learn(self, payload: bytes) -> None:
        ip, _, port = payload.decode().rpartition(":")
        self.reflexive = (ip, int(port))

    def connect(self, to: Socket, patience_s: float = 5.0) -> None:
        connection = self.host.tcp.connect(PORT, to, patience_s)
        if connection is not None:
            connection.lost = self.failures.append
            connection.opened = lambda: self.keep(connection)

    def keep(self, connection: Connection) -> None:
        self.open.append(connection)
        connection.message = self.heard.append
        connection.lost = self.failures.append


@pytest.fixture
def server(network: Network, atlas: Atlas) -> Socket:
    """Tells everyone that connects where it comes from."""
    host = network.make_host("server")
    atlas.make(Access.PUBLIC).seat(host)

    def tell(connection: Connection) -> None:
        connection.send(f"{connection.remote[0]}:{connection.remote[1]}".encode())

    host.tcp.listen(SERVICE, tell)
    return str(host.interfaces[0].ip), SERVICE


def punch(network: Network, schedule: Schedule, server: Socket, one: Place, other: Place) -> tuple[Party, Party]:
    left, right = Party(network, one, "left"), Party(network, other, "right")
    for party in (left, right):
        party.ask(server)
    schedule.run_for(1.0)
    for me, him in ((left, right), (right, left)):
        assert him.reflexive is not None
        me.connect(him.reflexive)
    schedule.run_for(8.0)
    return left, right


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(NAT_KINDS, 2)))
def test_listening_and_connecting_on_one_port_opens_what_udp_punching_opens(
    network: Network, atlas: Atlas, schedule: Schedule, server: Socket, one: Access, other: Access
) -> None:
    left, right = punch(network, schedule, server, atlas.make(one), atlas.make(other))
    symmetric = {Access.SYMMETRIC} & {one, other}
    open_to_all = {Access.PUBLIC, Access.FULL_CONE, Access.ADDRESS_RESTRICTED} & {one, other}
    assert bool(left.open and right.open) is (not symmetric or bool(open_to_all))
    if left.open and right.open:
        left.open[0].send(b"over")
        schedule.run_for(1.0)
        assert right.heard == [b"over"]


def test_two_networks_that_block_udp_open_by_tcp(
    network: Network, atlas: Atlas, schedule: Schedule, server: Socket
) -> None:
    places = [atlas.make(Access.PORT_RESTRICTED) for _ in range(2)]
    for place in places:
        place.set_policy(Policy.NO_UDP)
    left, right = punch(network, schedule, server, *places)
    assert left.open
    assert right.open


def test_a_network_that_lets_only_the_web_out_reaches_port_443_and_nothing_else(
    network: Network, atlas: Atlas, schedule: Schedule, server: Socket
) -> None:
    place = atlas.make(Access.PORT_RESTRICTED)
    place.set_policy(Policy.WEB_ONLY)
    party = Party(network, place, "party")
    web = Party(network, atlas.make(Access.PUBLIC), "web")
    web.host.tcp.listen(443, web.keep)
    party.connect(server, patience_s=3.0)
    party.connect((str(web.host.interfaces[0].ip), 443))
    schedule.run_for(5.0)
    assert len(party.open) == len(web.open) == 1
    assert party.failures == ["timed out"]


def test_a_port_without_a_listener_refuses_at_once(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    left, right = (Party(network, atlas.make(Access.PUBLIC), name) for name in ("left", "right"))
    left.connect((str(right.host.interfaces[0].ip), PORT + 1))
    schedule.run_for(0.2)
    assert left.failures == ["refused"]


@pytest.mark.parametrize("loss", [0.0, 0.05, 0.3])
def test_messages_arrive_in_order_and_once_over_any_line(
    network: Network, atlas: Atlas, schedule: Schedule, loss: float
) -> None:
    bad = Quality(latency_s=0.02, jitter_s=0.03, loss=loss, duplication=0.05, reordering=0.1)
    left = Party(network, atlas.make(Access.PORT_RESTRICTED, uplink=bad), "left")
    right = Party(network, atlas.make(Access.PUBLIC), "right")
    left.connect((str(right.host.interfaces[0].ip), PORT), patience_s=20.0)
    schedule.run_for(20.0)
    sent = [b"%d" % number for number in range(100)]
    for payload in sent:
        left.open[0].send(payload)
        schedule.run_for(0.2)
    schedule.run_for(30.0)
    if left.failures == right.failures == []:
        assert right.heard == sent
    else:
        assert right.heard == sent[: len(right.heard)]
        assert loss == 0.3


def test_a_closed_connection_is_heard_of_at_the_other_end_behind_what_was_sent(
    network: Network, atlas: Atlas, schedule: Schedule
) -> None:
    left, right = (Party(network, atlas.make(Access.PUBLIC), name) for name in ("left", "right"))
    left.connect((str(right.host.interfaces[0].ip), PORT))
    schedule.run_for(1.0)
    left.open[0].send(b"last")
    left.open[0].close()
    schedule.run_for(1.0)
    assert (right.heard, right.failures, left.failures) == ([b"last"], ["closed"], [])
    assert left.open[0].state is right.open[0].state is State.CLOSED


def test_a_side_that_only_answers_keeps_the_connection(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    left, right = (Party(network, atlas.make(Access.PUBLIC), name) for name in ("left", "right"))
    right.host.tcp.listen(PORT, lambda connection: setattr(connection, "message", connection.send))
    left.connect((str(right.host.interfaces[0].ip), PORT))
    schedule.run_for(1.0)
    for number in range(5):
        left.open[0].send(b"%d" % number)
        schedule.run_for(20.0)
    assert (left.heard, left.failures) == ([b"0", b"1", b"2", b"3", b"4"], [])


def test_a_host_that_lost_its_memory_connects_anew_from_the_same_port(
    network: Network, atlas: Atlas, schedule: Schedule
) -> None:
    left, right = (Party(network, atlas.make(Access.PUBLIC), name) for name in ("left", "right"))
    to = (str(right.host.interfaces[0].ip), PORT)
    left.connect(to)
    schedule.run_for(1.0)
    left.open[0].send(b"old")
    schedule.run_for(1.0)
    left.host.tcp.forget(left.open[0])
    left.connect(to)
    schedule.run_for(5.0)
    left.open[-1].send(b"new")
    schedule.run_for(1.0)
    assert right.heard == [b"old", b"new"]


def test_a_rebooted_nat_ends_a_connection_that_is_used(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    place = atlas.make(Access.PORT_RESTRICTED)
    left, right = Party(network, place, "left"), Party(network, atlas.make(Access.PUBLIC), "right")
    left.connect((str(right.host.interfaces[0].ip), PORT))
    schedule.run_for(1.0)
    place.reboot_routers()
    right.open[0].send(b"into the void")
    schedule.run_for(2 * SILENCE_S)
    assert right.failures == ["timed out"]


def test_a_forwarded_port_lets_everyone_in_and_ends_with_the_routers_memory(
    network: Network, atlas: Atlas, schedule: Schedule
) -> None:
    place = atlas.make(Access.PORT_RESTRICTED)
    left, right = Party(network, place, "left"), Party(network, atlas.make(Access.SYMMETRIC), "right")
    outside = place.forward(left.host, PORT)
    assert outside is not None
    got: list[bytes] = []
    left.host.bind(PORT, lambda _, payload: got.append(payload))
    right.connect(outside)
    right.host.send(PORT, outside, b"unasked")
    schedule.run_for(2.0)
    assert len(left.open) == 1
    assert got == [b"unasked"]
    place.reboot_routers()
    right.host.send(PORT, outside, b"too late")
    schedule.run_for(1.0)
    assert got == [b"unasked"]


def test_multicast_stays_on_its_link(network: Network, atlas: Atlas, schedule: Schedule) -> None:
    group = ("239.255.83.70", 4183)
    here, there = atlas.make(Access.FULL_CONE), atlas.make(Access.FULL_CONE)
    sender, neighbour, stranger = (network.make_host(name) for name in ("sender", "neighbour", "stranger"))
    heard: list[tuple[str, Socket]] = []
    for host, place in ((sender, here), (neighbour, here), (stranger, there)):
        place.seat(host)
        host.join_group(group, lambda source, _, host=host: heard.append((host.name, source)))  # type: ignore[misc]
    sender.send(PORT, group, b"anyone?")
    schedule.run_for(1.0)
    assert heard == [("neighbour", (str(sender.interfaces[0].ip), PORT))]
