"""What an operator or a test may tune in the service, each with the reason for its default. Times in seconds."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Network

DAY_S = 86_400.0
DEFAULT_OVERLAY = IPv4Network("100.64.0.0/10")
"""Shared address space (RFC 6598): no LAN of a home or an office should have it."""


@dataclass(frozen=True, slots=True)
class Settings:
    """`addresses` and `stun` are "host:port" strings that endpoints are told; `overlay` the IPv4 range of the LAN."""

    overlay: IPv4Network = DEFAULT_OVERLAY
    addresses: tuple[str, ...] = ()
    stun: tuple[str, ...] = ()

    certificate_life_s: float = 7 * DAY_S
    """How long a revocation that doesn't reach anybody can matter, against how long the service may be away."""

    ephemeral_life_s: float = DAY_S
    """An ephemeral endpoint that is gone frees its name and address after this."""

    late_renewal_s: float = 90 * DAY_S
    """A host that was off comes back by itself until this long after its certificate's end."""

    revocations_refresh_s: float = DAY_S
    """A list older than this is issued again, so that its nextUpdate stays ahead."""

    revocations_life_s: float = 7 * DAY_S

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

    max_channels_per_source: int = 512
    max_channels: int = 16_384
