"""What the service did, for its log and metrics. No secret is in any of them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Enrolled:
    name: str
    key_id: str
    source: str


@dataclass(frozen=True, slots=True)
class EnrolmentRefused:
    """`key_id` is what was claimed; `is_proven` whether its secret was known, so that it is no stranger's noise."""

    key_id: str
    source: str
    why: str
    is_proven: bool


@dataclass(frozen=True, slots=True)
class KeyGuessed:
    """Many sources together try wrong secrets for an enrolment key. It is safe; who has it should know all the same."""

    key_id: str


@dataclass(frozen=True, slots=True)
class SignatureAwaited:
    """The authority is away: a certificate for `name` waits for a person who signs it there, as request `number`."""

    name: str
    number: str
    is_renewal: bool


@dataclass(frozen=True, slots=True)
class ListAwaited:
    """As many revocations wait for a list that the authority has signed. The service itself heeds them already."""

    count: int


@dataclass(frozen=True, slots=True)
class EndpointConnected:
    name: str
    source: str


@dataclass(frozen=True, slots=True)
class EndpointLost:
    name: str


@dataclass(frozen=True, slots=True)
class ChannelRejected:
    """A channel was closed before or because of what came over it. `name` is empty where none was proven."""

    source: str
    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Renewed:
    name: str


@dataclass(frozen=True, slots=True)
class Introduced:
    one: str
    other: str


@dataclass(frozen=True, slots=True)
class PairEnded:
    """Two are no longer introduced; `pair` is what relays call them."""

    pair: bytes


@dataclass(frozen=True, slots=True)
class EndpointRevoked:
    """`public_key` is its identity key, 32 bytes."""

    name: str
    public_key: bytes


@dataclass(frozen=True, slots=True)
class RenewalAlarm:
    """A certificate was renewed a second time, differently: two hosts hold its key. The endpoint is revoked.

    `sources` are the IP addresses that the two requests came from, the earlier first.
    """

    name: str
    sources: tuple[str, str]


@dataclass(frozen=True, slots=True)
class RevocationsIssued:
    number: int
    count: int


Event = (
    Enrolled
    | EnrolmentRefused
    | KeyGuessed
    | SignatureAwaited
    | ListAwaited
    | EndpointConnected
    | EndpointLost
    | ChannelRejected
    | Renewed
    | Introduced
    | PairEnded
    | EndpointRevoked
    | RenewalAlarm
    | RevocationsIssued
)
