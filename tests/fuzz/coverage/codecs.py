"""Targets of `fabric.wire`: each decoder, and that what it read can be written and read again."""

from __future__ import annotations

import contextlib

from fabric.errors import DecodeError
from fabric.wire import ethernet, handshake, offer, path, pcp, relay, rendezvous, stun, ticket
from fabric.wire.address import Address, Candidate, CandidateKind, Transport, decode_address, encode_address
from fabric.wire.codec import Reader
from fabric.wire.datagram import DatagramKind, Gated, classify, decode_gated, encode_gated
from fabric.wire.envelope import EnvelopeHeader, EnvelopeKind, decode_head, decode_header, encode_head, encode_header
from fabric.wire.nat import Filtering, Mapping, NatBehaviour
from fabric.wire.record import (
    EMPTY,
    MAX_FRAME_BYTES,
    ControlRecord,
    Frames,
    Slice,
    UnknownRecord,
    decode_record,
    encode_record,
    is_control,
)
from fabric.wire.vnet import NO_VNET, VNET_BYTES, decode_vnet, encode_vnet
from tests.fuzz.coverage.target import Target, again, exactly

UDP4, UDP6 = Address("198.51.100.7", 41_641), Address("2001:db8::7", 41_641, Transport.TCP)
TOKEN = bytes(range(16))
YEAR_10000 = 253_402_300_800.0
"""Unix seconds. Later milliseconds have no exact float, and are nobody's."""

MAC, OTHER_MAC = b"\x02\xfa\x64\x40\x00\x01", b"\x02\xfa\x64\x40\x00\x02"


def _address(data: bytes) -> None:
    read = decode_address(Reader(data))
    assert decode_address(Reader(encode_address(read))) == read


def _datagram(data: bytes) -> None:
    kind = classify(data)
    gated = decode_gated(data)
    assert kind is DatagramKind.GATED
    assert encode_gated(gated) == data


def _record(data: bytes) -> None:
    is_control(data)
    record = decode_record(data)
    if not isinstance(record, UnknownRecord):
        assert encode_record(record) == data
    if isinstance(record, Frames):
        assert sum(map(len, record.frames)) < len(data) <= MAX_FRAME_BYTES


def _vnet(data: bytes) -> None:
    assert encode_vnet(decode_vnet(data)) == data[:VNET_BYTES]


def _envelope(data: bytes) -> None:
    head, rest = decode_head(data)
    assert encode_head(head.header_bytes, head.sealed, head.signature) + rest == data


def _header(data: bytes) -> None:
    header = decode_header(data)
    if header.created < YEAR_10000:
        assert encode_header(header) == data


def _handshake(data: bytes) -> None:
    match handshake.kind_of(data):
        case handshake.MessageKind.HELLO:
            hello = handshake.decode_hello(data)
            assert handshake.encode_hello(hello) == data
        case handshake.MessageKind.ANSWER:
            answer, clear, sealed = handshake.decode_answer(data)
            assert clear + sealed == data
            assert handshake.encode_answer(answer) == clear
        case handshake.MessageKind.FINISH:
            finish, clear, sealed = handshake.decode_finish(data)
            assert clear + sealed == data
            assert handshake.encode_finish(finish) == clear


def _ticket(data: bytes) -> None:
    """The MAC stands behind what is read, and covers all of it."""
    if handshake.kind_of(data) is handshake.MessageKind.RESUME:
        resume, covered, mac = ticket.decode_resume(data)
        assert ticket.encode_resume(resume) == covered
    else:
        resumed, covered, mac = ticket.decode_resumed(data)
        assert ticket.encode_resumed(resumed) == covered
    assert covered + mac == data


def _credentials(data: bytes) -> None:
    allowed = handshake.ANSWER_PROOFS if data[:1] == b"\1" else handshake.FINISH_PROOFS
    read = handshake.decode_credentials(data[1:], allowed)
    assert handshake.encode_credentials(read) == data[1:]


_PLACES = (
    stun.ServerPlace(Address("203.0.113.1", 3478)),
    stun.ServerPlace(Address("203.0.113.1", 3478), other_port=3479),
    stun.ServerPlace(Address("203.0.113.1", 3478), other_port=3479, is_stream=True),
    stun.ServerPlace(Address("2001:db8::1", 3478), other_ip="2001:db8::2", other_port=3479),
)


def _stun(data: bytes) -> None:
    for source in (UDP4, UDP6):
        plain = stun.answer_binding(data, source) or b""
        assert len(plain) <= max(stun.MAX_AMPLIFICATION * len(data), 0)
        for place in _PLACES:
            answer = stun.answer_binding_5780(data, source, place)
            if answer is not None:
                assert answer.to.ip == source.ip
                assert len(answer.payload) <= stun.MAX_AMPLIFICATION * len(data)
    stun.transaction_of(data)
    if len(data) >= 4:
        stun.message_bytes(data[:4])
    stun.decode_binding_success(data)


def _frame(data: bytes) -> None:
    """The first byte leads to the place where the headers behind Ethernet's are looked for."""
    at, frame = data[0] if data else 0, data[1:]
    for read in (ethernet.decode_arp, ethernet.decode_ipv4, ethernet.decode_ipv6, ethernet.decode_neighbour_message):
        _ignoring(read, frame, at)
    _ignoring(ethernet.decode_ports, frame, at)
    header = ethernet.decode_header(frame)
    assert 14 <= header.payload_at <= len(frame)


def _ignoring(read: object, frame: bytes, at: int) -> None:
    with contextlib.suppress(DecodeError):
        read(frame, at)  # type: ignore[operator]


def _relayed(data: bytes) -> None:
    channel, payload = relay.unwrap_relayed(data)
    assert relay.wrap_relayed(channel, payload) == data


def _outcome(data: bytes) -> None:
    status = 200 if data[:1] == b"\0" else 403
    written = rendezvous.encode_enrolment(rendezvous.decode_enrolment_outcome(status, data[1:]))
    assert rendezvous.encode_enrolment(rendezvous.decode_enrolment_outcome(status, written)) == written


# genuine inputs


def _hello() -> handshake.Hello:
    extension = handshake.Extension(7, b"value")
    return handshake.Hello(7, 1_800_000_000_000, bytes(32), bytes(1184), bytes(32), (1, 2), (extension,))


def _messages() -> list[bytes]:
    answer = handshake.Answer(7, 8, bytes(32), bytes(1088), bytes(32), 1, (handshake.Extension(7, b"value"),))
    finish = handshake.encode_finish(handshake.Finish(8))
    return [handshake.encode_hello(_hello()), handshake.encode_answer(answer) + bytes(40), finish + bytes(40)]


def tickets() -> list[bytes]:
    resume = ticket.Resume(7, 1_800_000_000_000, bytes(32), bytes(1184), bytes(32), (1, 2), TOKEN)
    resumed = ticket.Resumed(7, 8, bytes(32), bytes(1088), bytes(32), 1)
    return [ticket.encode_resume(resume) + bytes(32), ticket.encode_resumed(resumed) + bytes(32)]


def _all_credentials() -> list[bytes]:
    proof = handshake.Proof(handshake.ProofKind.PROOF, bytes(32))
    alarm = handshake.Proof(handshake.ProofKind.ALARM)
    extension = (handshake.Extension(1, b"x"),)
    return [
        bytes((which,)) + handshake.encode_credentials(handshake.Credentials(b"der", bytes(64), each, extension))
        for which in (1, 2)
        for each in (proof, alarm)
    ]


def _offers() -> list[bytes]:
    candidates = (Candidate(CandidateKind.HOST, UDP4), Candidate(CandidateKind.REFLEXIVE, UDP6))
    nat = NatBehaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_DEPENDENT, 2, False)
    return [
        offer.encode_offer(offer.Offer(1, 2, bytes(32), True, candidates)),
        offer.encode_offer(offer.Offer(1_800_000_000_000, 2**32 - 1, TOKEN * 2, False, candidates * 12, nat)),
    ]


def _gated_messages() -> list[bytes]:
    said = (path.GatedProbe(1_800_000_000_000, TOKEN), path.Call(1, TOKEN), path.ProbeReply(TOKEN, UDP6))
    return [path.encode_gated_message(each) for each in said]


def controls() -> list[bytes]:
    said: tuple[path.ControlMessage, ...] = (
        path.Probe(TOKEN, 5, True),
        path.ProbeReply(TOKEN, UDP4),
        path.Close(path.CloseReason.WITHDRAWN),
        path.OfferUpdate(_offers()[0]),
        path.Forward("b.home", b"envelope"),
        path.Forwarded("b.home", b"envelope"),
    )
    return [path.encode_control(each) for each in said]


def _headers() -> list[bytes]:
    header = EnvelopeHeader(EnvelopeKind.OFFER, "home", bytes(32), "a.home", TOKEN, 1, 1_800_000_000.0, 300, 5)
    return [encode_header(header)]


def envelopes() -> list[bytes]:
    return [encode_head(_headers()[0], bytes(100), bytes(64)) + b"stream"]


def bindings() -> list[bytes]:
    transaction = TOKEN[:12]
    asked = [
        stun.binding_request(transaction),
        stun.binding_request(transaction, change_ip=True, change_port=True),
        stun.binding_request(transaction, response_port=7),
        b"\0\1\0\0" + TOKEN,
    ]
    answered = [
        stun.answer_binding_5780(each, source, place) for each in asked for source in (UDP4, UDP6) for place in _PLACES
    ]
    return asked + [each.payload for each in answered if each is not None]


def relay_messages() -> list[bytes]:
    said: tuple[relay.RelayMessage, ...] = (
        relay.Bind(relay.NO_COOKIE, relay.NO_SIGNATURE, b"grant"),
        relay.Challenge(TOKEN, TOKEN),
        relay.Bound(TOKEN, 7, 120),
        relay.Refresh((1, 2, 3)),
        relay.Refreshed(()),
        relay.Refused(TOKEN, relay.RefusedReason.FULL),
    )
    return [relay.encode_relay_message(each) for each in said]


def gateway_answers() -> list[bytes]:
    asked = pcp.PcpMap("192.0.2.2", TOKEN[:12], Transport.UDP, 41_641, None, 0, 7200)
    mapped = bytearray(pcp.encode_pcp_map(asked))
    mapped[1] |= 128
    return [
        bytes(mapped),
        bytes((2, 128)) + bytes(22),
        bytes((0, 128, 0, 0)) + (7).to_bytes(4) + bytes((203, 0, 113, 9)),
        bytes((0, 129, 0, 0)) + (7).to_bytes(4) + bytes((162, 169, 162, 169)) + (7200).to_bytes(4),
        bytes((0, 128, 0, 1)) + bytes(8),
    ]


def to_service() -> list[bytes]:
    said: tuple[rendezvous.ToService, ...] = (
        rendezvous.Authenticate(b"der", bytes(32), bytes(64)),
        rendezvous.PublishBundle(b"bundle"),
        rendezvous.StateIntent(b"intent"),
        rendezvous.WithdrawIntent("b.home"),
        rendezvous.SendOffer("b.home", envelopes()[0]),
        rendezvous.Renew(b"request"),
    )
    return [rendezvous.encode_message(each) for each in said]


def to_endpoint() -> list[bytes]:
    place = rendezvous.RelayPlace("relay.example", 3478, 443)
    said: tuple[rendezvous.ToEndpoint, ...] = (
        rendezvous.Challenge(bytes(32)),
        rendezvous.Welcome(bytes(64), ("stun.example:3478",), b"crl", 1.8e9),
        rendezvous.IntentNoted("b.home"),
        rendezvous.Introduction("b.home", b"der", b"intent", b"bundle"),
        rendezvous.Granted("b.home", b"grant", (place,)),
        rendezvous.Withdrawn("b.home"),
        rendezvous.DeliverOffer("b.home", envelopes()[0]),
        rendezvous.Revocations(b"crl"),
        rendezvous.Renewed(b"der"),
        rendezvous.Refused("code", "why"),
    )
    return [rendezvous.encode_message(each) for each in said]


def _enrolments() -> list[bytes]:
    return [rendezvous.encode_enrolment(rendezvous.EnrolmentRequest("k1", b"request", bytes(32)))]


def _outcomes() -> list[bytes]:
    refusal = rendezvous.EnrolmentRefusal("request", "It can't be read.")
    return [b"\1" + rendezvous.encode_enrolment(refusal)]


def _records() -> list[bytes]:
    vnet = bytes((1, 1, 66, 0, 64, 5, 34, 0, 16, 0))
    return [
        encode_record(EMPTY),
        encode_record(Frames((bytes(14), bytes(60)))),
        encode_record(Slice(0, 2, 1, 7, vnet, bytes(50))),
        encode_record(Slice(1, 2, 2, 7, NO_VNET, bytes(50))),
        encode_record(ControlRecord(b"\3\1")),
        b"\x09later",
    ]


def _frames() -> list[bytes]:
    arp = ethernet.Arp(1, MAC, bytes(4), bytes(6), bytes(4))
    advertised = ethernet.encode_neighbour_advertisement(MAC, TOKEN, OTHER_MAC, TOKEN)
    head = OTHER_MAC + MAC
    return [
        b"\x0e" + ethernet.encode_arp_reply(MAC, bytes(4), arp),
        b"\x0e" + advertised,
        b"\x36" + advertised,
        b"\x12" + head + b"\x81\0\0\1\x08\0\x45\0\0\x1c" + bytes(5) + b"\x11" + bytes(10) + bytes(8),
        b"\x0e" + head + b"\x86\xdd\x60\0\0\0\0\x10\0\x40" + TOKEN * 2 + b"\x2c\0\0\0" + bytes(12),
        b"\x0e" + head + b"\0\x26\xaa\xaa\x03\0\0\0\x08\0" + bytes(30),
    ]


TARGETS = (
    Target(
        "wire-address",
        _address,
        lambda: [encode_address(UDP4), encode_address(UDP6)],
        ("address:decode_address",),
        length=64,
    ),
    Target("wire-datagram", _datagram, lambda: [encode_gated(Gated(7, TOKEN, b"body"))], ("datagram:decode_gated",)),
    Target("wire-record", _record, _records, ("record:decode_record", "record:decode_frames")),
    Target("wire-vnet", _vnet, lambda: [NO_VNET], ("vnet:decode_vnet",), length=64),
    Target(
        "wire-ethernet",
        _frame,
        _frames,
        tuple(f"ethernet:decode_{each}" for each in ("header", "arp", "ipv4", "ipv6", "ports", "neighbour_message")),
        length=512,
    ),
    Target(
        "wire-gated-message",
        again(path.decode_gated_message, path.encode_gated_message),
        _gated_messages,
        ("path:decode_gated_message",),
        length=256,
    ),
    Target(
        "wire-control", again(path.decode_control, path.encode_control), controls, ("path:decode_control",), length=5000
    ),
    Target("wire-offer", again(offer.decode_offer, offer.encode_offer), _offers, ("offer:decode_offer",)),
    Target(
        "wire-handshake",
        _handshake,
        _messages,
        tuple(f"handshake:decode_{each}" for each in ("hello", "answer", "finish")),
        length=5000,
    ),
    Target("wire-ticket", _ticket, tickets, ("ticket:decode_resume", "ticket:decode_resumed"), length=2000),
    Target("wire-credentials", _credentials, _all_credentials, ("handshake:decode_credentials",), length=4096),
    Target(
        "wire-piece",
        exactly(handshake.decode_piece, handshake.encode_piece),
        lambda: [b"\4\1\0\2" + bytes(8) + TOKEN + b"content"],
        ("handshake:decode_piece",),
    ),
    Target(
        "wire-stun",
        _stun,
        bindings,
        ("stun:decode_binding_success", "stun:decode_binding_response"),
        length=600,
    ),
    Target(
        "wire-relay",
        again(relay.decode_relay_message, relay.encode_relay_message),
        relay_messages,
        ("relay:decode_relay_message",),
    ),
    Target("wire-relayed", _relayed, lambda: [relay.wrap_relayed(7, b"\xf1" + bytes(40))]),
    Target("wire-pcp", pcp.decode_answer, gateway_answers, ("pcp:decode_answer",), length=1200),
    Target(
        "wire-to-service",
        again(rendezvous.decode_to_service, rendezvous.encode_message),
        to_service,
        ("rendezvous:decode_to_service",),
        length=4096,
    ),
    Target(
        "wire-to-endpoint",
        again(rendezvous.decode_to_endpoint, rendezvous.encode_message),
        to_endpoint,
        ("rendezvous:decode_to_endpoint",),
        length=4096,
    ),
    Target(
        "wire-enrolment",
        again(rendezvous.decode_enrolment_request, rendezvous.encode_enrolment),
        _enrolments,
        ("rendezvous:decode_enrolment_request",),
    ),
    Target("wire-enrolment-outcome", _outcome, _outcomes, ("rendezvous:decode_enrolment_outcome",)),
    Target("wire-envelope", _envelope, envelopes, ("envelope:decode_head",)),
    Target("wire-envelope-header", _header, _headers, ("envelope:decode_header",), length=700),
)
