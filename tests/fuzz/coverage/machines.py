"""Targets that are whole machines, driven by a script: what the bytes of strangers, peers, the service, relays and
routers do to them, in any order. A machine begins the same each time, so that an input does the same each time."""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable

from fabric.core.events import ServiceRejected
from fabric.core.machine import Transmit, drain
from fabric.core.mapping import UpnpMapped, UpnpRefused
from fabric.core.pieces import split
from fabric.core.port_mapping import PortMapping
from fabric.core.reflexive import Reflexive
from fabric.crypto.signature import LABEL_BUNDLE, LABEL_ENVELOPE, LABEL_GRANT, LABEL_INTENT, LABEL_RELAY, Ed25519Signer
from fabric.dataplane.contract import Control, Traffic
from fabric.dataplane.reference import ReferenceLane
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.grant import grant_id
from fabric.identity.signed import VERSION
from fabric.wire.address import Address, Transport
from fabric.wire.envelope import decode_head
from fabric.wire.record import CONTROL_FLAG, EMPTY, ControlRecord, Frames, Slice, encode_record, slice_frame
from fabric.wire.relay import NO_COOKIE, NO_SIGNATURE, Bind, Challenge, decode_relay_message, encode_relay_message
from fabric.wire.rendezvous import (
    EnrolmentRequest,
    PublishBundle,
    Renew,
    SendOffer,
    StateIntent,
    WithdrawIntent,
    decode_enrolment_request,
    decode_to_endpoint,
    decode_to_service,
    encode_enrolment,
    encode_message,
)
from fabric.wire.vnet import NO_VNET, VNET_BYTES
from tests.core.relay_scene import TLS, UDP, UDP6, settled
from tests.core.village import Village
from tests.dataplane.pair import frame, ipv4, pair
from tests.discovery.test_relay_core import Guest, Square, tls, udp
from tests.discovery.town import Town
from tests.fuzz.coverage import codecs
from tests.fuzz.coverage.papers import _in_der, _inner
from tests.fuzz.coverage.target import Target, script, steps

MAX_STEPS = 24
"""Of a script: longer ones find the same later."""

A, B = "a.home", "b.home"
STRANGER = Address("203.0.113.66", 666)
STAGES_S = (0.0, 0.045, 0.085, 0.115, 0.135, 2.0)
"""Of a first meeting: before anything, introduced, probing, each message of the handshake, done."""

MAX_DATAGRAMS_A_STEP = 64
MAX_DATAGRAMS = 1500
"""What one step, and the second of quiet behind all, may make an endpoint say."""


def _steps(data: bytes) -> list[tuple[int, bytes]]:
    return [step for step, _ in zip(steps(data), range(MAX_STEPS), strict=False)]


# the lanes


def _lane(data: bytes) -> None:
    """What a peer seals, what strangers send, and what the own device brings."""
    ann, bob = pair()
    index = next(iter(bob.keys))
    sending = next(iter(ann.keys))
    now = 0.0
    for what, payload in _steps(data):
        now += what / 64
        match what % 4:
            case 0:
                bob.lane.handle_datagrams([(ann.forge(sending, payload), ann.source)], now)
            case 1:
                bob.lane.handle_datagrams([(payload, ann.source), (payload, ("203.0.113.66", 6))], now)
            case 2:
                bob.lane.handle_frames([payload] if len(payload) >= VNET_BYTES + 14 else [], now)
            case _:
                bob.lane.handle_timeout(now)
        for item in bob.lane.take_frames():
            assert item[VNET_BYTES + 6 : VNET_BYTES + 12] == ann.mac, "a peer spoke for another"
        controls = bob.lane.take_controls()
        assert all(control.local_index == index for control in controls)
        ann.lane.handle_datagrams([(each, bob.source) for each, _ in bob.lane.take_datagrams()], now)
        ann.lane.take_frames()
        ann.lane.take_datagrams()
    bob.lane.handle_timeout(now + 60.0)
    assert isinstance(bob.lane, ReferenceLane)
    assert not bob.lane._reassembling, "kept for ever"


def _lane_seeds() -> list[bytes]:
    ann, bob = pair()
    plain, packet = frame(ann, bob, bytes(40)), ipv4(ann, bob, 60)
    tcp = bytes((1, 1, 54, 0, 40, 0, 34, 0, 16, 0))
    whole = (
        ipv4(ann, bob, 200)[:14]
        + b"\x45"
        + ipv4(ann, bob, 200)[15:34]
        + bytes(12)
        + b"\x50\x10"
        + bytes(6)
        + bytes(120)
    )
    run = [encode_record(Slice(i, 4, 1, 9, tcp, whole[i * 44 : i * 44 + 44])) for i in range(4)]
    cut = slice_frame(plain, 40, 7)
    messages = slice_frame(b"\x03\x01" * 30, 40, 8, CONTROL_FLAG)
    back = bob.mac, ann.mac
    device = NO_VNET + back[1] + back[0] + packet[12:]
    return [
        script((0, encode_record(Frames((plain, packet)))), (0, encode_record(EMPTY)), (0, b"\x09")),
        script(*((0, each) for each in cut), *((0, each) for each in messages)),
        script(*((0, each) for each in run), (255, b"")),
        script(*((0, each) for each in run[1:]), (255, b""), (0, encode_record(ControlRecord(b"\3\1")))),
        script(
            (1, ann.forge(next(iter(ann.keys)), b"")),
            (1, b"\xf2" + bytes(40)),
            (2, device),
            (2, tcp + device[10:] + bytes(200)),
        ),
    ]


# a node, its peer, the service, and strangers


class Meeting(Village):
    """Two that meet, as far as they came."""

    def __init__(self, after_s: float) -> None:
        super().__init__(A, B)
        for one, two in ((A, B), (B, A)):
            self.houses[one].node.add(two, None, self.now)
            self.settle(self.houses[one])
        self.run(after_s)


def _node(data: bytes) -> None:
    """The first byte is the stage of the meeting."""
    village = Meeting(STAGES_S[(data[0] if data else 0) % len(STAGES_S)])
    one, two = village.houses[A], village.houses[B]
    for what, payload in _steps(data[1:]):
        said = village.datagrams[A]
        with contextlib.suppress(DecodeError, AuthenticationError, ValueError):
            _act(village, what % 8, payload)
        assert village.datagrams[A] - said <= MAX_DATAGRAMS_A_STEP, "much was said for little"
        if (
            not one.node.is_service_up
            and village.is_service_up
            and any(isinstance(e, ServiceRejected) for e in one.told)
        ):
            one.told.clear()
            village.connect(one)
    village.run(1.0)
    assert village.datagrams[A] <= MAX_DATAGRAMS
    assert two.node.status(village.now)


def _act(village: Village, what: int, payload: bytes) -> None:
    """Raises `DecodeError`, `AuthenticationError` or `ValueError` where the other side could not say that at all."""
    one, two = village.houses[A], village.houses[B]
    gateway = two.node._peers[A]._gateway
    match what:
        case 0:
            village.inject(STRANGER, one, payload)
        case 1:
            village.inject(two.address, one, gateway._wrap_body(payload))
        case 2:
            for body in split(payload, int(two.node._calendar.unix(village.now) * 1000)):
                village.inject(two.address, one, gateway._wrap_body(body))
        case 3 | 4:
            indices = [index for index, keys in one.lane.keys.items() if keys.peer == B] or [7]
            source = two.address if what == 3 else STRANGER
            one.node.handle_traffic([Traffic(B, indices[0], 1, 0, village.now, None, 0, source)], village.now)
            one.node.handle_control(Control(B, indices[0], payload, source), village.now)
            village.settle(one)
        case 5:
            one.node.handle_service_message(1, decode_to_endpoint(payload), village.now)
            village.settle(one)
        case 6:
            relay = Address("203.0.113.10", 3478, Transport.RELAY_UDP, len(payload) % 3)
            one.node.handle_datagram(relay, payload, village.now)
            village.settle(one)
        case _:
            village.run((payload[0] if payload else 1) / 32)


@functools.cache
def _heard() -> tuple[list[bytes], list[bytes]]:
    """Returns (gated bodies, messages of the service) of a meeting."""
    bodies: list[bytes] = []
    told: list[bytes] = []

    class Recorder(Meeting):
        def _send(self, sender: object, to: Address, payload: bytes, index: int | None = None) -> None:
            if index is None:
                bodies.append(payload[24:])
            super()._send(sender, to, payload, index)  # type: ignore[arg-type]

        def _say(self, name: str, message: object) -> None:
            if name == A:
                told.append(encode_message(message))  # type: ignore[arg-type]
            super()._say(name, message)  # type: ignore[arg-type]

    Recorder(2.0)
    return bodies, told


def _node_seeds() -> list[bytes]:
    bodies, told = _heard()
    controls = codecs.controls()
    seeds = [bytes((stage,)) + script(*((1, body) for body in bodies[:6]), (7, b"\x08")) for stage in (0, 1, 5)]
    seeds += [bytes((stage,)) + script(*((5, each) for each in told)) for stage in (0, 2, 5)]
    seeds += [b"\5" + script(*((3, each) for each in controls), (7, b"\x20"), (4, controls[0]), (4, controls[1]))]
    seeds += [b"\5" + script((2, each), (7, b"\x20")) for each in (*codecs._messages(), *codecs.tickets())]
    seeds += [b"\3" + script((0, each), (6, each)) for each in (*codecs.relay_messages(), *codecs.bindings()[:3])]
    seeds += [b"\5" + script(*((5, each) for each in codecs.to_endpoint()))]
    return seeds


# the relay, and what its clients hear


def _relay(data: bytes) -> None:
    square = Square()
    signers = Ed25519Signer(b"1" * 32), Ed25519Signer(b"2" * 32)
    ada, bob = (Guest(square, signers[side], square.grant(signers[side], side), udp(side + 1)) for side in (0, 1))
    ada.bind()
    bob.bind()
    sources = (ada.source, bob.source, udp(3), udp(1, 1), tls(1, 7), tls(4, 9))
    for what, payload in _steps(data):
        source = sources[what % 8 % len(sources)]
        match what // 8 % 4:
            case 0:
                square.send(source, payload)
            case 1:
                square.send(source, b"\xf3\0\0\0" + ada.channel.to_bytes(4) + payload)
            case 2:
                _bind(square, source, payload)
            case _:
                square.pass_time((payload[0] if payload else 1) * 2.0)
    assert square.relay.bindings <= 2 + MAX_STEPS
    square.pass_time(300)
    assert square.relay.bindings == 0


def _bind(square: Square, source: Address, body: bytes) -> None:
    """Binds by a grant that the service signed, whatever it says."""
    signer, service = Ed25519Signer(b"1" * 32), square.town.identity.signer
    versioned = bytes((VERSION,)) + body
    grant = (service.sign(LABEL_GRANT, versioned) + versioned)[:1100]
    sent = square.send(source, encode_relay_message(Bind(NO_COOKIE, NO_SIGNATURE, grant)))
    for _, answer in sent:
        challenge = decode_relay_message(answer)
        assert isinstance(challenge, Challenge)
        signature = signer.sign(LABEL_RELAY, b"home", challenge.cookie, grant_id(grant))
        square.send(source, encode_relay_message(Bind(challenge.cookie, signature, grant)))


def _relay_seeds() -> list[bytes]:
    square = Square()
    grant = square.grant(Ed25519Signer(b"1" * 32), 0, pair=b"q" * 16)
    messages = [*codecs.relay_messages(), encode_relay_message(Bind(NO_COOKIE, NO_SIGNATURE, grant))]
    return [
        script(*((source, each) for each in messages for source in (0, 2))),
        script((8, b"\xf1" + bytes(40)), (9, b"\xf2" + bytes(40)), (0, b"\xf3\0\0\0\0\0\0\7\xf1" + bytes(20))),
        script((16, grant[65:]), (20, grant[65:]), (24, b"\x40"), (18, grant[65:])),
    ]


def _station(data: bytes) -> None:
    """An endpoint's side: what relays and who pretends to be one say, and grants that say anything."""
    scene = settled()
    ways = (UDP, UDP6, TLS, Address(UDP.ip, UDP.port, Transport.RELAY_UDP, 7), STRANGER)
    for what, payload in _steps(data):
        match what // 8 % 4:
            case 0 | 1:
                scene.hand(ways[what % 8 % len(ways)], payload)
                scene.settle()
            case 2:
                with contextlib.suppress(DecodeError, AuthenticationError):
                    scene.relays.handle_granted("b.home" if what % 2 else "c.home", payload, (), scene.now)
                scene.settle()
            case _:
                scene.run((payload[0] if payload else 1) / 4)
    assert len(scene.sent) < 2000
    scene.relays.states()


def _station_seeds() -> list[bytes]:
    scene = settled()
    messages = codecs.relay_messages()
    return [
        script(*((0, each) for each in messages), (24, b"\x10")),
        script((16, scene.grant("b.home")), (17, b"grant")),
    ]


# the service


def _service(data: bytes) -> None:
    town = Town()
    ada, bob = town.online("ada"), town.online("bob")
    key = town.store.key("k1")
    assert key is not None
    for what, payload in _steps(data):
        signed = bytes((VERSION,)) + payload
        with contextlib.suppress(DecodeError):
            match what % 10:
                case 0:
                    ada.say(decode_to_service(payload))
                case 1:
                    town.service.handle_message(99, decode_to_service(payload), town.now)
                case 2:
                    request = decode_enrolment_request(payload)
                    town.service.handle_enrolment(request, f"192.0.2.{len(payload) % 7}", town.now)
                case 3:
                    ada.say(StateIntent(ada.signer.sign(LABEL_INTENT, signed) + signed))
                case 4:
                    ada.say(PublishBundle(ada.signer.sign(LABEL_BUNDLE, signed) + signed))
                case 5:
                    ada.say(Renew(_in_der(payload, ada.seed)))
                case 6:
                    head, _ = decode_head(payload)
                    signature = ada.signer.sign(LABEL_ENVELOPE, head.header_bytes, head.sealed)
                    ada.say(SendOffer(bob.name, payload[: len(head.header_bytes) + 2 + len(head.sealed)] + signature))
                case 7:
                    der = _in_der(payload, b"n" * 32)
                    town.enrol(key, der)
                case 8:
                    town.pass_time((payload[0] if payload else 1) * 30.0)
                case _:
                    bob.state_intent(ada.name)
        town.drain()
        if ada.is_closed:
            ada.connect()
    assert not bob.is_closed, "one endpoint ended another's channel"
    town.pass_time(3600.0)


def _service_seeds() -> list[bytes]:
    town = Town()
    ada, bob = town.online("ada"), town.online("bob")
    from fabric.identity.request import make_request

    intent, envelope = ada.intent(bob.name), ada.envelope(bob)
    asked = encode_enrolment(EnrolmentRequest("k1", make_request(b"n" * 32, "cem"), bytes(32)))
    wishes = (StateIntent(intent), PublishBundle(ada.bundle), SendOffer(bob.name, envelope), WithdrawIntent(bob.name))
    return [
        script(*((0, each) for each in codecs.to_service()), (2, asked)),
        script((9, b""), *((0, encode_message(each)) for each in wishes)),
        script((9, b""), (3, intent[65:]), (4, ada.bundle[65:]), (6, envelope), (8, b"\x20")),
        script(
            (5, _inner(make_request(ada.seed, ada.name))), (7, _inner(make_request(b"n" * 32, "cem"))), (8, b"\xff")
        ),
        script((1, codecs.to_service()[0]), (1, codecs.to_service()[1])),
    ]


# STUN servers and gateways


def _stun_client(data: bytes) -> None:
    """Answers to what was really asked: each step's bytes stand behind the transaction id of an open question."""
    reflexive = Reflexive(random.Random(1).randbytes, interval_s=20.0)
    now = 0.0
    asked: list[Transmit] = []
    reflexive.handle_hosts(["198.51.100.7"])
    reflexive.handle_servers([Address("203.0.113.1", 3478), Address("203.0.113.2", 3478)], now)
    for what, payload in _steps(data):
        reflexive.handle_timeout(now)
        asked = (asked + list(drain(reflexive.poll_transmit)))[-16:]
        question = asked[what // 4 % len(asked)] if asked else Transmit(STRANGER, bytes(20))
        head = (b"\1\1", b"\1\x11", b"\1\1", payload[:2])[what % 4]
        message = head + len(payload).to_bytes(2) + question.payload[4:20] + payload
        source = STRANGER if what % 4 == 2 else question.to
        with contextlib.suppress(DecodeError):
            reflexive.handle_datagram_untrusted(source, message, now)
        due = reflexive.next_timeout()
        now = max(now, min(due if due is not None else now, now + what / 16))
    assert len(reflexive.addresses) <= 16
    assert reflexive.nat
    assert reflexive.nat6


def _stun_client_seeds() -> list[bytes]:
    answers = [each[20:] for each in codecs.bindings()]
    return [
        script(*((16 * number, each) for number, each in enumerate(answers[start : start + 8]))) for start in (4, 12)
    ]


def _gateway(data: bytes) -> None:
    mapping = PortMapping(random.Random(1).randbytes)
    door, now = Address("192.0.2.1", 5351), 0.0
    mapping.handle_gateway("192.0.2.1", "192.0.2.10", 41_641, now)
    sent = 0
    for what, payload in _steps(data):
        asked = list(drain(mapping.poll_transmit))
        sent += len(asked)
        match what % 6:
            case 0:
                _hear(mapping, door, payload, now)
            case 1:
                _hear(mapping, STRANGER, payload, now)
            case 2 if asked:
                # RFC 6887: the answer is the question with the high bit of its opcode set.
                genuine = bytes((asked[-1].payload[0], asked[-1].payload[1] | 128)) + asked[-1].payload[2:]
                _hear(mapping, door, genuine[: len(genuine) - len(payload)] + payload, now)
            case 3:
                mapping.handle_refused(now)
            case 4:
                addresses = tuple(Address(STRANGER.ip, 1 + each) for each in payload[:4])
                told = (None, UpnpRefused("no"), UpnpMapped(addresses, len(payload)))
                mapping.handle_upnp(told[len(payload) % 3], now)
            case _:
                mapping.handle_timeout(now)
        list(drain(mapping.poll_event))
        due = mapping.next_timeout()
        now = max(now, min(due if due is not None else now, now + what))
        mapping.handle_timeout(now)
    assert sent <= 40 * (MAX_STEPS + 1)
    assert mapping.report
    assert all(address.port for address in mapping.addresses)


def _hear(mapping: PortMapping, source: Address, payload: bytes, now: float) -> None:
    with contextlib.suppress(DecodeError):
        mapping.handle_datagram_untrusted(source, payload, now)


def _gateway_seeds() -> list[bytes]:
    answers = codecs.gateway_answers()
    return [
        script(*((0, each) for each in answers)),
        script((2, b""), (2, bytes((0, 1)) * 9), (5, b""), (0, answers[1]), (4, b"\5")),
        script((3, b""), (0, answers[2]), (2, b"\x1c\x20"), (0, answers[3]), (5, b"")),
    ]


_RUN: tuple[tuple[str, Callable[[bytes], None], Callable[[], list[bytes]], int], ...] = (
    ("machine-lane", _lane, _lane_seeds, 4096),
    ("machine-node", _node, _node_seeds, 8192),
    ("machine-relay", _relay, _relay_seeds, 4096),
    ("machine-station", _station, _station_seeds, 4096),
    ("machine-service", _service, _service_seeds, 8192),
    ("machine-stun-client", _stun_client, _stun_client_seeds, 2048),
    ("machine-gateway", _gateway, _gateway_seeds, 2048),
)

TARGETS = tuple(Target(name, check, seeds, (), (), length) for name, check, seeds, length in _RUN)
