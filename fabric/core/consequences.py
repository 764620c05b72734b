"""What follows from an input: each part of a node is drained, and what one says is taken to those whom it concerns.

Events, transmits and messages to the service gather here for the driver.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from fabric.core.beacons import BEACON_GROUP, Beacons
from fabric.core.channels import Channels
from fabric.core.circle import Circle
from fabric.core.credentials import Credentials
from fabric.core.events import (
    Event,
    LinkUnwanted,
    RelayContested,
    RelayLinkUnwanted,
    RelayLinkWanted,
    RelaysNamed,
    StoreRecord,
)
from fabric.core.farewells import Farewells
from fabric.core.hearing import Hearing
from fabric.core.machine import Instant, Transmit, drain
from fabric.core.own_addresses import OwnAddresses
from fabric.core.peer import Peer
from fabric.core.reflexive import Reflexive
from fabric.core.relays import ChannelsChanged, Relays
from fabric.core.third_parties import ThirdParties
from fabric.core.wants import Wants
from fabric.wire.rendezvous import SendOffer, ToService


class Consequences:
    """Settle what an input has touched: one peer, the relays, the own parts, or all; a node may have thousands of
    peers."""

    def __init__(
        self,
        peers: Circle,
        own: OwnAddresses,
        reflexive: Reflexive,
        relays: Relays,
        channels: Channels,
        hearing: Hearing,
        farewells: Farewells,
        credentials: Credentials,
        third_parties: ThirdParties,
        *,
        find_on_lan: bool,
    ) -> None:
        self._peers = peers
        self._own = own
        self._reflexive = reflexive
        self._relays = relays
        self._channels = channels
        self._hearing = hearing
        self._farewells = farewells
        self._credentials = credentials
        self._third_parties = third_parties
        self._find_on_lan = find_on_lan
        self.beacons = Beacons()
        self.wants = Wants()
        self.events: deque[Event] = deque()
        self.unstored: set[str] = set()
        self.transmits: deque[Transmit] = deque()
        self.messages: deque[tuple[int, ToService]] = deque()

    def settle_all(self, now: Instant) -> None:
        """After what concerns every peer; all else settles only whom it concerns, for a node may have thousands."""
        self.settle_own()
        for peer in self._peers:
            self.settle_peer(peer, now)
        self.settle_relays(now)

    def settle_own(self) -> None:
        self.messages.extend(drain(self._channels.poll_message))
        self.transmits.extend(drain(self._reflexive.poll_transmit))
        self.events.extend(drain(self._hearing.poll_event))
        self.events.extend(drain(self._farewells.poll_event))
        self.events.extend(drain(self._credentials.poll_event))

    def settle_relays(self, now: Instant) -> None:
        for event in drain(self._relays.poll_event):
            match event:
                case ChannelsChanged(peer=name):
                    peer = self._peers.get(name)
                    if peer is not None:
                        peer.handle_channels(self._relays.channels(name), now)
                        self.settle_peer(peer, now)
                case RelaysNamed() | RelayLinkWanted() | RelayLinkUnwanted() | RelayContested():
                    self.events.append(event)
        self.transmits.extend(drain(self._relays.poll_transmit))

    def settle_peer(self, peer: Peer, now: Instant) -> None:
        self.take_from(peer)
        self._peers.note(peer)
        self.events.extend(self.wants.note(peer))
        if peer.take_doubt():
            # A router that began anew loses paths, and gives other addresses: the relays' way is wanted next, and then
            # the peer is to be told.
            self._relays.doubt(now)
            self._reflexive.doubt(now)
        carried = peer.take_carried()
        if carried is not None:
            self._relays.handle_carried(peer.name, carried, now)
        elif peer.is_cut_off(now):
            self._relays.want_more(peer.name, now)
        observed = peer.take_observed()
        if observed is not None and self._own.handle_observed(peer.name, observed):
            self.spread_candidates(moved=False, now=now)
        if not peer.is_introduced:
            self._relays.forget(peer.name)
            self.beacons.forget(peer.name)
        elif self._find_on_lan and not self.beacons.knows(peer.name):
            self.beacons.add(peer.name, now)

    def forget(self, peer: str) -> None:
        self._peers.remove(peer)
        self.events.extend(self.wants.forget(peer))
        self._relays.forget(peer)
        self.beacons.forget(peer)
        self._third_parties.forget(peer)

    def take_from(self, peer: Peer) -> None:
        events: Iterator[Event] = drain(peer.poll_event)
        for event in events:
            if isinstance(event, StoreRecord):
                self.unstored.add(event.record.name)
            if not (isinstance(event, LinkUnwanted) and self._peers.is_wanted_by_another(peer, event.link)):
                self.events.append(event)
        self.transmits.extend(drain(peer.poll_transmit))
        said: list[ToService] = list(drain(peer.poll_message))
        for message in said:
            if self._channels.is_up:
                self._channels.say(message)
            elif isinstance(message, SendOffer):
                self._third_parties.pass_on(message)
        self.messages.extend(drain(self._channels.poll_message))

    def spread_candidates(self, *, moved: bool, now: Instant) -> None:
        candidates, nat, networks = self._own.candidates(), self._reflexive.nat, self._own.networks
        self._relays.set_interval(self._reflexive.interval_s)
        for peer in self._peers:
            peer.handle_local(candidates, nat, networks, moved=moved, now=now)
        self.settle_all(now)

    def send_beacons(self, now: Instant) -> None:
        while (name := self.beacons.take_due(now)) is not None:
            beacon = self._peers[name].make_beacon(now)
            if beacon is not None:
                self.transmits.append(Transmit(BEACON_GROUP, beacon))
