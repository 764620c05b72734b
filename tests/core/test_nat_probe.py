"""What stands in between is told as it is: every mapping with every filter, and how far loss and lies get."""

from __future__ import annotations

import itertools
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.core.machine import drain
from fabric.core.nat_verdict import mapping_of, other_of, stride_of
from fabric.core.reflexive import Reflexive
from fabric.errors import DecodeError
from fabric.wire.address import Address
from fabric.wire.nat import UNKNOWN_NAT, Filtering, Mapping, NatBehaviour
from fabric.wire.stun import ServerPlace, answer_binding, answer_binding_5780, binding_request
from tests.core.fake_nat import DELAY_S, OUTSIDE_IP, SERVER, SERVER_IPS, Bench, FakeNat

ONE_IP = SERVER_IPS[:1]
MAPPINGS = [mapping for mapping in Mapping if mapping is not Mapping.UNKNOWN]
FILTERINGS = [filtering for filtering in Filtering if filtering is not Filtering.UNKNOWN]
EVERY_KIND = list(itertools.product(MAPPINGS, FILTERINGS))
STRICT = Filtering.ADDRESS_AND_PORT_DEPENDENT
SYMMETRIC = Mapping.ADDRESS_AND_PORT_DEPENDENT


@pytest.mark.parametrize(("mapping", "filtering"), EVERY_KIND)
def test_a_server_with_two_ips_shows_every_kind(mapping: Mapping, filtering: Filtering) -> None:
    bench = Bench(FakeNat(mapping, filtering)).start()
    took = bench.settle()
    assert bench.reflexive.nat == NatBehaviour(mapping, filtering)
    assert took < 1.2
    assert bench.sent <= 20


@pytest.mark.parametrize(("mapping", "filtering"), EVERY_KIND)
def test_a_server_with_one_ip_shows_what_can_be_told_by_port(mapping: Mapping, filtering: Filtering) -> None:
    bench = Bench(FakeNat(mapping, filtering), ips=ONE_IP).start()
    bench.settle()
    independent = Mapping.ENDPOINT_INDEPENDENT
    assert bench.reflexive.nat.mapping is (independent if mapping is Mapping.ADDRESS_DEPENDENT else mapping)
    by_ip = Filtering.ADDRESS_DEPENDENT
    assert bench.reflexive.nat.filtering is (by_ip if filtering is not STRICT else STRICT)


@pytest.mark.parametrize(("mapping", "filtering"), EVERY_KIND)
def test_loss_is_not_taken_for_a_filter_nor_for_a_mapping(mapping: Mapping, filtering: Filtering) -> None:
    """10 % each way: 20 of 20 are told right, but for a filter that is called stricter in one."""
    wrong = 0
    for seed in range(20):
        bench = Bench(FakeNat(mapping, filtering), loss=0.1, seed=seed).start()
        bench.settle()
        assert bench.reflexive.nat.mapping is mapping
        assert bench.reflexive.nat.filtering >= filtering
        wrong += bench.reflexive.nat.filtering is not filtering
    assert wrong <= 1


def test_heavy_loss_gives_the_right_name_or_none_or_seldom_a_stricter_one() -> None:
    """30 % each way, half of all answers."""
    told = []
    for seed in range(100):
        bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT), loss=0.3, seed=seed).start()
        bench.settle()
        told.append(bench.reflexive.nat)
    assert {nat.mapping for nat in told} <= {Mapping.ENDPOINT_INDEPENDENT, Mapping.UNKNOWN}
    assert sum(nat.filtering is STRICT for nat in told) <= 4
    assert sum(nat.filtering is Filtering.ADDRESS_DEPENDENT for nat in told) >= 90


@pytest.mark.parametrize("ips", [ONE_IP, SERVER_IPS])
@pytest.mark.parametrize("stride", [1, 2, -1, 4])
def test_a_nat_that_counts_is_seen_to_count(stride: int, ips: tuple[str, ...]) -> None:
    bench = Bench(FakeNat(SYMMETRIC, STRICT, stride), ips=ips).start()
    bench.settle()
    assert bench.reflexive.nat == NatBehaviour(SYMMETRIC, STRICT, stride)
    assert bench.reflexive.port_now(bench.now) == bench.nat.next_port


def test_a_nat_that_counts_for_others_too_is_seen_to_count() -> None:
    """Each mapping of ours has none before it, or one or two of others; the distance seen most often counts."""
    right = 0
    for seed in range(50):
        chance = random.Random(seed)
        nat = FakeNat(SYMMETRIC, STRICT, 2, foreign=lambda chance=chance: chance.choice((0, 0, 0, 1, 2)))  # type: ignore[misc]
        bench = Bench(nat).start()
        bench.settle()
        assert bench.reflexive.nat.stride in (2, 4, 6)
        right += bench.reflexive.nat.stride == 2
    assert right >= 45


def test_random_ports_have_no_stride() -> None:
    for seed in range(50):
        bench = Bench(FakeNat(SYMMETRIC, STRICT, None, chance=random.Random(seed))).start()
        bench.settle()
        assert bench.reflexive.nat == NatBehaviour(SYMMETRIC, STRICT, 0)
        assert bench.reflexive.port_now(bench.now) is None


def test_a_new_mapping_is_asked_for_right_before_guessing() -> None:
    bench = Bench(FakeNat(SYMMETRIC, STRICT, 1)).start()
    bench.settle()
    bench.nat.next_port += 500  # others came in between
    bench.reflexive.refresh(bench.now, via=16)
    bench.run(bench.now + 3 * DELAY_S)
    assert bench.reflexive.port_now(bench.now) == bench.nat.next_port
    newest = bench.nat.next_port
    bench.reflexive.refresh(bench.now)  # from a socket that has a mapping
    bench.run(bench.now + 3 * DELAY_S)
    assert bench.reflexive.port_now(bench.now) == newest
    bench.run(bench.now + 100)
    assert bench.reflexive.port_now(bench.now) is None


@pytest.mark.parametrize(
    ("ports", "stride"),
    [
        ([100, 101, 102, 103], 1),
        ([103, 102, 101, 100], -1),
        ([100, 102, 106, 108], 2),
        ([100, 101, 102], 0),
        ([100, 101, 100, 101], 0),
        ([100, 101, 102, 203], 0),
        ([100, 100, 101, 101, 102, 103], 1),
        ([65_534, 65_535, 1024, 1025], 0),
        ([65_534, 65_535, 1024, 1025, 1026, 1027], 1),
        ([40_000, 100, 101, 103, 104], 1),
        ([40_000, 100, 101, 103, 102], 0),
        ([], 0),
    ],
)
def test_a_stride_needs_three_short_steps_one_way(ports: list[int], stride: int) -> None:
    assert stride_of(ports) == stride


def test_what_cannot_be_told_is_called_by_the_worse_name() -> None:
    one, two = Address("198.51.100.1", 3478), Address("198.51.100.2", 3478)
    seen, else_seen = Address(OUTSIDE_IP, 1000), Address(OUTSIDE_IP, 1001)
    assert mapping_of({}, frozenset()) is Mapping.UNKNOWN
    assert mapping_of({one: seen}, frozenset()) is Mapping.UNKNOWN
    assert mapping_of({one: seen}, frozenset({OUTSIDE_IP})) is Mapping.NONE
    assert mapping_of({one: seen, two: seen}, frozenset()) is Mapping.ENDPOINT_INDEPENDENT
    assert mapping_of({one: seen, two: else_seen}, frozenset()) is Mapping.ADDRESS_AND_PORT_DEPENDENT


def test_several_servers_show_a_mapping_without_rfc_5780() -> None:
    bench = Bench(FakeNat(SYMMETRIC, STRICT), knows_5780=False)
    bench.start(*(Address(ip, 3478) for ip in SERVER_IPS)).settle()
    assert bench.reflexive.nat == NatBehaviour(SYMMETRIC, Filtering.UNKNOWN)
    assert len(bench.reflexive.addresses) == 2


def test_where_no_server_answers_udp_is_not_carried_until_one_does() -> None:
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, STRICT), is_up=False).start()
    assert bench.reflexive.nat.carries_udp
    assert 1.9 < bench.settle() < 2.1
    assert not bench.reflexive.nat.carries_udp
    assert bench.changes == 1
    bench.is_up = True
    bench.run(30.0)
    assert bench.reflexive.nat == NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, STRICT)


def test_what_loss_left_unknown_is_looked_for_again() -> None:
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, STRICT), loss=0.8).start()
    bench.settle(within=60.0)
    assert bench.reflexive.nat.filtering is Filtering.UNKNOWN
    bench.loss = 0.0
    bench.run(400.0)
    assert bench.reflexive.nat == NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, STRICT)


def test_a_look_that_hears_nothing_forgets_nothing() -> None:
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, STRICT)).start()
    bench.settle()
    before = bench.reflexive.nat
    bench.is_up = False
    bench.run(3700.0)
    assert bench.reflexive.nat == before


def test_a_move_begins_anew() -> None:
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)).start()
    bench.settle()
    bench.nat = FakeNat(SYMMETRIC, STRICT, 1)
    bench.reflexive.handle_moved(bench.now)
    assert bench.reflexive.nat == UNKNOWN_NAT
    assert not bench.reflexive.is_settled
    bench.settle()
    assert bench.reflexive.nat == NatBehaviour(SYMMETRIC, STRICT, 1)


def test_another_router_in_the_same_place_is_noticed_by_its_other_address() -> None:
    """Nothing on this host shows it: the servers are asked anyway, and the look follows."""
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, STRICT)).start()
    bench.run(1000.0)
    bench.nat = FakeNat(SYMMETRIC, STRICT)
    bench.run(1200.0)
    assert bench.reflexive.nat.mapping is SYMMETRIC


def test_the_same_socket_is_not_used_on_another_server_whose_filter_it_opened() -> None:
    """Behind an address-dependent filter, the second look would find the first server's IP open."""
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT))
    bench.start(SERVER).settle()
    bench.reflexive.handle_servers((Address(SERVER_IPS[1], 3478),), bench.now)
    bench.settle()
    assert bench.reflexive.nat.filtering is Filtering.ADDRESS_DEPENDENT


def test_servers_that_are_no_longer_named_are_no_longer_asked() -> None:
    bench = Bench(FakeNat(SYMMETRIC, STRICT, 1)).start()
    bench.settle()
    bench.reflexive.handle_servers((), bench.now)
    assert bench.reflexive.nat == UNKNOWN_NAT
    assert bench.reflexive.is_settled
    sent = bench.sent
    bench.run(1000.0)
    assert bench.sent == sent


def test_ipv6_is_told_apart() -> None:
    reflexive = Reflexive(random.Random(1).randbytes, 20.0)
    server, mine = Address("2001:db8::1", 3478), Address("2001:db8:1::7", 41_000)
    reflexive.handle_hosts((mine.ip,))
    reflexive.handle_servers((server,), 0.0)
    reflexive.handle_timeout(0.0)
    for transmit in drain(reflexive.poll_transmit):
        answer = answer_binding(transmit.payload, mine)
        assert answer is not None
        reflexive.handle_datagram_untrusted(server, answer, 0.1)
    assert reflexive.nat.mapping is Mapping.UNKNOWN
    assert reflexive.nat6.mapping is Mapping.NONE


def test_a_server_can_t_aim_requests_at_the_own_network_nor_keep_them_coming() -> None:
    """OTHER-ADDRESS of a public server names a private host, then a new public one with every answer."""
    for names in (("192.168.1.1",), [f"8.8.8.{number}" for number in range(1, 250)]):
        server, told = Address("9.9.9.9", 3478), itertools.cycle(names)
        reflexive = Reflexive(random.Random(1).randbytes, 20.0)
        reflexive.handle_servers((server,), 0.0)
        asked: list[Address] = []
        now = 0.0
        while now < 3000.0:
            reflexive.handle_timeout(now)
            for transmit in drain(reflexive.poll_transmit):
                if transmit.to.ip != server.ip:
                    asked.append(transmit.to)
                elif transmit.to == server:
                    port = random.Random(now).randint(1024, 65_535)
                    place = ServerPlace(server, next(told), 53)
                    answer = answer_binding_5780(transmit.payload, Address(OUTSIDE_IP, port), place)
                    assert answer is not None
                    reflexive.handle_datagram_untrusted(server, answer.payload, now)
            now = max(now, reflexive.next_timeout() or now) + 0.001
        assert not any(to.ip.startswith("192.168.") for to in asked)
        assert len(asked) <= 11 * 3 * 4  # a look in 300 s, three questions, four tries


@pytest.mark.parametrize(
    ("server", "named", "taken"),
    [
        ("9.9.9.9:3478", "9.9.9.9:3479", "9.9.9.9:3479"),
        ("9.9.9.9:3478", "8.8.8.8:3479", "8.8.8.8:3479"),
        ("9.9.9.9:3478", "10.0.0.5:3479", "9.9.9.9:3479"),
        ("9.9.9.9:3478", "224.0.0.1:3479", "9.9.9.9:3479"),
        ("9.9.9.9:3478", "10.0.0.5:3478", None),
        ("10.1.1.1:3478", "10.2.2.2:3479", "10.2.2.2:3479"),
        ("9.9.9.9:3478", None, None),
    ],
)
def test_a_server_behind_a_translation_is_known_by_its_public_ip(
    server: str, named: str | None, taken: str | None
) -> None:
    def parse(text: str | None) -> Address | None:
        return Address(text.split(":")[0], int(text.split(":")[1])) if text else None

    asked = parse(server)
    assert asked is not None
    assert other_of(asked, parse(named)) == parse(taken)


def test_a_flood_of_answers_changes_nothing() -> None:
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, STRICT)).start()
    bench.settle()
    before, changes, sent = bench.reflexive.nat, bench.changes, bench.sent
    lie = Address("203.0.113.66", 6666)
    for number in range(300):
        forged = answer_binding(binding_request(os.urandom(12)), lie)
        assert forged is not None
        bench.hear(Address(SERVER.ip, SERVER.port, via=number % 3), forged)
        bench.hear(Address("203.0.113.66", 1 + number), forged)
        bench.hear(SERVER, os.urandom(number))
    assert bench.refused == 900
    assert (bench.reflexive.nat, bench.changes, bench.sent) == (before, changes, sent)
    assert lie not in bench.reflexive.addresses


@pytest.mark.parametrize("via", [1, 2])
def test_an_answer_at_another_socket_or_from_elsewhere_is_none(via: int) -> None:
    bench = Bench(FakeNat(Mapping.ENDPOINT_INDEPENDENT, STRICT)).start()
    bench.reflexive.handle_timeout(0.0)
    (question,) = drain(bench.reflexive.poll_transmit)
    answer = answer_binding(question.payload, Address(OUTSIDE_IP, 1))
    assert answer is not None
    for source in (Address(SERVER.ip, SERVER.port, via=via), Address(SERVER_IPS[1], SERVER.port)):
        with pytest.raises(DecodeError):
            bench.reflexive.handle_datagram_untrusted(source, answer, 0.1)


KINDS = st.builds(
    FakeNat,
    st.sampled_from(MAPPINGS),
    st.sampled_from(FILTERINGS),
    st.sampled_from([0, 1, -1, 3, None]),
    lifetime_s=st.sampled_from([5.0, 30.0, 200.0]),
)
CHANGES = st.sampled_from(["move", "doubt", "refresh", "router", "down", "up", "lossy", "none", "two", "one", "noise"])


@settings(max_examples=60, deadline=None)
@given(KINDS, KINDS, st.lists(st.tuples(CHANGES, st.floats(0.0, 400.0)), max_size=8), st.integers(0, 1000))
def test_whatever_happens_in_the_end_the_nat_is_known(
    first: FakeNat, last: FakeNat, changes: list[tuple[str, float]], seed: int
) -> None:
    """Moves, other routers, loss, dead servers and other servers, at any time; then an hour of peace, and a look."""
    bench = Bench(first, seed=seed).start()
    for change, pause in changes:
        match change:
            case "move":
                bench.reflexive.handle_moved(bench.now)
            case "doubt":
                bench.reflexive.doubt(bench.now)
            case "refresh":
                bench.reflexive.refresh(bench.now, via=2)
            case "router":
                bench.nat = last
            case "down" | "up":
                bench.is_up = change == "up"
            case "lossy":
                bench.loss = 0.5
            case "none":
                bench.reflexive.handle_servers((), bench.now)
            case "one" | "two":
                servers = [Address(ip, 3478) for ip in SERVER_IPS]
                bench.reflexive.handle_servers(servers[: 1 if change == "one" else 2], bench.now)
            case "noise":
                bench.hear(SERVER, bench.chance.randbytes(40))
        bench.run(bench.now + pause)
    bench.nat, bench.is_up, bench.loss = last, True, 0.0
    bench.reflexive.handle_servers((SERVER,), bench.now)
    bench.run(bench.now + 1000.0)  # what socket 1 has sent to other servers is forgotten
    bench.reflexive.handle_moved(bench.now)
    bench.settle()
    nat = bench.reflexive.nat
    assert (nat.mapping, nat.filtering, nat.carries_udp) == (last.mapping, last.filtering, True)
    assert bench.reflexive.addresses
