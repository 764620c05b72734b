"""The endpoint as one machine: its peers, its channel to the service, its own addresses and its certificate.

Composes children and passes on; what one peer's news means for another peer is the only thing decided here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import replace

from fabric.core.channels import Channels
from fabric.core.circle import Circle
from fabric.core.consequences import Consequences
from fabric.core.credentials import Credentials
from fabric.core.events import (
    Event,
    LinkUnwanted,
    ServiceAccepted,
    ServiceRejected,
    StoreRecord,
    StunNames,
)
from fabric.core.explain import Here, has_wide_ipv6
from fabric.core.farewells import Farewells
from fabric.core.hearing import Hearing
from fabric.core.identity import Identity
from fabric.core.machine import Calendar, Draw, Instant, Transmit
from fabric.core.own_addresses import Interface, OwnAddresses
from fabric.core.peer import Peer
from fabric.core.records import PeerRecord
from fabric.core.reflexive import MAX_SERVERS, Reflexive
from fabric.core.relay_rival import explain_rival
from fabric.core.relays import Relays, ResolvedRelay
from fabric.core.settings import Settings
from fabric.core.status import PeerState, PeerStatus, TrustStatus
from fabric.core.surroundings import Surroundings
from fabric.core.third_parties import ThirdParties
from fabric.core.trusting import trust_of
from fabric.dataplane.contract import Control, Lane, Traffic
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.certificate import Certificate
from fabric.identity.name import parse_name
from fabric.wire.address import Address, Candidate
from fabric.wire.datagram import DatagramKind, classify, decode_gated
from fabric.wire.nat import NatBehaviour
from fabric.wire.path import CloseReason
from fabric.wire.rendezvous import (
    PublishBundle,
    RelayPlace,
    Renew,
    ToEndpoint,
    ToService,
    Welcome,
)


class Node:
    """Time and randomness come in; events, transmits and messages to the service are polled, in this order.

    `counters` counts what hostile or mistaken input was dropped, by reason; nothing else changes by it.
    """

    def __init__(
        self,
        identity: Identity,
        lane: Lane,
        calendar: Calendar,
        draw: Draw,
        settings: Settings,
        records: Sequence[PeerRecord],
        now: Instant,
    ) -> None:
        self._identity = identity
        self._calendar = calendar
        self._draw = draw
        self._settings = settings
        self._started_unix = calendar.unix(now)
        self._reflexive = Reflexive(draw, settings.stun_interval_s)
        self._own = OwnAddresses(self._reflexive)
        self.counters: Counter[str] = Counter()
        self._peers = Circle(identity, draw)
        self._third_parties = ThirdParties(self._peers, self.counters, may_ask=settings.ask_peers)
        self._channels = Channels(identity, draw)
        self._farewells = Farewells(self._channels)
        self._relays = Relays(identity, draw, now)
        self._credentials = Credentials(identity, calendar, now)
        self._hearing = Hearing(identity, self._peers, self._relays, self._credentials, self._farewells, self.counters)
        self._then = Consequences(
            self._peers,
            self._own,
            self._reflexive,
            self._relays,
            self._channels,
            self._hearing,
            self._farewells,
            self._credentials,
            self._third_parties,
            find_on_lan=settings.find_on_lan,
        )
        self._around = Surroundings(
            identity,
            lane,
            calendar,
            draw,
            settings,
            self._peers.allocate_index,
            self._peers.allocate_gate_index,
            self._peers.is_overlay,
            self._peers.check_address,
            self._third_parties.can_pass_on,
            self.here,
            lambda: self._reflexive.interval_s,
        )
        self._restore(records, now)
        self._then.settle_all(now)

    @property
    def certificate(self) -> Certificate:
        """The own one, as it is now."""
        return self._identity.certificate

    @property
    def candidates(self) -> tuple[Candidate, ...]:
        """What offers tell of the own addresses."""
        return self._own.candidates()

    @property
    def nat(self) -> NatBehaviour:
        return self._reflexive.nat

    @property
    def mapping_lifetime_s(self) -> float | None:
        """How long a silent UDP mapping of the own NAT is known to have lasted."""
        return self._reflexive.lifetime_s

    @property
    def carries_tcp(self) -> bool | None:
        return self._own.carries_tcp

    @property
    def relays(self) -> Relays:
        """To be looked at only."""
        return self._relays

    @property
    def is_service_up(self) -> bool:
        return self._channels.is_up

    def here(self) -> Here:
        """What is known of the own network."""
        return Here(
            port=self._own.port,
            nat=self._reflexive.nat,
            carries_tcp=self._own.carries_tcp,
            has_ipv4=any(network.version == 4 for network in self._own.networks),
            has_ipv6=has_wide_ipv6(candidate.address.ip for candidate in self._own.candidates()),
            is_service_up=self.is_service_up,
        )

    # the network

    def handle_datagram(self, source: Address, payload: bytes, now: Instant) -> None:
        """Takes every datagram that the lane left: gated ones of peers and STUN answers, and hostile ones."""
        try:
            match classify(payload):
                case DatagramKind.GATED:
                    self._handle_gated_untrusted(source, payload, now)
                case DatagramKind.STUN:
                    if self._reflexive.handle_datagram_untrusted(source, payload, now):
                        self._then.spread_candidates(moved=False, now=now)
                case DatagramKind.RELAY_CONTROL:
                    self._relays.handle_datagram_untrusted(source, payload, now)
                    self._then.settle_relays(now)
                case _:
                    self.counters["unknown_datagram"] += 1
        except DecodeError:
            self.counters["malformed_datagram"] += 1
        except AuthenticationError:
            self.counters["unauthentic_datagram"] += 1
        self._then.settle_own()

    def handle_control(self, control: Control, now: Instant) -> None:
        peer = self._peers.get(control.peer)
        if peer is None:
            return
        try:
            if self._third_parties.concern(control.payload):
                concerned = self._third_parties.handle_control_untrusted(peer, control.payload, now)
                if concerned is not None:
                    self._then.settle_peer(concerned, now)
            else:
                peer.handle_control_untrusted(control, now)
        except DecodeError:
            self.counters["malformed_control"] += 1
        except AuthenticationError:
            self.counters["unauthentic_control"] += 1
        self._then.settle_peer(peer, now)

    def handle_traffic(self, traffic: Sequence[Traffic], now: Instant) -> None:
        for report in traffic:
            peer = self._peers.get(report.peer)
            if peer is not None:
                peer.handle_traffic(report, now)
                self._then.settle_peer(peer, now)

    def handle_interfaces(self, interfaces: Sequence[Interface], port: int, now: Instant) -> None:
        """`interfaces` are the underlay's addresses with their networks; `port` is that of the UDP sockets.

        To be called whenever the host's network changes, also where it ends up with the same private address: the
        network behind it may be another.
        """
        self._own.handle_interfaces(interfaces, port, now)
        self._relays.handle_moved(now)
        self._then.beacons.handle_moved(now)
        self._then.spread_candidates(moved=True, now=now)
        self._then.settle_own()

    def handle_mapped(self, addresses: Sequence[Address], now: Instant) -> None:
        """These ports of a router are forwarded to the own one now."""
        if self._own.handle_mapped(addresses):
            self._then.spread_candidates(moved=False, now=now)
        self._then.settle_own()

    def handle_listening(self, *, up: bool, now: Instant) -> None:
        """Whether TCP connections are taken now, as `ListenWanted` asked."""
        if self._own.handle_listening(up=up):
            self._then.spread_candidates(moved=False, now=now)
        self._then.settle_own()

    def handle_tcp_reflexive(self, addresses: Sequence[Address], now: Instant) -> None:
        """Where servers see the own TCP port."""
        if self._own.handle_tcp(addresses):
            self._then.spread_candidates(moved=False, now=now)
        self._then.settle_own()

    def handle_link(self, link: Address, asked: Address | None, now: Instant) -> None:
        """A TCP connection stands. One that was taken belongs to nobody until a peer speaks on it."""
        is_taken = asked is None
        if asked is not None:
            for peer in self._peers:
                is_taken |= peer.handle_link(link, asked, now)
                self._then.settle_peer(peer, now)
        if not is_taken:
            self._then.events.append(LinkUnwanted(link))

    def handle_link_lost(self, link: Address, now: Instant) -> None:
        for peer in self._peers:
            peer.handle_link_lost(link, now)
            self._then.settle_peer(peer, now)

    def handle_connect_failed(self, to: Address, why: str, now: Instant) -> None:
        for peer in self._peers:
            peer.handle_connect_failed(to, why, now)
            self._then.settle_peer(peer, now)

    def handle_sockets(self, vias: tuple[int, ...], now: Instant) -> None:
        """The sockets that were wanted are open."""
        peer = self._peers.get(self._then.wants.borrower or "")
        if peer is None or not peer.wants_sockets:
            self._then.events.append(self._then.wants.refuse(vias))
            return
        peer.handle_sockets(vias, now)
        self._then.settle_peer(peer, now)

    def handle_too_long(self, refused: Sequence[tuple[Address, int]], now: Instant) -> None:
        """The own device refused datagrams to these for their length in bytes."""
        for to, payload_bytes in refused:
            for peer in self._peers:
                peer.handle_too_long(to, payload_bytes, now)
                self._then.settle_peer(peer, now)

    def handle_relays(self, resolved: Sequence[ResolvedRelay], now: Instant) -> None:
        self._relays.handle_relays(resolved, now)
        self._then.settle_relays(now)

    def handle_relay_link(self, relay: Address, *, up: bool, now: Instant) -> None:
        self._relays.handle_relay_link(relay, up=up, now=now)
        self._then.settle_relays(now)

    def handle_stun_servers(self, addresses: Sequence[Address], now: Instant) -> None:
        self._reflexive.handle_servers(addresses, now)
        self._reflexive.handle_timeout(now)
        self._then.settle_own()

    # the service

    def handle_service_connected(self, link: int, tls_certificate: bytes, _now: Instant) -> None:
        """A channel is open over TLS with this certificate, which the shell has verified against the authority.

        `link` is a number that no other connection has or had: there may be two at once.
        """
        self._channels.handle_connected(link, tls_certificate)
        self._then.settle_own()

    def handle_service_lost(self, link: int, now: Instant) -> None:
        if self._channels.handle_lost(link):
            self._then.messages.clear()
            for peer in self._peers:
                peer.handle_service(up=False, now=now)
            self._then.settle_all(now)
        self._then.settle_own()

    def handle_service_message(self, link: int, message: ToEndpoint, now: Instant) -> None:
        """What the service says is believed only as far as the two ends signed it."""
        if not self._channels.knows(link):
            self.counters["unexpected_message"] += 1
            return
        was_up = self._channels.is_up
        try:
            accepted = self._channels.handle_message_untrusted(link, message)
        except AuthenticationError as error:
            self._then.events.append(ServiceRejected(link, str(error)))
            self.handle_service_lost(link, now)
            return
        try:
            if isinstance(accepted, Welcome):
                self._handle_welcome(link, accepted, was_up=was_up, now=now)
            elif accepted is not None:
                self._handle_said_untrusted(accepted, now)
        except (DecodeError, AuthenticationError):
            self.counters["unauthentic_message"] += 1
        self._then.settle_own()

    # the operator and the shell

    def add(self, peer: str, fingerprint: str | None, now: Instant) -> None:
        """States the wish to meet `peer` (a full name); known already: only the fingerprint may change.

        Raises `DecodeError` for a name that this network can't have.
        """
        parse_name(peer, self._identity.network)
        mark = self._farewells.take_back(peer)
        known = self._peers.get(peer)
        if known is None and peer != self._identity.name:
            before = mark or PeerRecord(name=peer)
            record = PeerRecord(
                name=peer,
                fingerprint=fingerprint,
                pinned_key=before.pinned_key,
                pinned_serial=before.pinned_serial,
                entangled=before.entangled,
            )
            self._admit(record, since_unix=0.0, now=now)
        elif known is not None and fingerprint is not None:
            known.set_fingerprint(fingerprint, now)
            self._then.settle_peer(known, now)
        self._then.settle_own()

    def remove(self, peer: str, now: Instant) -> bool:
        """Ends it at once on both sides and forgets the peer, but for who it is. False where there is no such peer."""
        known = self._peers.get(peer)
        if known is None:
            return False
        known.close(CloseReason.WITHDRAWN, now)
        self._then.take_from(known)
        self._then.forget(peer)
        self._farewells.say(known.papers.record)
        self._then.settle_own()
        return True

    def reset_trust(self, peer: str, *, key: bool, now: Instant) -> bool:
        """Takes back the root shared with a peer, any alarm, and with `key` its pinned key. False for a stranger."""
        known = self._peers.get(peer)
        if known is not None:
            known.reset_trust(key=key, now=now)
            self._then.settle_peer(known, now)
        is_past = known is None and self._farewells.forget_trust(peer, key=key)
        self._then.settle_own()
        return known is not None or is_past

    def handle_stored(self, now: Instant) -> None:
        """Every record that was polled so far is on stable storage: what had to wait for that happens now."""
        stored, self._then.unstored = self._then.unstored, set()
        for name in sorted(stored):
            peer = self._peers.get(name)
            if peer is not None:
                peer.handle_stored(now)
                self._then.settle_peer(peer, now)
        self._then.settle_own()

    def enable(self, peer: str, now: Instant) -> bool:
        return self._set_enabled(peer, enabled=True, now=now)

    def disable(self, peer: str, now: Instant) -> bool:
        return self._set_enabled(peer, enabled=False, now=now)

    def ping(self, peer: str, token: int, now: Instant) -> bool:
        """Answered by a `Pong` with `token`; False where the peer is not connected."""
        known = self._peers.get(peer)
        if known is None:
            return False
        sent = known.ping(token, now)
        self._then.settle_peer(known, now)
        return sent

    def request_renewal(self, request: bytes, _now: Instant, rotation: bytes = b"") -> None:
        """`request` is a PKCS#10 over the own key; the answer to `RenewalDue`. Or it is over `Identity.next_key`, and
        `rotation` says so in the name of the own."""
        self._channels.say(Renew(request, rotation))
        self._then.settle_own()

    def replace_bundle(self, bundle: bytes, now: Instant) -> None:
        """Takes a new key bundle into use; its secrets are durable. The answer to `BundleDue`."""
        self._credentials.replace_bundle(bundle, now)
        self._channels.say(PublishBundle(bundle))
        self._then.settle_own()

    def handle_rotated(self, now: Instant) -> None:
        """Certificate, signer and rotations of the identity are those of its next key; the shell has made them durable.

        Sessions go on; each is renewed at once, so that the peer learns of the key by what the old one has signed.
        """
        self._credentials.handle_rotated(now)
        for peer in self._peers:
            peer.handle_own_certificate(now)
        self._then.settle_all(now)

    def handle_clock_set(self, offset: float, now: Instant) -> None:
        """The wall clock was set: every life that it measures is looked at again."""
        by_s, self._calendar.offset = offset - self._calendar.offset, offset
        self._credentials.handle_clock_set(now)
        for peer in self._peers:
            peer.handle_clock_set(by_s, now)
        self._then.settle_all(now)

    def close(self, now: Instant) -> None:
        """The daemon stops: peers are told, so that they need not find out."""
        for peer in self._peers:
            peer.close(CloseReason.STOPPED, now)
        self._then.settle_all(now)

    def handle_timeout(self, now: Instant) -> None:
        if self._reflexive.handle_timeout(now):
            self._then.spread_candidates(moved=False, now=now)
        self._relays.handle_timeout(now)
        self._then.send_beacons(now)
        self._credentials.handle_timeout(now, is_service_up=self._channels.is_up)
        for peer in self._peers.due(now):
            peer.handle_timeout(now)
            self._then.settle_peer(peer, now)
        self._then.settle_relays(now)
        self._then.settle_own()

    # what the driver takes out

    def next_timeout(self) -> Instant | None:
        machines = (self._reflexive, self._credentials, self._relays, self._then.beacons, self._peers)
        return min((at for at in (machine.next_timeout() for machine in machines) if at is not None), default=None)

    def poll_event(self) -> Event | None:
        return self._then.events.popleft() if self._then.events else None

    def poll_transmit(self) -> Transmit | None:
        return self._then.transmits.popleft() if self._then.transmits else None

    def poll_message(self) -> tuple[int, ToService] | None:
        """Returns the number of a channel, and what to say on it."""
        return self._then.messages.popleft() if self._then.messages else None

    @property
    def open_gates(self) -> Collection[int]:
        """The indices of the gates that are open, to be looked at only."""
        return self._peers.open_gates

    def status(self, now: Instant) -> tuple[PeerStatus, ...]:
        return tuple(self._status(peer, now) for peer in sorted(self._peers, key=lambda peer: peer.name))

    def trust(self) -> tuple[TrustStatus, ...]:
        """What is known of every peer's key and of the state shared with it, also of those that were removed."""
        records = [peer.papers.record for peer in self._peers] + self._farewells.remembered
        own_key, network = self._identity.signer.public_key, self._identity.network
        return tuple(trust_of(record, network, own_key) for record in sorted(records, key=lambda record: record.name))

    # inside

    def _status(self, peer: Peer, now: Instant) -> PeerStatus:
        status = peer.status(now)
        place = self._relays.contested(peer.name, now)
        if place is None or status.state is PeerState.QUARANTINED:
            return status
        return replace(status, why=f"{status.why}; {explain_rival(place)}")

    def _restore(self, records: Sequence[PeerRecord], now: Instant) -> None:
        for record in records:
            if not record.is_wanted:
                self._farewells.restore(record)
            else:
                self._admit(record, since_unix=self._started_unix, now=now)

    def _admit(self, record: PeerRecord, *, since_unix: float, now: Instant) -> None:
        peer = Peer(self._around, record, since_unix, is_service_up=self._channels.is_up)
        self._peers.add(peer)
        self._then.events.append(StoreRecord(record))
        if record.grant is not None:
            self._relays.handle_granted(record.name, record.grant, tuple(RelayPlace(*r) for r in record.relays), now)
        peer.start(now)
        peer.handle_local(self._own.candidates(), self._reflexive.nat, self._own.networks, moved=False, now=now)
        peer.handle_service(up=self._channels.is_up, now=now)
        self._then.settle_peer(peer, now)

    def _handle_gated_untrusted(self, source: Address, payload: bytes, now: Instant) -> None:
        gated = decode_gated(payload)
        peer = self._peers.find(gated.gate_index)
        if peer is None:
            self.counters["unknown_gate"] += 1
            return
        try:
            peer.handle_gated_untrusted(source, gated, now)
        finally:
            self._then.settle_peer(peer, now)

    def _handle_said_untrusted(self, message: ToEndpoint, now: Instant) -> None:
        try:
            if self._hearing.handle_message_untrusted(message, now):
                self._then.settle_all(now)
        finally:
            peer = self._hearing.concerned(message)
            if peer is not None:
                self._then.settle_peer(peer, now)
                self._then.settle_relays(now)

    def _handle_welcome(self, link: int, welcome: Welcome, *, was_up: bool, now: Instant) -> None:
        if math.isfinite(welcome.unix_time):
            self._then.events.append(ServiceAccepted(link, welcome.unix_time))
        self._then.events.append(StunNames(welcome.stun[:MAX_SERVERS]))
        if not was_up:
            self._handle_service_up(now)
        if self._hearing.handle_revocations_untrusted(welcome.revocations, now):
            self._then.settle_all(now)

    def _handle_service_up(self, now: Instant) -> None:
        """The service is in reach again: it is told all that matters."""
        self._credentials.handle_clock_set(now)
        # A channel ends where a router on the way got another address, too: the reflexive address has to be asked anew.
        self._reflexive.doubt(now)
        self._reflexive.handle_timeout(now)
        if self._identity.bundle is not None:
            self._channels.say(PublishBundle(self._identity.bundle))
        self._farewells.say_all()
        for peer in self._peers:
            peer.handle_service(up=True, now=now)
        self._then.settle_all(now)

    def _set_enabled(self, peer: str, *, enabled: bool, now: Instant) -> bool:
        known = self._peers.get(peer)
        if known is None:
            return False
        known.set_enabled(enabled, now)
        self._then.settle_peer(known, now)
        return True
