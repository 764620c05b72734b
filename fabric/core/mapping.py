"""What there is to say of port mappings, and what a gateway's clock betrays."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass

from fabric.core.machine import Instant
from fabric.wire.address import Address, Transport
from fabric.wire.pcp import (
    SUCCESS,
    PcpMap,
    Protocol,
    encode_nat_pmp_address,
    encode_nat_pmp_map,
    encode_pcp_map,
)

_HIDDEN = tuple(
    ipaddress.IPv4Network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")
)
"""RFC 1918 and RFC 6598."""


class Outcome(enum.Enum):
    """What came of it, in one word."""

    NO_GATEWAY = "no gateway"
    ASKING = "asking"
    MAPPED = "mapped"
    BEHIND_NAT = "behind another NAT"
    REFUSED = "refused"
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class MappingReport:
    """For `fabric doctor`. `protocol` is None where none was found; `words` is a sentence for people."""

    outcome: Outcome
    protocol: Protocol | None
    addresses: tuple[Address, ...]
    words: str


@dataclass(frozen=True, slots=True)
class MappingsChanged:
    """The outside addresses that lead here now."""

    addresses: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class UpnpWanted:
    """The shell is to map `port` of `own_ip` at `gateway` by UPnP, and to call `handle_upnp`, whatever comes of it.

    `outside` has the outside ports that would be welcome, where there were some before.
    """

    gateway: str
    own_ip: str
    port: int
    lifetime_s: int
    outside: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class UpnpUnwanted:
    """The shell is to delete what it mapped by UPnP, and to call `handle_upnp_removed`."""

    mapped: tuple[Address, ...]


@dataclass(frozen=True, slots=True)
class UpnpMapped:
    """`lifetime_s` 0: until deleted."""

    addresses: tuple[Address, ...]
    lifetime_s: int


@dataclass(frozen=True, slots=True)
class UpnpRefused:
    """There is such a gateway, and it does not want to."""

    words: str


MappingEvent = MappingsChanged | UpnpWanted | UpnpUnwanted


@dataclass(frozen=True, slots=True)
class AskedGateway:
    """Whom to ask, and for what: `port` of `own_ip`."""

    ip: str
    own_ip: str
    port: int


@dataclass(slots=True)
class Wish:
    """One mapping, as far as it has come. `outside_ip` is unknown for a while under NAT-PMP."""

    nonce: bytes
    outside_port: int = 0
    outside_ip: str | None = None
    expires_at: Instant = 0.0
    confirmed_at: Instant = 0.0
    asked: int = 0
    """How often since the last answer."""
    has_asked: bool = False
    is_settled: bool = True
    """Whether what stands is thought to be so: a renewal has time, all else has not."""
    refusal: int = SUCCESS

    @property
    def stands(self) -> bool:
        return self.outside_port != 0

    def forget(self) -> None:
        self.outside_port, self.outside_ip, self.asked, self.is_settled, self.refusal = 0, None, 0, True, SUCCESS


@dataclass(slots=True)
class Epoch:
    """What the gateway's clock said, and when that was: a clock that lost time has lost the table too."""

    server_s: int
    at: Instant

    def has_restarted(self, protocol: Protocol, server_s: int, now: Instant) -> bool:
        """RFC 6887 section 8.5, RFC 6886 section 3.6."""
        ours, theirs = now - self.at, server_s - self.server_s
        if protocol is Protocol.NAT_PMP:
            return theirs < ours * 7 / 8 - 2
        return theirs < -1 or ours + 2 < theirs - theirs / 16 or theirs + 2 < ours - ours / 16


def pcp_requests(gateway: AskedGateway, wish: Wish, transport: Transport, lifetime_s: int) -> tuple[bytes, ...]:
    """Returns what to send for a wish; `lifetime_s` 0 gives it up."""
    ip, port = (wish.outside_ip, wish.outside_port or gateway.port) if lifetime_s else (None, 0)
    return (encode_pcp_map(PcpMap(gateway.own_ip, wish.nonce, transport, gateway.port, ip, port, lifetime_s)),)


def nat_pmp_requests(gateway: AskedGateway, wish: Wish, transport: Transport, lifetime_s: int) -> tuple[bytes, ...]:
    """The outside address is a question of its own here."""
    if not lifetime_s:
        return (encode_nat_pmp_map(transport, gateway.port, 0, 0),)
    wanted = wish.outside_port or gateway.port
    return encode_nat_pmp_address(), encode_nat_pmp_map(transport, gateway.port, wanted, lifetime_s)


def unmapped_report(gateway: str, refused: Mapping[Protocol, str], is_first: bool) -> MappingReport:
    """`is_first`: nobody has had the time to refuse or to answer."""
    if refused:
        why = ", ".join(f"{protocol.value}: {words}" for protocol, words in refused.items())
        return MappingReport(Outcome.REFUSED, next(iter(refused)), (), f"{gateway} refuses to map a port ({why})")
    if is_first:
        return MappingReport(Outcome.ASKING, None, (), f"asking {gateway} for a port")
    words = f"{gateway} answers neither PCP nor NAT-PMP nor UPnP; its settings may have a switch for one of them"
    return MappingReport(Outcome.SILENT, None, (), words)


def mapped_report(gateway: str, protocol: Protocol, addresses: tuple[Address, ...]) -> MappingReport:
    hidden = next((address.ip for address in addresses if _is_hidden(address.ip)), None)
    if hidden is None:
        return MappingReport(Outcome.MAPPED, protocol, addresses, f"{gateway} maps a port by {protocol.value}")
    words = f"{gateway} maps a port by {protocol.value}, but is itself behind a NAT: its outside address is {hidden}"
    return MappingReport(Outcome.BEHIND_NAT, protocol, addresses, words)


def _is_hidden(ip: str) -> bool:
    """Whether an outside address is of a range that no host on the internet can send to."""
    address = ipaddress.ip_address(ip)
    return any(address in network for network in _HIDDEN)


def is_usable(ip: str) -> bool:
    """Whether peers could be told to send there: no gateway is to aim them at groups, or at themselves."""
    address = ipaddress.ip_address(ip)
    return isinstance(address, ipaddress.IPv4Address) and not (
        address.is_multicast
        or address.is_loopback
        or address.is_unspecified
        or address.is_link_local
        or address.is_reserved
    )
