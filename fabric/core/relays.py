"""The relays of an endpoint: which of them serve which peer, and the channels that lead there.

The service grants a pair the use of some relays; the grant is the relays' to judge, and is carried here as it is.
Two of them are used for a peer, and others stand in for those that are out of reach (see `relay_choice`). Each is a
`Station` that all peers share.

What a hostile service can make of this: whatever it names, whom and how often, hosts that never answer as a relay
does get `CALLS_AT_ONCE` datagrams and then one every 5 s, all of them together: 820 in the first hour after a start
or a move of this host and 720 in each later one, of some 600 bytes and at most 1.1 kB.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from fabric.core.askable import is_askable
from fabric.core.events import RelayContested, RelaysNamed
from fabric.core.identity import Identity
from fabric.core.machine import Draw, Instant, Transmit
from fabric.core.pace import Pace
from fabric.core.relay_choice import PeerRelays, usable_places
from fabric.core.relay_rival import TOLD_AGAIN_S, first_contested
from fabric.core.relay_station import Ports, Station
from fabric.core.relay_tls import ChannelsChanged, StationEvent
from fabric.crypto.signature import LABEL_RELAY
from fabric.errors import DecodeError
from fabric.identity.grant import grant_id
from fabric.wire.address import Address, Transport
from fabric.wire.relay import MAX_GRANT_BYTES
from fabric.wire.rendezvous import RelayPlace

__all__ = ["ChannelsChanged", "PeerGrant", "RelayEvent", "Relays", "ResolvedRelay"]

MAX_RELAYS = 16
"""The service names them: more would let it aim our requests at hosts that never asked for them."""
MAX_ADDRESSES = 4
"""Of one relay: two of each family."""
INTERVAL_S = 20.0
"""Some NATs forget a UDP mapping after 30 s."""
MAX_INTERVAL_S = 50.0
"""Within the life of a channel, with time for the retries."""
OUT_OF_REACH_S = 3.0
"""For so long nobody stands in for a relay that is lost: most are found again by then, over TLS too."""
LET_GO_S = 30.0
"""Who stood in stays for as long: the relay that is back may go again, and the other end may not reach it yet."""
CALLS_AT_ONCE = 100
CALL_PAUSE_S = 5.0
"""Pace at which addresses are called that never answered. Four relays with two addresses each need 24 at first, and
then one call in 7.5 s."""
DUMMY_IP = "192.0.0.8"
"""In the addresses of a relay whose name doesn't resolve here, but perhaps at a proxy: RFC 7600 section 6."""

RelayEvent = StationEvent | RelaysNamed | RelayContested


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
    """Events: `RelaysNamed`, `RelayLinkWanted`, `RelayLinkUnwanted`, `RelayContested`, `ChannelsChanged`."""

    def __init__(self, identity: Identity, draw: Draw, now: Instant) -> None:
        self._identity = identity
        self._draw = draw
        self._now = now
        self._interval_s = INTERVAL_S
        self._grants: dict[str, PeerGrant] = {}
        self._peers: dict[str, PeerRelays] = {}
        self._stations: dict[RelayPlace, Station] = {}
        self._out: set[RelayPlace] = set()
        """Places out of reach for so long that others stand in for them."""
        self._to_review: dict[str, None] = {}
        self._let_go_at: dict[str, Instant] = {}
        """By peer that uses more than it needs; the earliest first, as all have the same time to wait."""
        self._calls = Pace(CALL_PAUSE_S, CALLS_AT_ONCE)
        self._rivals_told = Pace(TOLD_AGAIN_S, 1)
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
        before = tuple(self._stations)
        old = self._peers.get(peer) or PeerRelays(())
        usable = usable_places(places)
        self._leave(peer, [place for place in old.used if place not in usable])
        used = tuple(place for place in usable if place in old.used)
        self._grants[peer] = PeerGrant(grant, tuple(places))
        self._peers[peer] = PeerRelays(usable, used, old.carried.intersection(usable), old.is_wide)
        self._bind(peer, used, now)
        self._to_review[peer] = None
        self._settle(now, before)

    def forget(self, peer: str) -> None:
        before = tuple(self._stations)
        self._grants.pop(peer, None)
        self._let_go_at.pop(peer, None)
        if (relays := self._peers.pop(peer, None)) is not None:
            self._leave(peer, relays.used)
        self._name_relays(before)

    def want_more(self, peer: str, now: Instant) -> None:
        """For ten seconds or so no way through the peer's relays has worked, and one is needed: the two ends may reach
        different ones. All that are granted (up to 4) are used until `handle_carried` tells which of them work."""
        relays = self._peers.get(peer)
        if relays is not None and not relays.is_wide:
            relays.is_wide = True
            self._to_review[peer] = None
            self._settle(now)

    def handle_carried(self, peer: str, channels: Collection[Address], now: Instant) -> None:
        """These of the peer's channels work now, all of them; to be told when that changes."""
        relays = self._peers.get(peer)
        if relays is None:
            return
        working = frozenset(channels)
        carried = frozenset(at for at in relays.used if not working.isdisjoint(self._stations[at].channels(peer)))
        if carried == relays.carried:
            return
        relays.carried = carried
        if relays.is_wide:
            self._to_review[peer] = None
            self._settle(now)

    def grants(self, peer: str) -> PeerGrant | None:
        """Returns what to keep in the peer's record and to hand back to `handle_granted` after a restart."""
        return self._grants.get(peer)

    def states(self) -> tuple[RelayState, ...]:
        """Returns what there is to see of each relay that is in use."""
        return tuple(RelayState(place, s.active, s.channel_count) for place, s in self._stations.items())

    def contested(self, peer: str, now: Instant) -> RelayPlace | None:
        """Returns the first of the peer's relays that says that somebody else binds there with the own key, again and
        again."""
        moves = {place: self._stations[place].moves(peer) for place in self._used(peer)}
        return first_contested(moves, now)

    def channels(self, peer: str) -> tuple[Address, ...]:
        """Returns what leads to the peer through relays: UDP before TLS, and then in the service's order."""
        found = itertools.chain.from_iterable(self._stations[place].channels(peer) for place in self._used(peer))
        return tuple(sorted(found, key=lambda channel: channel.transport is Transport.RELAY_TLS))

    # the network

    def handle_relays(self, resolved: Sequence[ResolvedRelay], now: Instant) -> None:
        """Answers `RelaysNamed`; may come again at any time, for some or all of them."""
        for relay in resolved:
            station = self._stations.get(relay.place)
            if station is not None:
                taken = {a for other in self._stations.values() if other is not station for a in other.addresses}
                udp, tls = self._addresses(relay)
                station.handle_addresses(tuple(a for a in udp if a not in taken), None if tls in taken else tls, now)
        self._settle(now)

    def handle_relay_link(self, relay: Address, up: bool, now: Instant) -> None:
        """The TLS connection that `RelayLinkWanted` asked for stands, or no longer."""
        station = self._station_at(relay)
        if station is not None and relay.transport is Transport.RELAY_TLS:
            station.handle_link(up=up, now=now)
            self._settle(now)

    def handle_moved(self, now: Instant) -> None:
        """The own network changed."""
        self._calls.refill()
        for station in self._stations.values():
            station.handle_moved(now)
        self._settle(now)

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
        self._settle(now)

    # time, and what comes of it

    def handle_timeout(self, now: Instant) -> None:
        for station in self._stations.values():
            station.handle_timeout(now)
        before = tuple(self._stations)
        for peer in list(itertools.takewhile(lambda peer: self._let_go_at[peer] <= now, self._let_go_at)):
            self._let_go(peer, now)
        self._settle(now, before)

    def next_timeout(self) -> Instant | None:
        ats = [station.next_timeout() for station in self._stations.values()]
        ats += [s.lost_at + OUT_OF_REACH_S for place, s in self._stations.items() if place not in self._out]
        ats += list(itertools.islice(self._let_go_at.values(), 1))
        return min(ats, default=None)

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_event(self) -> RelayEvent | None:
        return self._events.popleft() if self._events else None

    # inside

    def _used(self, peer: str) -> tuple[RelayPlace, ...]:
        relays = self._peers.get(peer)
        return relays.used if relays is not None else ()

    def _serves(self, place: RelayPlace, peer: str) -> bool:
        """Whether this end has the use of a relay, or may well have it in a moment."""
        station = self._stations.get(place)
        return station is None or (place not in self._out and not station.is_vain(peer))

    def _settle(self, now: Instant, before: tuple[RelayPlace, ...] | None = None) -> None:
        """Chooses anew for whomever there is a reason."""
        before = tuple(self._stations) if before is None else before
        for place, station in self._stations.items():
            if (station.lost_at + OUT_OF_REACH_S <= now) != (place in self._out):
                self._out ^= {place}
                self._to_review.update(dict.fromkeys(station.peers))
        while self._to_review:
            peer, _ = self._to_review.popitem()
            self._review(peer, now)
        self._name_relays(before)

    def _review(self, peer: str, now: Instant) -> None:
        relays = self._peers.get(peer)
        if relays is None:
            return
        wanted = self._wanted(peer, relays)
        self._bind(peer, [place for place in wanted if place not in relays.used], now)
        relays.used = tuple(place for place in relays.places if place in relays.used or place in wanted)
        if len(wanted) < len(relays.used):
            self._let_go_at.setdefault(peer, now + LET_GO_S)
        else:
            self._let_go_at.pop(peer, None)

    def _let_go(self, peer: str, now: Instant) -> None:
        """Unless one of those that are to stay is just going again."""
        del self._let_go_at[peer]
        relays = self._peers[peer]
        wanted = [place for place in self._wanted(peer, relays) if place in relays.used]
        if any(self._serves(place, peer) and not self._stations[place].channels(peer) for place in wanted):
            self._let_go_at[peer] = now + LET_GO_S
            return
        self._leave(peer, [place for place in relays.used if place not in wanted])
        relays.used = tuple(wanted)
        relays.is_wide &= relays.carried.isdisjoint(wanted)

    def _wanted(self, peer: str, relays: PeerRelays) -> list[RelayPlace]:
        room = MAX_RELAYS - len(self._stations)
        fresh = [place for place in relays.places if place not in self._stations]
        shut_out = set(fresh[room:])
        return relays.wanted(lambda place: self._serves(place, peer), lambda place: place not in shut_out)

    def _bind(self, peer: str, places: Sequence[RelayPlace], now: Instant) -> None:
        grant = self._grants[peer].grant
        identifier = grant_id(grant)
        for place in places:
            self._station(place, now).bind(peer, grant, identifier, now)

    def _station(self, place: RelayPlace, now: Instant) -> Station:
        station = self._stations.get(place)
        if station is None:
            ports = Ports(
                sign=self._sign,
                draw=self._draw,
                announce=self._events.append,
                transmit=self._transmits.append,
                review=self._note,
                may_call=self._calls.try_take,
                suspect=self._suspect,
            )
            station = Station(place, ports, now)
            station.interval_s = self._interval_s
            self._stations[place] = station
        return station

    def _suspect(self, peer: str, now: Instant) -> None:
        place = self.contested(peer, now)
        if place is not None and self._rivals_told.try_take(now):
            self._events.append(RelayContested(place))

    def _note(self, peer: str) -> None:
        self._to_review[peer] = None

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
                self._out.discard(place)

    def _name_relays(self, before: tuple[RelayPlace, ...]) -> None:
        if (places := tuple(self._stations)) != before:
            self._events.append(RelaysNamed(places))

    def _addresses(self, relay: ResolvedRelay) -> tuple[list[Address], Address | None]:
        """Returns the UDP addresses, IPv4 first, and the one that stands for the TLS connection."""
        place = relay.place
        hosts = [ip for ip in relay.addresses if is_askable(ip)]
        ipv4 = [ip for ip in hosts if ":" not in ip]
        ipv6 = [ip for ip in hosts if ":" in ip]
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
