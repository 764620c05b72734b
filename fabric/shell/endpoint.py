"""The endpoint as the world sees it: joins the node with keystore, lane, service and whoever asks.

Every method that calls into the node ends by settling the driver; between two awaits nothing else runs.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import trio

from fabric.core import events as e
from fabric.core.identity import Identity
from fabric.core.machine import Calendar, Instant, Transmit
from fabric.core.node import Node
from fabric.core.own_addresses import Interface
from fabric.core.records import PeerRecord
from fabric.core.status import PeerStatus, TrustStatus
from fabric.core.trusting import alarm_fields
from fabric.custody.contract import Custodian
from fabric.dataplane.contract import Control, Traffic
from fabric.identity.bundle import peek_bundle
from fabric.identity.fingerprint import parse_fingerprint
from fabric.identity.name import parse_name
from fabric.shell.driver import Driver
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.keystore import Keystore
from fabric.shell.log import Log
from fabric.shell.papers import store_certificate, store_revocations
from fabric.shell.renewal import renewal_nonce
from fabric.shell.rotation import Rotation
from fabric.shell.wishes import Verb, Wish, WishStore
from fabric.wire.address import Address, Target, address_of
from fabric.wire.rendezvous import Authenticate, Renew, ToEndpoint, ToService

OWN_PAPERS = (Authenticate.__name__, Renew.__name__)
"""What a refusal is about that concerns this endpoint itself, and not one of its wishes."""

CLOCK_TOLERANCE_S = 300.0
"""Peers refuse what is dated further from their own clock than this (protocol.md section 4)."""
OFFSET_TOLERANCE_S = 0.1

_log = Log("fabric.endpoint")


Way = (
    e.SocketsWanted
    | e.SocketsUnwanted
    | e.ListenWanted
    | e.ConnectWanted
    | e.LinkUnwanted
    | e.RelaysNamed
    | e.RelayLinkWanted
    | e.RelayLinkUnwanted
)


class Outlet(Protocol):
    """The way out for datagrams: the node's own, and the lane's."""

    def transmit(self, to: Address, payload: bytes) -> None: ...

    def flush(self) -> None: ...


class Service(Protocol):
    """The channels to the discovery service, each with a number that no other has or had."""

    def send(self, link: int, message: ToService) -> None: ...

    def close(self, link: int, why: str) -> None: ...

    def handle_accepted(self, link: int) -> None: ...

    def handle_refused(self, why: str) -> None: ...

    def handle_moved(self, own: Collection[str]) -> None: ...

    def handle_doubt(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What an endpoint is set in. The custodian alone holds the identity key."""

    directory: Path
    identity: Identity
    calendar: Calendar
    keystore: Keystore
    custodian: Custodian
    clock: Callable[[], Instant]
    handle_stun_names: Callable[[tuple[str, ...]], None]
    handle_way: Callable[[Way], None]
    """Opens and closes what the node wants of the host's network."""

    def __repr__(self) -> str:
        return f"Surroundings({self.identity.name})"


class Endpoint:
    """Implements the effects of its driver, and the user of its service channel."""

    def __init__(self, around: Surroundings, node: Node, outlet: Outlet) -> None:
        self._around = around
        self._node = node
        self._outlet = outlet
        self._service: Service | None = None
        self._driver = Driver(node, self, around.clock)
        self._changed = trio.Event()
        self._rotation = Rotation(around.directory, around.identity, around.keystore, around.custodian)
        self._refusal = ""
        self._pongs: dict[int, trio.MemorySendChannel[e.Pong]] = {}
        self.interfaces: tuple[Interface, ...] = ()
        self.clock_offset_s: float | None = None
        """The service's clock less the own, as of the last channel that was opened."""

    # the node's side: effects

    def keep(self, changes: Sequence[PeerRecord | str]) -> None:
        self._around.keystore.change_records(changes)

    def transmit(self, transmit: Transmit) -> None:
        self._outlet.transmit(transmit.to, transmit.payload)

    def say(self, link: int, message: ToService) -> None:
        if self._service is not None:
            self._service.send(link, message)

    def flush(self) -> None:
        self._outlet.flush()

    def handle_event(self, event: e.Event) -> None:
        match event:
            case e.PeerChanged(peer=peer, state=state, why=why):
                _log.info("peer", peer=peer, state=state.value, why=why)
                self._announce()
            case e.TrustAlarm(peer=peer, alarm=alarm):
                _log.error("alarm", peer=peer, **alarm_fields(alarm))
                self._announce()
            case e.PathChanged(peer=peer, kind=kind, remote=remote):
                _log.info("path", peer=peer, kind=kind.value if kind else "none")
                _log.debug("path", peer=peer, remote=remote)
                if kind is None and self._service is not None:
                    self._service.handle_doubt()
                self._announce()
            case e.Pong(token=token):
                if (asker := self._pongs.get(token)) is not None:
                    asker.send_nowait(event)
            case e.StunNames(names=names):
                self._around.handle_stun_names(names)
            case (
                e.SocketsWanted()
                | e.SocketsUnwanted()
                | e.ListenWanted()
                | e.ConnectWanted()
                | e.LinkUnwanted()
                | e.RelaysNamed()
                | e.RelayLinkWanted()
                | e.RelayLinkUnwanted()
            ):
                self._around.handle_way(event)
            case _:
                self._handle_papers(event)

    def _handle_papers(self, event: e.Event) -> None:
        around = self._around
        match event:
            case e.RenewalDue():
                self._request_renewal()
            case e.IdentityReplaced(certificate=der):
                self._rotation.complete(der)
                self._node.handle_rotated(around.clock())
                _log.info("identity key rotated", fingerprint=around.identity.certificate.fingerprint)
                self._announce()
            case e.CertificateReplaced(certificate=der):
                store_certificate(around.directory, der)
                _log.info("certificate renewed", not_after=around.identity.certificate.not_after)
            case e.RevocationsReplaced(crl=crl):
                store_revocations(around.directory, crl)
            case e.BundleDue():
                self._renew_bundle()
            case _:
                self._handle_service_event(event)

    def _handle_service_event(self, event: e.Event) -> None:
        match event:
            case e.ServiceAccepted(link=link, unix_time=unix_time):
                _log.info("service connected", link=link)
                self._check_clock(unix_time)
                if self._service is not None:
                    self._service.handle_accepted(link)
                if self._rotation.is_asked:
                    self._request_renewal()
                self._announce()
            case e.ServiceRejected(link=link, why=why):
                _log.warning("the service could not prove itself", why=why)
                if self._service is not None:
                    self._service.close(link, why)
            case e.RelayContested(place=place):
                _log.warning("somebody else binds with this endpoint's key, or the relay is wrong", relay=place.host)
                self._announce()
            case e.ServiceRefused(regarding=regarding, why=why):
                _log.warning("the service refused", regarding=regarding, why=why)
                if regarding == Renew.__name__ and self._rotation.is_asked:
                    self._rotation.give_up()
                    self._refusal = why
                    self._announce()
                if self._service is not None and regarding in OWN_PAPERS:
                    self._service.handle_refused(why)

    # the service's side

    def attach(self, service: Service) -> None:
        self._service = service

    def handle_connected(self, link: int, tls_certificate: bytes) -> None:
        self.tell(lambda node, now: node.handle_service_connected(link, tls_certificate, now))

    def handle_message(self, link: int, message: ToEndpoint) -> None:
        self.tell(lambda node, now: node.handle_service_message(link, message, now))

    def handle_lost(self, link: int) -> None:
        was_up = self._node.is_service_up
        self.tell(lambda node, now: node.handle_service_lost(link, now))
        if was_up and not self._node.is_service_up:
            _log.warning("service lost")
        self._announce()

    # the network's side

    def tell(self, say: Callable[[Node, Instant], None]) -> None:
        """Lets the node hear of something, and does what it makes of it."""
        say(self._node, self._around.clock())
        self._driver.settle()

    def handle_leftover(self, datagrams: Sequence[tuple[bytes, Target]]) -> None:
        """Takes what the lane did not know, with its sources."""
        now = self._around.clock()
        for payload, source in datagrams:
            self._node.handle_datagram(address_of(source), payload, now)
        self._driver.settle()

    def handle_reports(self, traffic: Sequence[Traffic], controls: Sequence[Control]) -> None:
        now = self._around.clock()
        self._node.handle_traffic(traffic, now)
        for control in controls:
            self._node.handle_control(control, now)
        self._driver.settle()

    def handle_interfaces(self, interfaces: tuple[Interface, ...], port: int) -> None:
        has_moved = bool(self.interfaces) and set(interfaces) != set(self.interfaces)
        self.interfaces = interfaces
        _log.debug("own addresses", addresses=" ".join(str(i.ip) for i in interfaces), port=port)
        self._node.handle_interfaces(interfaces, port, self._around.clock())
        if has_moved and self._service is not None:
            self._service.handle_moved(self._own_ips())
        self._driver.settle()

    def handle_stun_servers(self, addresses: Sequence[Address]) -> None:
        self.tell(lambda node, now: node.handle_stun_servers(addresses, now))

    def handle_clock(self, offset: float, *, has_slept: bool) -> None:
        """The wall clock was set, the machine woke up, or it is time to look at both."""
        now = self._around.clock()
        if abs(offset - self._around.calendar.offset) > OFFSET_TOLERANCE_S:
            _log.info("clock set", by_s=round(offset - self._around.calendar.offset, 3))
            self._node.handle_clock_set(offset, now)
        if has_slept and self._service is not None:
            self._service.handle_moved(self._own_ips())
        self._node.handle_timeout(now)
        self._driver.settle()

    # a person's side

    def fulfil(self, wish: Wish) -> bool:
        """Acts on a wish; False where there is no such peer. On return it is on stable storage."""
        now = self._around.clock()
        match wish.verb:
            case Verb.ADD:
                self._node.add(wish.peer, wish.fingerprint, now)
                is_known = True
            case Verb.REMOVE:
                is_known = self._node.remove(wish.peer, now)
            case Verb.ENABLE:
                is_known = self._node.enable(wish.peer, now)
            case Verb.DISABLE:
                is_known = self._node.disable(wish.peer, now)
            case Verb.RESET | Verb.RESET_KEY:
                is_known = self._node.reset_trust(wish.peer, key=wish.verb is Verb.RESET_KEY, now=now)
        self._driver.settle()
        self._announce()
        return is_known

    def fulfil_waiting(self) -> None:
        """Acts on the wishes that were made while no daemon was there."""
        with WishStore(self._around.directory) as store:
            for ordinal, wish in store.waiting():
                self.fulfil(wish)
                store.drop(ordinal)

    def full_name(self, peer: str) -> str:
        """Raises `DecodeError` for what is no name, `CommandError` for the own one."""
        name = parse_name(peer, self._around.identity.network)
        if name == self._around.identity.name:
            raise CommandError(ExitCode.WRONG_USAGE, f"{name} is this endpoint itself: name a peer")
        return name

    def wish(self, verb: Verb, peer: str, fingerprint: str | None = None) -> str:
        """Fulfils a wish at once and returns the peer's full name. Raises `DecodeError`, `CommandError`."""
        pinned = None if fingerprint is None else parse_fingerprint(fingerprint)
        name = self.full_name(peer)
        if not self.fulfil(Wish(verb, name, pinned)):
            raise no_such_peer(name)
        return name

    def peers(self) -> tuple[PeerStatus, ...]:
        return self._node.status(self._around.clock())

    def trust(self) -> tuple[TrustStatus, ...]:
        return self._node.trust()

    def peer(self, name: str) -> PeerStatus:
        """Raises `CommandError` where there is none of this full name."""
        for peer in self.peers():
            if peer.name == name:
                return peer
        raise no_such_peer(name)

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        """Waits for a condition on the peers, looked at whenever something changed; False when it took too long.

        What `holds` raises goes through.
        """
        with trio.move_on_after(timeout_s):
            while not holds():
                await self._changed.wait()
            return True
        return holds()

    async def ping(self, name: str, timeout_s: float) -> e.Pong | None:
        """Returns the answer; None where none came, or the peer is not connected."""
        token = int.from_bytes(os.urandom(4))
        sender, receiver = trio.open_memory_channel[e.Pong](1)
        self._pongs[token] = sender
        try:
            is_sent = self._node.ping(name, token, self._around.clock())
            self._driver.settle()
            with trio.move_on_after(timeout_s if is_sent else 0):
                return await receiver.receive()
            return None
        finally:
            del self._pongs[token]

    @property
    def is_service_up(self) -> bool:
        return self._node.is_service_up

    @property
    def counters(self) -> Counter[str]:
        return self._node.counters

    async def rotate(self, timeout_s: float) -> str:
        """Changes the identity key and returns its fingerprint, once the authority has certified it.

        Raises `CommandError`, and `FabricError` for what the custodian can't do.
        """
        around, before = self._around, self._around.identity.signer.public_key
        if not self.is_service_up:
            raise CommandError(
                ExitCode.UNREACHABLE, "the discovery service is out of reach, and it certifies the new key"
            )
        self._refusal = ""
        self._rotation.begin(around.calendar.unix(around.clock()))
        self._request_renewal()
        self._driver.settle()

        def is_over() -> bool:
            return bool(self._refusal) or around.identity.signer.public_key != before

        if not await self.wait_until(is_over, timeout_s):
            why = "the authority has not answered yet; the change goes on by itself once it does"
            raise CommandError(ExitCode.UNREACHABLE, why)
        if self._refusal:
            raise CommandError(ExitCode.NOT_SO, f"the authority refused: {self._refusal}")
        return around.identity.certificate.fingerprint

    # its own life

    async def run(self) -> None:
        """Wakes the node at its times, for ever."""
        await self._driver.run()

    def settle(self) -> None:
        self._driver.settle()

    def close(self) -> None:
        """Tells the peers that this end stops."""
        self._node.close(self._around.clock())
        self._driver.settle()

    def _own_ips(self) -> frozenset[str]:
        """Returns the addresses that a connection may come from; a service on this very host is reached by loopback."""
        return frozenset(("127.0.0.1", "::1", *(str(interface.ip) for interface in self.interfaces)))

    def _announce(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    def _check_clock(self, service_unix: float) -> None:
        self.clock_offset_s = behind = service_unix - self._around.calendar.unix(self._around.clock())
        if abs(behind) > CLOCK_TOLERANCE_S:
            _log.warning("the clock differs from the service's: peers will refuse this endpoint", by_s=round(behind))

    def _request_renewal(self) -> None:
        around, now = self._around, self._around.clock()
        if self._rotation.is_asked:
            request, statement = self._rotation.request(around.calendar.unix(now))
            self._node.request_renewal(request, now, statement)
            return
        nonce = renewal_nonce(around.keystore, around.identity.certificate.serial, os.urandom)
        self._node.request_renewal(around.custodian.make_request(around.identity.name, nonce), now)

    def _renew_bundle(self) -> None:
        around = self._around
        unix = around.calendar.unix(around.clock())
        custodian, keystore = around.custodian, around.keystore
        # A state from a backup does not know how far it had come: the time is further than any serial before it.
        above = max(keystore.highest_serial(), int(unix))
        bundle = custodian.next_bundle(around.identity.name, unix, above)
        keystore.note_serial(peek_bundle(bundle).serial)
        self._node.replace_bundle(bundle, around.clock())
        custodian.forget_secrets(unix)


def no_such_peer(name: str) -> CommandError:
    return CommandError(ExitCode.NO_SUCH_THING, f"there is no peer {name}: `fabric add` it first")
