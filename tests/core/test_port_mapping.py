"""Ports of the gateway: which language it is asked in, how long a mapping is believed, and whose answers count."""

from __future__ import annotations

import contextlib
import ipaddress
import itertools
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.core.machine import Transmit, drain
from fabric.core.mapping import (
    Epoch,
    MappingEvent,
    MappingsChanged,
    Outcome,
    UpnpMapped,
    UpnpRefused,
    UpnpUnwanted,
    UpnpWanted,
)
from fabric.core.mapping_pace import LIFETIME_S, RETRY_LIMIT_S
from fabric.core.port_mapping import CLOSE_TRIES, TELL_PAUSE_S, TELLS_AT_ONCE, PortMapping
from fabric.errors import DecodeError
from fabric.wire.address import Address, Transport
from fabric.wire.pcp import Protocol

OWN, GATEWAY, OUTSIDE, PORT = "192.168.1.10", "192.168.1.1", "203.0.113.7", 4000
DOOR = Address(GATEWAY, 5351)
UDP, TCP = Address(OUTSIDE, PORT), Address(OUTSIDE, PORT, Transport.TCP)
NUMBER = {17: Transport.UDP, 6: Transport.TCP}


@dataclass
class Gateway:
    """Answers as RFC 6887 section 11.3 and RFC 6886 section 3.3 have it, by code of its own."""

    speaks: Protocol = Protocol.PCP
    born: float = 0.0
    life_s: int = 7200
    result: dict[Transport, int] = field(default_factory=dict)
    outside: str = OUTSIDE
    shift: int = 0
    table: dict[Transport, bytes] = field(default_factory=dict)
    deaf: bool = False

    def restart(self, now: float) -> None:
        self.born = now
        self.table.clear()

    def answers(self, payload: bytes, now: float) -> list[bytes]:
        if self.deaf:
            return []
        epoch = int(now - self.born)
        if payload[0] == 2 and self.speaks is Protocol.NAT_PMP:
            return [struct.pack("!BBHI", 0, 0x81, 1, epoch)]
        return [self._pcp(payload, epoch) if payload[0] == 2 else self._nat_pmp(payload, epoch)]

    def _pcp(self, payload: bytes, epoch: int) -> bytes:
        nonce, protocol, port, outside = struct.unpack_from("!12sB3xHH", payload, 24)
        transport = NUMBER[protocol]
        wanted = int.from_bytes(payload[4:8])
        result = self.result.get(transport, 0)
        if self.table.get(transport, nonce) != nonce:
            result = 2
        life = self._book(transport, nonce, wanted) if not result else 60
        outside = (outside or port) + self.shift
        wide = bytes(10) + b"\xff\xff" + ipaddress.ip_address(self.outside).packed
        header = bytes([2, 0x81, 0, result]) + struct.pack("!II", life, epoch) + bytes(12)
        return header + struct.pack("!12sB3xHH", nonce, protocol, port, outside) + wide

    def _nat_pmp(self, payload: bytes, epoch: int) -> bytes:
        if payload[1] == 0:
            return struct.pack("!BBHI", 0, 128, 0, epoch) + ipaddress.ip_address(self.outside).packed
        opcode, port, outside, wanted = struct.unpack("!xBxxHHI", payload)
        transport = Transport(opcode)
        result = self.result.get(transport, 0)
        life = self._book(transport, b"", wanted) if not result else 0
        return struct.pack("!BBHIHHI", 0, 128 + opcode, result, epoch, port, outside + self.shift, life)

    def _book(self, transport: Transport, nonce: bytes, wanted: int) -> int:
        if wanted == 0:
            self.table.pop(transport, None)
            return 0
        self.table[transport] = nonce
        return min(wanted, self.life_s)


class House:
    """A mapping machine and its gateway, under a clock that jumps from deadline to deadline."""

    def __init__(self, gateway: Gateway | None = None, seed: int = 1) -> None:
        self.gateway = gateway or Gateway()
        self.machine = PortMapping(random.Random(seed).randbytes)
        self.now = 100.0
        self.gateway.born = 0.0
        self.told: list[tuple[Address, ...]] = []
        self.upnp: list[UpnpWanted | UpnpUnwanted] = []
        self.sent: list[tuple[float, Transmit]] = []
        self.upnp_answer: Callable[[UpnpWanted], UpnpMapped | UpnpRefused | None] = lambda _: None

    def start(self) -> House:
        self.machine.handle_gateway(GATEWAY, OWN, PORT, self.now)
        self.settle()
        return self

    def settle(self) -> None:
        while self._settle_once():
            pass

    def _settle_once(self) -> bool:
        events: list[MappingEvent] = list(drain(self.machine.poll_event))
        transmits = list(drain(self.machine.poll_transmit))
        for event in events:
            self._handle(event)
        for transmit in transmits:
            self.sent.append((self.now, transmit))
            for answer in self.gateway.answers(transmit.payload, self.now):
                with contextlib.suppress(DecodeError):  # a language that it has given up meanwhile
                    self.machine.handle_datagram_untrusted(DOOR, answer, self.now)
        return bool(events or transmits)

    def _handle(self, event: MappingEvent) -> None:
        match event:
            case MappingsChanged(addresses):
                self.told.append(addresses)
            case UpnpWanted():
                self.upnp.append(event)
                self.machine.handle_upnp(self.upnp_answer(event), self.now)
            case UpnpUnwanted():
                self.upnp.append(event)
                self.machine.handle_upnp_removed()

    def run(self, seconds: float) -> House:
        end = self.now + seconds
        while (at := self.machine.next_timeout()) is not None and at <= end:
            self.now = max(self.now, at)
            self.machine.handle_timeout(self.now)
            self.settle()
        self.now = end
        return self

    @property
    def addresses(self) -> tuple[Address, ...]:
        return self.machine.addresses

    @property
    def outcome(self) -> Outcome:
        return self.machine.report.outcome


def test_a_gateway_that_speaks_pcp_maps_both_transports_at_once() -> None:
    house = House().start()
    assert house.told[-1] == (UDP, TCP)
    assert house.machine.report.protocol is Protocol.PCP
    assert house.outcome is Outcome.MAPPED
    assert len(house.sent) == 2


def test_a_gateway_of_rfc_6886_is_asked_in_nat_pmp_as_soon_as_it_says_so() -> None:
    house = House(Gateway(Protocol.NAT_PMP)).start()
    assert house.told[-1] == (UDP, TCP)
    assert house.machine.report.protocol is Protocol.NAT_PMP
    assert house.now == 100.0


def test_an_outside_port_other_than_the_wished_one_is_taken() -> None:
    house = House(Gateway(shift=7)).start()
    assert house.addresses == (Address(OUTSIDE, PORT + 7), Address(OUTSIDE, PORT + 7, Transport.TCP))


def test_a_mapping_is_renewed_between_half_and_five_eighths_of_its_life() -> None:
    house = House(Gateway(life_s=1000)).start()
    assert house.machine.next_timeout() is not None
    first = house.machine.next_timeout() or 0.0
    assert 600.0 <= first <= 725.0
    house.told.clear()
    house.run(10_000)
    assert house.told == []
    assert 2 * 9 <= len(house.sent) <= 2 * 21


def test_a_gateway_that_goes_silent_keeps_its_mapping_until_it_would_have_expired() -> None:
    house = House(Gateway(life_s=1000)).start()
    house.gateway.deaf = True
    house.run(999)
    assert house.addresses == (UDP, TCP)
    house.run(2)
    assert house.told[-1] == ()


def test_a_mapping_that_was_lost_to_silence_comes_back() -> None:
    house = House(Gateway(life_s=1000)).start()
    house.gateway.deaf = True
    house.run(2000)
    house.gateway.deaf = False
    house.run(RETRY_LIMIT_S * 1.2)
    assert house.told[-1] == (UDP, TCP)


def test_a_silent_gateway_is_asked_in_three_languages_and_ever_more_rarely() -> None:
    house = House(Gateway(deaf=True)).start().run(6 * 3600)
    assert house.outcome is Outcome.SILENT
    rounds = [at for at, transmit in house.sent if transmit.payload[0] == 2][::2]
    gaps = [later - earlier for earlier, later in itertools.pairwise(rounds)]
    assert gaps[-1] >= RETRY_LIMIT_S * 0.9
    assert gaps[0] < 10
    assert len(house.upnp) == len(rounds)
    assert len(rounds) < 40


def test_a_gateway_that_answers_nothing_to_pcp_is_asked_in_nat_pmp_all_the_same() -> None:
    house = House(Gateway(deaf=True)).start().run(0.5)
    house.gateway.deaf, house.gateway.speaks = False, Protocol.NAT_PMP
    house.run(1.0)
    assert house.machine.report.protocol is Protocol.NAT_PMP


def test_nobody_on_the_port_leads_to_upnp_without_waiting() -> None:
    house = House(Gateway(deaf=True))
    house.upnp_answer = lambda _: UpnpMapped((UDP, TCP), 7200)
    house.start()
    house.machine.handle_refused(house.now)
    house.settle()
    assert house.upnp == [UpnpWanted(GATEWAY, OWN, PORT, LIFETIME_S, ())]
    assert house.told == [(UDP, TCP)]
    assert house.machine.report.protocol is Protocol.UPNP


def test_what_upnp_gave_is_asked_for_again_and_lost_when_it_has_expired() -> None:
    house = House(Gateway(deaf=True))
    house.upnp_answer = lambda _: UpnpMapped((UDP,), 100)
    house.start().run(1002.5)
    assert house.told == [(UDP,)]
    assert house.upnp[-1] == UpnpWanted(GATEWAY, OWN, PORT, LIFETIME_S, (UDP,))
    house.upnp_answer = lambda _: None
    house.run(101)
    assert house.told == [(UDP,), ()]


def test_a_refusal_is_said_with_its_reason_and_respected() -> None:
    house = House(Gateway(result={Transport.UDP: 2, Transport.TCP: 2}))
    house.upnp_answer = lambda _: UpnpRefused("606 action not authorised")
    house.start()
    report = house.machine.report
    assert report.outcome is Outcome.REFUSED
    assert "PCP: not authorised" in report.words
    assert "UPnP: 606" in report.words
    count = len(house.sent)
    house.run(59)
    assert len(house.sent) == count


def test_a_refusal_is_what_there_is_to_say_until_the_next_round_is_over() -> None:
    house = House(Gateway(result={Transport.UDP: 2, Transport.TCP: 2})).start()
    house.gateway.deaf = True
    house.run(60.5)
    asked_again = house.outcome
    house.run(60)
    assert (asked_again, house.outcome) == (Outcome.REFUSED, Outcome.SILENT)


def test_one_transport_may_be_refused_and_asked_for_later() -> None:
    house = House(Gateway(result={Transport.TCP: 8})).start()
    assert house.told == [(UDP,)]
    house.gateway.result.clear()
    house.run(61)
    assert house.told[-1] == (UDP, TCP)


def after_a_crash(gateway: Gateway, nonce: bytes) -> House:
    house = House(gateway)
    house.machine = PortMapping(random.Random(2).randbytes, nonce)
    return house.start()


def test_what_a_crash_has_left_is_ours_again_under_the_same_nonce_only() -> None:
    gateway = Gateway()
    assert after_a_crash(gateway, b"a" * 12).outcome is Outcome.MAPPED
    assert after_a_crash(gateway, b"a" * 12).outcome is Outcome.MAPPED
    assert after_a_crash(gateway, b"b" * 12).machine.report.protocol is Protocol.NAT_PMP  # which knows no owners


def news(epoch: int, version: int = 2) -> bytes:
    if version == 0:
        return struct.pack("!BBHI", 0, 128, 0, epoch) + ipaddress.ip_address(OUTSIDE).packed
    return bytes([2, 0x80, 0, 0]) + struct.pack("!II", 0, epoch) + bytes(12)


@pytest.mark.parametrize(("protocol", "version"), [(Protocol.PCP, 2), (Protocol.NAT_PMP, 0)])
def test_a_gateway_that_has_restarted_is_asked_again_within_seconds(protocol: Protocol, version: int) -> None:
    house = House(Gateway(protocol)).start().run(500)
    house.gateway.restart(house.now)
    house.gateway.outside = "203.0.113.8"
    house.machine.handle_datagram_untrusted(DOOR, news(0, version), house.now)
    house.settle()
    house.run(5.1)
    assert set(house.gateway.table) == {Transport.UDP, Transport.TCP}
    assert {address.ip for address in house.told[-1]} == {"203.0.113.8"}
    assert () not in house.told


def test_news_of_a_gateway_that_has_not_restarted_change_nothing() -> None:
    house = House().start().run(500)
    count = len(house.sent)
    house.machine.handle_datagram_untrusted(DOOR, news(int(house.now)), house.now)
    house.run(10)
    assert len(house.sent) == count


def test_news_in_another_language_make_one_ask_now_and_then() -> None:
    house = House(Gateway(Protocol.NAT_PMP)).start().run(500)
    house.gateway.restart(house.now)
    count = len(house.sent)
    for _ in range(10):
        house.machine.handle_datagram_untrusted(DOOR, news(0, 2), house.now)
        house.run(0.1)
    house.run(5)
    assert set(house.gateway.table) == {Transport.UDP, Transport.TCP}
    assert len(house.sent) == count + 4


def test_a_lost_answer_after_a_restart_is_asked_for_again_in_seconds() -> None:
    house = House().start().run(500)
    house.gateway.restart(house.now)
    house.gateway.deaf = True
    house.machine.handle_datagram_untrusted(DOOR, news(0), house.now)
    house.run(5.1)
    house.gateway.deaf = False
    house.run(5)
    assert set(house.gateway.table) == {Transport.UDP, Transport.TCP}


@pytest.mark.parametrize(
    ("protocol", "theirs", "ours", "restarted"),
    [
        (Protocol.PCP, 1000, 1000, False),
        (Protocol.PCP, 940, 1000, False),
        (Protocol.PCP, 930, 1000, True),
        (Protocol.PCP, 1070, 1000, True),
        (Protocol.PCP, -1, 0, False),
        (Protocol.PCP, -2, 0, True),
        (Protocol.NAT_PMP, 874, 1000, False),
        (Protocol.NAT_PMP, 872, 1000, True),
        (Protocol.NAT_PMP, 5000, 1000, False),
    ],
)
def test_a_clock_that_lost_time_betrays_a_restart(protocol: Protocol, theirs: int, ours: int, restarted: bool) -> None:
    assert Epoch(50_000, 10.0).has_restarted(protocol, 50_000 + theirs, 10.0 + ours) is restarted


def test_closing_gives_back_what_was_mapped() -> None:
    for protocol in (Protocol.PCP, Protocol.NAT_PMP):
        house = House(Gateway(protocol)).start()
        assert house.gateway.table
        house.machine.close(house.now)
        house.settle()
        assert not house.gateway.table
        assert house.machine.is_closed
        assert house.machine.next_timeout() is None


def test_closing_does_not_wait_for_a_silent_gateway() -> None:
    house = House().start()
    house.gateway.deaf = True
    count = len(house.sent)
    house.machine.close(house.now)
    house.settle()
    house.run(1.5)
    assert house.machine.is_closed
    assert len(house.sent) - count == 2 * CLOSE_TRIES


def test_closing_takes_back_what_upnp_gave() -> None:
    house = House(Gateway(deaf=True))
    house.upnp_answer = lambda _: UpnpMapped((UDP,), 0)
    house.start().run(2.5)
    house.machine.close(house.now)
    house.settle()
    assert house.upnp[-1] == UpnpUnwanted((UDP,))
    assert house.machine.is_closed


def test_closing_without_anything_is_done_at_once() -> None:
    machine = PortMapping(random.Random(1).randbytes)
    assert machine.report.outcome is Outcome.NO_GATEWAY
    machine.close(0.0)
    assert machine.is_closed


def test_another_gateway_means_other_addresses() -> None:
    house = House().start()
    house.machine.handle_gateway("10.0.0.1", "10.0.0.9", PORT, house.now)
    assert house.addresses == ()
    assert [t.to.ip for t in drain(house.machine.poll_transmit)] == ["10.0.0.1"] * 2
    house.machine.handle_gateway(None, "", PORT, house.now)
    assert house.outcome is Outcome.NO_GATEWAY
    assert house.machine.next_timeout() is None


def test_the_same_gateway_told_twice_is_no_news() -> None:
    house = House().start()
    house.machine.handle_gateway(GATEWAY, OWN, PORT, house.now)
    assert house.machine.poll_transmit() is None
    assert house.addresses == (UDP, TCP)


@pytest.mark.parametrize("outside", ["100.64.3.2", "192.168.0.4", "10.1.2.3"])
def test_a_gateway_behind_another_nat_is_reported_and_its_address_offered_all_the_same(outside: str) -> None:
    house = House(Gateway(outside=outside)).start()
    assert house.outcome is Outcome.BEHIND_NAT
    assert outside in house.machine.report.words
    assert house.told[-1][0].ip == outside


@pytest.mark.parametrize("outside", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "169.254.1.1"])
@pytest.mark.parametrize("protocol", list(Protocol))
def test_no_gateway_aims_peers_at_an_address_that_is_none(outside: str, protocol: Protocol) -> None:
    house = House(Gateway(protocol, outside=outside, deaf=protocol is Protocol.UPNP))
    house.upnp_answer = lambda _: UpnpMapped((Address(outside, PORT),), 7200) if protocol is Protocol.UPNP else None
    house.start().run(4)
    assert house.addresses == ()
    assert house.outcome is Outcome.REFUSED


def test_a_doubt_asks_again_but_not_what_was_confirmed_just_now() -> None:
    house = House().start()
    house.machine.doubt(house.now)
    assert house.machine.next_timeout() != house.now
    house.run(10)
    count = len(house.sent)
    house.machine.doubt(house.now)
    house.run(0.1)
    assert len(house.sent) == count + 2


def test_a_doubt_ends_a_long_rest() -> None:
    house = House(Gateway(deaf=True)).start().run(3600)
    house.gateway.deaf = False
    house.machine.doubt(house.now)
    house.settle()
    assert house.addresses == (UDP, TCP)


@pytest.mark.parametrize("source", [Address("192.168.1.2", 5351), Address(GATEWAY, 5350), Address("203.0.113.1", 5351)])
def test_answers_of_others_do_not_count(source: Address) -> None:
    house = House(Gateway(deaf=True)).start()
    request = house.sent[0][1].payload
    (answer,) = Gateway().answers(request, house.now)
    with pytest.raises(DecodeError):
        house.machine.handle_datagram_untrusted(source, answer, house.now)
    assert house.addresses == ()


def test_an_answer_with_another_nonce_or_port_does_not_count() -> None:
    house = House(Gateway(deaf=True)).start()
    (answer,) = Gateway().answers(house.sent[0][1].payload, house.now)
    for at in (24, 35, 41):
        forged = answer[:at] + bytes([answer[at] ^ 1]) + answer[at + 1 :]
        with pytest.raises(DecodeError):
            house.machine.handle_datagram_untrusted(DOOR, forged, house.now)
    assert not house.addresses
    house.machine.handle_datagram_untrusted(DOOR, answer, house.now)
    assert house.addresses == (UDP,)


def test_nat_pmp_answers_to_no_question_do_not_count() -> None:
    house = House(Gateway(Protocol.NAT_PMP)).start()
    unasked = struct.pack("!BBHIHHI", 0, 129, 0, 100, PORT, 9999, 7200)
    with pytest.raises(DecodeError):
        house.machine.handle_datagram_untrusted(DOOR, unasked, house.now)
    assert house.addresses == (UDP, TCP)


@given(st.lists(st.tuples(st.sampled_from([b"", b"\2\x81", b"\2\x80", b"\0\x80", b"\0\x81"]), st.binary(max_size=60))))
def test_noise_never_maps_anything(noise: list[tuple[bytes, bytes]]) -> None:
    house = House(Gateway(deaf=True)).start()
    for start, rest in noise:
        try:
            house.machine.handle_datagram_untrusted(DOOR, start + rest, house.now)
        except DecodeError:
            continue
    assert not house.told


def hear(house: House, payload: bytes) -> None:
    with contextlib.suppress(DecodeError):
        house.machine.handle_datagram_untrusted(DOOR, payload, house.now)
    house.settle()


def test_an_outside_address_that_nobody_asked_for_is_told_to_nobody() -> None:
    """Anybody on the LAN can send it; peers would be aimed at whomever it names."""
    house = House(Gateway(Protocol.NAT_PMP)).start().run(500)
    told = list(house.told)
    for outside in ("198.51.100.66", "224.0.0.1", "198.51.100.67"):
        epoch = int(house.now)
        hear(house, struct.pack("!BBHI", 0, 128, 0, epoch) + ipaddress.ip_address(outside).packed)
        hear(house, struct.pack("!BBHI", 0, 128, 3, epoch) + bytes(4))
        assert house.addresses == (UDP, TCP)
    house.run(60)
    assert house.told == told


def test_another_outside_address_is_a_reason_to_ask() -> None:
    house = House(Gateway(Protocol.NAT_PMP)).start().run(500)
    house.gateway.outside = "203.0.113.8"
    hear(house, struct.pack("!BBHI", 0, 128, 0, int(house.now)) + ipaddress.ip_address("203.0.113.8").packed)
    house.run(5.1)
    assert {address.ip for address in house.addresses} == {"203.0.113.8"}


@pytest.mark.parametrize("protocol", [Protocol.PCP, Protocol.NAT_PMP])
def test_a_version_that_is_refused_without_a_question_ends_nothing(protocol: Protocol) -> None:
    house = House(Gateway(protocol)).start().run(500)
    count = len(house.sent)
    for version in (0, 1, 2, 3):
        hear(house, bytes([version, 0x81, 0, 1]) + bytes(20))
    assert house.addresses == (UDP, TCP)
    assert len(house.sent) == count


@pytest.mark.parametrize(("protocol", "version"), [(Protocol.PCP, 2), (Protocol.NAT_PMP, 0)])
def test_a_flood_of_news_neither_puts_off_a_renewal_nor_makes_many(protocol: Protocol, version: int) -> None:
    house = House(Gateway(protocol)).start().run(500)
    house.gateway.restart(house.now)
    count = len(house.sent)
    for epoch in range(200):
        hear(house, news((epoch % 2) * 100_000, version))
        house.run(0.5)
    assert set(house.gateway.table) == {Transport.UDP, Transport.TCP}
    assert len(house.sent) - count <= 4 * 100


def test_a_gateway_that_says_something_else_all_the_time_is_not_repeated_to_peers_each_time() -> None:
    house = House().start().run(10)
    (request, *_) = [transmit.payload for _, transmit in house.sent]
    since = len(house.told)
    for second in range(600):
        house.gateway.shift = second % 1000
        (answer,) = house.gateway.answers(request, house.now)
        hear(house, answer)
        house.run(1.0)
    assert len(house.told) - since <= TELLS_AT_ONCE + 600 / TELL_PAUSE_S + 1
    house.run(TELL_PAUSE_S)
    assert house.told[-1] == house.addresses
