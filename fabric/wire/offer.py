"""An offer: where its sender may be reached, and what opens its gate to the one it is for.

A MessagePack array, so that a full offer stays below 1,024 bytes and travels in one record or envelope:

    [created ms, gate index u32, gate share 32 bytes, reply wanted, [[kind, transport, packed IP, port], ...],
     [mapping, filtering, stride, carries UDP]]

The last element, what the sender's NAT does (see `nat`), may be missing: then nothing is known of it.

It is always sealed: inside a session, or in an envelope to the recipient's offer key.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from typing import Annotated

import msgspec

from fabric.errors import DecodeError
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.nat import UNKNOWN_NAT, Filtering, Mapping, NatBehaviour

MAX_CANDIDATES = 24
"""More addresses than any sane host has; each one costs the peer probes."""


@dataclass(frozen=True, slots=True)
class Offer:
    """`created_ms` orders the offers of one sender; `reply_wanted` asks for the recipient's own offer."""

    created_ms: int
    gate_index: int
    gate_share: bytes = field(repr=False)
    reply_wanted: bool
    candidates: tuple[Candidate, ...]
    nat: NatBehaviour = UNKNOWN_NAT

    @property
    def hosts(self) -> frozenset[Address]:
        """The sender's own addresses: where these differ, its network is another."""
        return frozenset(c.address for c in self.candidates if c.kind is CandidateKind.HOST)


class _WireCandidate(msgspec.Struct, frozen=True, array_like=True):
    kind: CandidateKind
    transport: Transport
    ip: Annotated[bytes, msgspec.Meta(min_length=4, max_length=16)]
    port: Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _WireNat(msgspec.Struct, frozen=True, array_like=True):
    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    stride: Annotated[int, msgspec.Meta(ge=-1024, le=1024)] = 0
    carries_udp: bool = True


class _WireOffer(msgspec.Struct, frozen=True, array_like=True):
    created_ms: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    gate_index: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    gate_share: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    reply_wanted: bool
    candidates: Annotated[list[_WireCandidate], msgspec.Meta(max_length=MAX_CANDIDATES)]
    nat: _WireNat = _WireNat()


_decoder = msgspec.msgpack.Decoder(_WireOffer)


def encode_offer(offer: Offer) -> bytes:
    """Candidates beyond `MAX_CANDIDATES` are left out, so put the best first."""
    wire = [
        _WireCandidate(c.kind, c.address.transport, ipaddress.ip_address(c.address.ip).packed, c.address.port)
        for c in offer.candidates[:MAX_CANDIDATES]
    ]
    nat = _WireNat(offer.nat.mapping, offer.nat.filtering, offer.nat.stride, offer.nat.carries_udp)
    return msgspec.msgpack.encode(
        _WireOffer(offer.created_ms, offer.gate_index, offer.gate_share, offer.reply_wanted, wire, nat)
    )


def decode_offer(data: bytes) -> Offer:
    """Raises `DecodeError` and nothing else."""
    try:
        wire = _decoder.decode(data)
        candidates = tuple(_candidate(c) for c in wire.candidates)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise DecodeError(str(error)) from None
    nat = NatBehaviour(wire.nat.mapping, wire.nat.filtering, wire.nat.stride, wire.nat.carries_udp)
    return Offer(wire.created_ms, wire.gate_index, wire.gate_share, wire.reply_wanted, candidates, nat)


def _candidate(wire: _WireCandidate) -> Candidate:
    """Raises `ValueError` for an IP of a length between 4 and 16."""
    ip = ipaddress.ip_address(wire.ip)
    return Candidate(wire.kind, Address(str(ip), wire.port, wire.transport))
