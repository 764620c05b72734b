"""What an operator or a test may tune in the service, each with the reason for its default. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network

from fabric.wire.rendezvous import RelayPlace

DAY_S = 86_400.0
DEFAULT_OVERLAY = IPv4Network("100.64.0.0/10")
"""Shared address space (RFC 6598): no LAN of a home or an office should have it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`addresses` and `stun` are "host:port" strings that endpoints are told; `overlay` the IPv4 range of the LAN."""

    overlay: IPv4Network = DEFAULT_OVERLAY
    addresses: tuple[str, ...] = ()
    stun: tuple[str, ...] = ()

    relays: tuple[tuple[RelayPlace, ...], ...] = ()
    """Those that introduced pairs may use, each with the places where it is reached; without any, none is granted."""

    pair_secret: bytes = field(default=b"", repr=False)
    """At most 64 bytes; the names of pairs at relays come of it, so it outlives the process. Empty: one is drawn."""

    relay_rate_bytes_s: int = 12_500_000
    """Of a pair, both directions: 100 Mbit/s. Some ten pairs at once fill what a relay forwards."""

    relay_quota_bytes: int = 256 * 1024**3
    """What one side sends in a day: a quarter of what its rate would allow."""

    grant_life_s: float = DAY_S
    """No longer than relays remember what is void (see `relay`)."""

    regrant_s: float = DAY_S / 4
    """Whenever the service dies, what it granted last holds for three quarters of its life."""

    certificate_life_s: float = 7 * DAY_S
    """How long a revocation that doesn't reach anybody can matter, against how long the service may be away."""

    ephemeral_life_s: float = DAY_S
    """An ephemeral endpoint that is gone frees its name and address after this."""

    late_renewal_s: float = 90 * DAY_S
    """A host that was off comes back by itself until this long after its certificate's end."""

    revocations_refresh_s: float = DAY_S
    """A list older than this is issued again, so that its nextUpdate stays ahead."""

    revocations_life_s: float = 7 * DAY_S

    max_waiting: int = 1024
    """Enrolments that wait for an authority which is away: each keeps a row, a name and an address."""

    max_waiting_per_key: int = 128
    """One key in the wrong hands can't fill the queue for the others."""

    max_wait_s: float = 30 * DAY_S
    """What nobody has signed for so long is dropped; who still wants it asks again."""

    sweep_s: float = 30.0
    """How late the end of an intent may be told: both ends know it from the signed intents themselves."""

    authentication_s: float = 10.0
    """A stranger holds an open channel no longer than this."""

    max_intents: int = 4096
    """Per endpoint: bounds what one of them can make the service store."""

    max_offer_life_s: float = 600.0
    max_offers: int = 128
    """Waiting for one recipient."""

    max_offer_bytes: int = 32 * 1024 * 1024
    """Waiting in all."""

    message_rate: float = 50.0
    message_burst: float = 8192.0
    """Per channel. A restart states every intent and answers every introduction at once; thereafter little is said."""

    enrolment_rate: float = 1.0
    enrolment_burst: float = 60.0
    """Attempts per source: a site can enrol a rack of hosts behind one NAT; guessing a 256-bit secret can't work."""

    channel_rate: float = 4.0
    channel_burst: float = 256.0
    """New channels per source: an authentication costs the service about half a millisecond."""

    max_channels_per_endpoint: int = 2
    """Endpoints use two of the service's addresses at once; another channel closes the oldest."""

    max_channels_per_source: int = 512
    max_channels: int = 16_384
