"""The relays of an endpoint: which of them serve which peer, and the channels that lead there.

The service grants a pair the use of some relays; the grant is the relays' to judge, and is carried here as it is.
At most two of them are used for a peer. Each is a `Station` that all peers share.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from fabric.core.events import RelaysNamed
from fabric.core.identity import Identity
from fabric.core.machine import Draw, Instant, Transmit
from fabric.core.relay_station import Station
from fabric.core.relay_tls import ChannelsChanged, StationEvent
from fabric.crypto.signature import LABEL_RELAY
from fabric.errors import DecodeError
from fabric.identity.grant import grant_id
from fabric.wire.address import Address, Transport
from fabric.wire.relay import MAX_GRANT_BYTES
from fabric.wire.rendezvous import RelayPlace

__all__ = ["ChannelsChanged", "PeerGrant", "RelayEvent", "Relays", "ResolvedRelay"]

RELAYS_A_PEER = 2
"""As many as a datagram is sent through at once (`relay_copies`)."""
MAX_RELAYS = 16
"""The service names them: more would let it aim our requests at hosts that never asked for them."""
MAX_ADDRESSES = 4
"""Of one relay: two of each family."""
INTERVAL_S = 20.0
"""Some NATs forget a UDP mapping after 30 s."""
MAX_INTERVAL_S = 50.0
"""Within the life of a channel, with time for the retries."""
DUMMY_IP = "192.0.0.8"
"""In the addresses of a relay whose name doesn't resolve here, but perhaps at a proxy: RFC 7600 section 6."""

RelayEvent = StationEvent | RelaysNamed


@dataclass(frozen=True, slots=True)
class ResolvedRelay:
    """`addresses` are IPs; empty where the name does not resolve."""

    place: RelayPlace
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PeerGrant:
    """What the service granted last for a peer."""

    grant: bytes = field(repr=False)
    places: tuple[RelayPlace, ...]


@dataclass(frozen=True, slots=True)
class RelayState:
    """`address` is how it is reached now, None where it is not; `channels` are bound there."""

    place: RelayPlace
    address: Address | None
    channels: int


class Relays:
    """Events: `RelaysNamed`, `RelayLinkWanted`, `RelayLinkUnwanted`, `ChannelsChanged`."""

    def __init__(self, identity: Identity, draw: Draw, now: Instant) -> None:
        self._identity = identity
        self._draw = draw
        self._now = now
        self._interval_s = INTERVAL_S
        self._grants: dict[str, PeerGrant] = {}
        self._used: dict[str, tuple[RelayPlace, ...]] = {}
        self._stations: dict[RelayPlace, Station] = {}
        self._dummies: dict[RelayPlace, Address] = {}
        self._transmits: deque[Transmit] = deque()
        self._events: deque[RelayEvent] = deque()

    # what is granted

    def handle_granted(self, peer: str, grant: bytes, places: Sequence[RelayPlace], now: Instant) -> None:
        """Takes what the service, or the peer's record, says. An empty grant, or one that is too long, is none.

        The same grant again revives what a relay refused; a new one replaces the old without a gap.
        """
        if not 0 < len(grant) <= MAX_GRANT_BYTES:
            return
        identifier = grant_id(grant)
        used = self._choose(places)
        before = tuple(self._stations)
        self._leave(peer, [place for place in self._used.get(peer, ()) if place not in used])
        self._grants[peer] = PeerGrant(grant, tuple(places))
        self._used[peer] = used
        for place in used:
            self._station(place).bind(peer, grant, identifier, now)
        self._name_relays(before)

    def forget(self, peer: str) -> None:
        before = tuple(self._stations)
        self._grants.pop(peer, None)
        self._leave(peer, self._used.pop(peer, ()))
        self._name_relays(before)

    def grants(self, peer: str) -> PeerGrant | None:
        """Returns what to keep in the peer's record and to hand back to `handle_granted` after a restart."""
        return self._grants.get(peer)

    def states(self) -> tuple[RelayState, ...]:
        """Returns what there is to see of each relay that is in use."""
        return tuple(RelayState(place, s.active, s.channel_count) for place, s in self._stations.items())

    def channels(self, peer: str) -> tuple[Address, ...]:
        """Returns what leads to the peer through relays: UDP before TLS, and then in the service's order."""
        found = (self._stations[place].channel(peer) for place in self._used.get(peer, ()))
        return tuple(sorted((c for c in found if c is not None), key=lambda c: c.transport is Transport.RELAY_TLS))

    # the network

    def handle_relays(self, resolved: Sequence[ResolvedRelay], now: Instant) -> None:
        """Answers `RelaysNamed`; may come again at any time, for some or all of them."""
        for relay in resolved:
            station = self._stations.get(relay.place)
            if station is not None:
                taken = {a for other in self._stations.values() if other is not station for a in other.addresses}
                udp, tls = self._addresses(relay)
                station.handle_addresses(tuple(a for a in udp if a not in taken), None if tls in taken else tls, now)

    def handle_relay_link(self, relay: Address, up: bool, now: Instant) -> None:
        """The TLS connection that `RelayLinkWanted` asked for stands, or no longer."""
        station = self._station_at(relay)
        if station is not None and relay.transport is Transport.RELAY_TLS:
            station.handle_link(up=up, now=now)

    def handle_moved(self, now: Instant) -> None:
        """The own network changed."""
        for station in self._stations.values():
            station.handle_moved(now)

    def doubt(self, now: Instant) -> None:
        """Something outside is reached no longer, or again: asks the relays, unless they were just heard or asked.

        Unlike `handle_moved` this may be called for every peer and every doubt.
        """
        for station in self._stations.values():
            station.handle_doubt(now)

    def set_interval(self, seconds: float) -> None:
        """How often channels over UDP are refreshed: less often where NAT mappings are known to live longer."""
        self._interval_s = min(seconds, MAX_INTERVAL_S)
        for station in self._stations.values():
            station.interval_s = self._interval_s

    def handle_datagram_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        """Takes a RELAY_CONTROL datagram. Raises `DecodeError` for what answers nothing that was asked."""
        station = self._station_at(source)
        if station is None:
            raise DecodeError("a relay that is not in use")
        station.handle_datagram_untrusted(source, payload, now)

    # time, and what comes of it

    def handle_timeout(self, now: Instant) -> None:
        for station in self._stations.values():
            station.handle_timeout(now)

    def next_timeout(self) -> Instant | None:
        return min((station.next_timeout() for station in self._stations.values()), default=None)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> RelayEvent | None:
        return self._events.popleft() if self._events else None

    # inside

    def _choose(self, places: Sequence[RelayPlace]) -> tuple[RelayPlace, ...]:
        served = (place for place in dict.fromkeys(places) if place.udp_port or place.tls_port)
        chosen: list[RelayPlace] = []
        for place in served:
            room = MAX_RELAYS - len(self._stations) - sum(p not in self._stations for p in chosen)
            if len(chosen) < RELAYS_A_PEER and (place in self._stations or room > 0):
                chosen.append(place)
        return tuple(chosen)

    def _station(self, place: RelayPlace) -> Station:
        station = self._stations.get(place)
        if station is None:
            station = Station(place, self._sign, self._draw, self._events.append, self._transmits.append)
            station.interval_s = self._interval_s
            self._stations[place] = station
        return station

    def _station_at(self, address: Address) -> Station | None:
        return next((s for s in self._stations.values() if address in s.addresses), None)

    def _leave(self, peer: str, places: Sequence[RelayPlace]) -> None:
        for place in places:
            station = self._stations[place]
            station.unbind(peer)
            if station.is_unused:
                station.close()
                del self._stations[place]
                self._dummies.pop(place, None)

    def _name_relays(self, before: tuple[RelayPlace, ...]) -> None:
        if (places := tuple(self._stations)) != before:
            self._events.append(RelaysNamed(places))

    def _addresses(self, relay: ResolvedRelay) -> tuple[list[Address], Address | None]:
        """Returns the UDP addresses, IPv4 first, and the one that stands for the TLS connection."""
        place = relay.place
        ipv4 = [ip for ip in relay.addresses if ":" not in ip]
        ipv6 = [ip for ip in relay.addresses if ":" in ip]
        ips = ipv4[: MAX_ADDRESSES // 2] + ipv6[: MAX_ADDRESSES // 2]
        udp = [Address(ip, place.udp_port, Transport.RELAY_UDP) for ip in ips if place.udp_port]
        if not place.tls_port:
            return udp, None
        return udp, Address(ips[0], place.tls_port, Transport.RELAY_TLS) if ips else self._dummy(place)

    def _dummy(self, place: RelayPlace) -> Address:
        """Nothing is sent there: it only tells this relay from others without an IP."""
        taken = {address.port for address in self._dummies.values()}
        free = (port for port in (place.tls_port, *range(65_535, 0, -1)) if port not in taken)
        if place not in self._dummies:
            self._dummies[place] = Address(DUMMY_IP, next(free), Transport.RELAY_TLS)
        return self._dummies[place]

    def _sign(self, cookie: bytes, identifier: bytes) -> bytes:
        return self._identity.signer.sign(LABEL_RELAY, self._identity.network.encode(), cookie, identifier)
