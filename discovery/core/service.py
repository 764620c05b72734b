"""The discovery service: enrols endpoints, notes their intents, introduces those who both wish it, carries offers.

Pure: time, randomness, the store and the keys come in. The driver's rule after every call: send all messages, then
close what is to be closed, log the events, ask for the next timeout. Each call is one change of the store, durable
when it returns; where it raises instead, the store failed and nothing that was queued may be sent.

`handle_store_changed` is for changes that came from another process (the command line): what it revoked takes
effect in that call, and what it brought back from an authority that is away goes to who waits for it.
"""

from __future__ import annotations

from collections import Counter, deque

from discovery.core import events
from discovery.core.authority import Ledger, RenewedTwiceError, purge, revoke
from discovery.core.channel import (
    NONCE_BYTES,
    Channel,
    ChannelState,
    ServiceIdentity,
    authenticate_untrusted,
    why_revoked,
)
from discovery.core.enrolment import KEY_UNPROVEN, LIMIT, UNPROVEN, Enrolment, Waiting, order_id
from discovery.core.grants import Granter
from discovery.core.introduction import Introducer
from discovery.core.limits import OpenCount, Rate, SourceBuckets, TokenBucket, WrongTries
from discovery.core.records import CertificateRecord, OrderRecord
from discovery.core.renewal import renew_untrusted
from discovery.core.settings import Settings
from discovery.core.signatory import Signatory
from discovery.core.store import Store
from fabric.core.machine import NEVER, Calendar, Draw, Instant
from fabric.errors import AuthenticationError, DecodeError, ExhaustedError, FabricError, PolicyError
from fabric.identity.fault import CertificateFaultError, Fault
from fabric.identity.trust import Trust
from fabric.wire.rendezvous import (
    Authenticate,
    Challenge,
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    PublishBundle,
    Refused,
    Renew,
    Renewed,
    Revocations,
    SendOffer,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
    WithdrawIntent,
)

SECRET_BYTES = 32
PURGE_S = 3600.0


class Service:
    """`counters` counts what was refused, by reason. Connections are numbers of the driver's choice, never reused."""

    def __init__(
        self,
        signatory: Signatory,
        store: Store,
        service: ServiceIdentity,
        draw: Draw,
        calendar: Calendar,
        settings: Settings,
        now: Instant,
    ) -> None:
        self._store = store
        self._service = service
        self._draw = draw
        self._calendar = calendar
        self._settings = settings
        self._root = root = signatory.root
        self._ledger = Ledger(signatory, store, settings, draw)
        self._enrolment = Enrolment(self._ledger, store, settings, draw(SECRET_BYTES))
        self._trust = Trust(root.der, root.network, None)
        known = store.revocations()
        self._listed: frozenset[int] = known.serials if known else frozenset()
        self._revoked = self._listed
        self._channels: dict[int, Channel] = {}
        self._deadlines: dict[int, Instant] = {}
        self._connections: dict[str, list[int]] = {}
        self._messages: deque[tuple[int, ToEndpoint]] = deque()
        self._closing: deque[int] = deque()
        self._events: deque[events.Event] = deque()
        secret = settings.pair_secret or draw(SECRET_BYTES)
        granter = Granter(root.network, settings, secret, lambda: self._service)
        self._introducer = Introducer(root.network, store, settings, granter, self._say, self._events.append)
        self._open = OpenCount(per_source=settings.max_channels_per_source, overall=settings.max_channels)
        self._attempts = SourceBuckets(Rate(settings.enrolment_rate, settings.enrolment_burst))
        self._wrong_tries = WrongTries()
        self._openings = SourceBuckets(Rate(settings.channel_rate, settings.channel_burst))
        self._sweep_at = now + settings.sweep_s
        self._purge_at = now
        self.counters: Counter[str] = Counter()
        self._refresh_revocations(now)

    @property
    def network(self) -> str:
        return self._root.network

    @property
    def authority_der(self) -> bytes:
        """The root certificate."""
        return self._root.der

    def connected(self) -> frozenset[str]:
        """Returns the names of the endpoints whose channel is up."""
        return frozenset(self._connections)

    def replace_identity(self, service: ServiceIdentity) -> None:
        """The TLS certificate was renewed; channels that are open stay bound to the one that they were opened over."""
        self._service = service

    # channels

    def handle_connected(
        self, connection: int, now: Instant, source: str = "", service: ServiceIdentity | None = None
    ) -> None:
        """`source` is the IP address it comes from; `service` what TLS showed, where that is not the newest."""
        if not self._openings.take(source, now) or not self._open.enter(source):
            self.counters["channel_limit"] += 1
            self._closing.append(connection)
            return
        settings = self._settings
        channel = Channel(
            source=source,
            service=service or self._service,
            nonce=self._draw(NONCE_BYTES),
            bucket=TokenBucket(Rate(settings.message_rate, settings.message_burst), now),
            paused_until=now,
        )
        self._channels[connection] = channel
        self._deadlines[connection] = now + settings.authentication_s
        self._messages.append((connection, Challenge(channel.nonce)))

    def handle_lost(self, connection: int, _now: Instant) -> None:
        self._forget(connection)

    def handle_message(self, connection: int, message: ToService, now: Instant) -> None:
        """Acts on what an endpoint says; nothing that it may say raises."""
        channel = self._channels.get(connection)
        if channel is None:
            return
        channel.paused_until = now + channel.bucket.owe(now)
        try:
            with self._store.change():
                self._handle_said_untrusted(connection, channel, message, now)
        except FabricError as error:
            self._reject(connection, channel, str(error))

    def _handle_said_untrusted(self, connection: int, channel: Channel, message: ToService, now: Instant) -> None:
        match channel.state, message:
            case ChannelState.EXPECTING_AUTHENTICATE, Authenticate():
                self._authenticate(connection, channel, message, now)
            case ChannelState.EXPECTING_AUTHENTICATE, _:
                raise AuthenticationError("it spoke before it had proven itself")
            case _, Authenticate():
                raise AuthenticationError("it began again on an open channel")
            case _:
                self._act(connection, channel, message, now)

    def may_read(self, connection: int) -> Instant:
        """Returns from when on the driver may read this channel's next message: who says too much is slowed down."""
        channel = self._channels.get(connection)
        return -NEVER if channel is None else channel.paused_until

    # enrolment

    def handle_enrolment(
        self,
        request: EnrolmentRequest,
        source: str,
        now: Instant,
        service: ServiceIdentity | None = None,
    ) -> EnrolmentAnswer | EnrolmentRefusal:
        """Returns the answer, durable already. `service` is what TLS showed, where that is not the newest."""
        with self._store.change():
            outcome = self._enrol(request, source, now, service or self._service)
        if isinstance(outcome, EnrolmentRefusal):
            self.counters[f"enrolment_{outcome.code}"] += 1
        if isinstance(outcome, EnrolmentRefusal) and outcome.code != "waiting":
            self._events.append(events.EnrolmentRefused(request.key_id, source, outcome.why, outcome not in UNPROVEN))
        return outcome

    def _enrol(
        self, request: EnrolmentRequest, source: str, now: Instant, service: ServiceIdentity
    ) -> EnrolmentAnswer | EnrolmentRefusal:
        is_allowed = self._wrong_tries.allows(source, request.key_id, now)
        if not self._attempts.take(source, now) or not is_allowed:
            return LIMIT
        outcome = self._enrolment.enrol(request, service.certificate, self._calendar.unix(now), source)
        is_wrong = outcome == KEY_UNPROVEN
        if is_wrong and self._wrong_tries.note(source, request.key_id, now) and self._store.key(request.key_id):
            self._events.append(events.KeyGuessed(request.key_id))
        if isinstance(outcome, EnrolmentRefusal):
            return outcome
        if isinstance(outcome, Waiting):
            if outcome.is_new:
                order = outcome.order
                self._events.append(events.SignatureAwaited(order.name, order_id(order), is_renewal=False))
            return outcome.refusal
        if not outcome.is_retry:
            self._events.append(events.Enrolled(outcome.name, request.key_id, source))
            self._close_superseded(outcome.name)
        return self._enrolment.answer(outcome.certificate, self._refresh_revocations(now))

    def _close_superseded(self, name: str) -> None:
        """A host that enrolled again holds a new certificate: its old channel is not its own any more."""
        for connection in list(self._connections.get(name, ())):
            self._close(connection)

    # time and changes from elsewhere

    def handle_timeout(self, now: Instant) -> None:
        for connection in [connection for connection, deadline in self._deadlines.items() if deadline <= now]:
            self._handle_deadline(connection, self._channels[connection])
        unix = self._calendar.unix(now)
        if now >= self._sweep_at:
            self._sweep_at = now + self._settings.sweep_s
            with self._store.change():
                self._introducer.sweep(unix)
                self._refresh_revocations(now)
        if now >= self._purge_at:
            self._purge_at = now + PURGE_S
            purge(self._store, self._settings, unix)

    def _handle_deadline(self, connection: int, channel: Channel) -> None:
        """Nothing was proven in time, or nothing newer (see `_let_go_of_others`)."""
        if channel.state is ChannelState.EXPECTING_AUTHENTICATE:
            self._reject(connection, channel, "it did not prove itself in time")
            return
        del self._deadlines[connection]
        record = self._store.endpoint(channel.name)
        if record is None or channel.current is None or channel.current.serial != record.serial:
            self._close(connection)

    def next_timeout(self) -> Instant:
        # The first is the earliest: all have the same time.
        return min(next(iter(self._deadlines.values()), NEVER), self._sweep_at, self._purge_at)

    def handle_store_changed(self, now: Instant) -> None:
        """Another process changed the store: revocations take effect here and now, and who waits gets its answer."""
        with self._store.change():
            self._refresh_revocations(now)
        for name, connections in list(self._connections.items()):
            record = self._store.endpoint(name)
            if record is None or record.revoked is not None:
                for connection in list(connections):
                    self._reject(connection, self._channels[connection], "the endpoint was revoked")
        for connection, channel in list(self._channels.items()):
            if channel.awaited:
                self._deliver_awaited(connection, channel, now)

    def revoke(self, name: str, why: str, now: Instant, sources: tuple[str, ...] = ()) -> bool:
        """Revokes an endpoint at once, everywhere that can be told. False where there is nobody to revoke."""
        if not revoke(self._store, name, why, self._calendar.unix(now), sources):
            return False
        self.handle_store_changed(now)
        return True

    # what the driver drains

    def poll_message(self) -> tuple[int, ToEndpoint] | None:
        return self._messages.popleft() if self._messages else None

    def poll_close(self) -> int | None:
        """Returns a connection to close, once all messages have been taken. `handle_lost` need not follow."""
        return self._closing.popleft() if self._closing else None

    def poll_event(self) -> events.Event | None:
        return self._events.popleft() if self._events else None

    # authentication

    def _authenticate(self, connection: int, channel: Channel, message: Authenticate, now: Instant) -> None:
        unix = self._calendar.unix(now)
        revocations = self._refresh_revocations(now)
        proven = authenticate_untrusted(channel, message, self._trust, self._store, self._settings, unix)
        name = proven.record.name
        if proven.is_revoked:
            # It is the holder of the key, or of a copy: it may know why nobody talks to it any more.
            self._messages.append((connection, Welcome(proven.signature, self._settings.stun, revocations, unix)))
            self._messages.append((connection, Refused(Authenticate.__name__, why_revoked(proven.record))))
            raise CertificateFaultError(Fault.REVOKED)
        self._make_room(name)
        channel.name, channel.current = name, proven.current
        del self._deadlines[connection]
        channel.state = ChannelState.LATE if proven.is_late else ChannelState.UP
        self._messages.append((connection, Welcome(proven.signature, self._settings.stun, revocations, unix)))
        if name not in self._connections:
            self._events.append(events.EndpointConnected(name, channel.source))
        self._connections.setdefault(name, []).append(connection)
        self._introducer.note_seen(proven.record, unix)
        if channel.state is ChannelState.UP:
            self._introducer.handle_arrival(name, unix)

    def _make_room(self, name: str) -> None:
        """An endpoint has as many channels as it may use addresses of ours; the oldest is what a roaming host left."""
        open_ones = self._connections.get(name, [])
        while len(open_ones) >= self._settings.max_channels_per_endpoint:
            self._close(open_ones[0])

    # what endpoints say

    def _act(self, connection: int, channel: Channel, message: ToService, now: Instant) -> None:
        try:
            with self._store.change():
                if isinstance(message, Renew):
                    self._renew(connection, channel, message, now)
                else:
                    self._require_current(channel, now)
                    self._act_on_others(channel.name, message, now)
        except (DecodeError, AuthenticationError, PolicyError, ExhaustedError) as error:
            kind = type(message).__name__
            self.counters[f"refused_{kind}"] += 1
            self._messages.append((connection, Refused(kind, f"{error}"[:255])))

    def _act_on_others(self, name: str, message: ToService, now: Instant) -> None:
        unix = self._calendar.unix(now)
        match message:
            case PublishBundle(bundle=bundle):
                self._introducer.publish_bundle(name, bundle, unix)
            case StateIntent(intent=intent):
                introduced = self._introducer.state_intent(name, intent, unix)
                if introduced is not None:
                    self._events.append(introduced)
            case WithdrawIntent(peer=peer):
                self._introducer.withdraw(name, peer, unix)
            case SendOffer(to=to, envelope=envelope):
                self._introducer.send_offer(name, to, envelope, unix)
            case Authenticate() | Renew():
                raise AssertionError(message)

    def _require_current(self, channel: Channel, now: Instant) -> None:
        current = channel.current
        is_late = channel.state is ChannelState.LATE
        if current is None or is_late or self._calendar.unix(now) >= current.not_after:
            raise PolicyError("the certificate has ended: renew it first")

    def _renew(self, connection: int, channel: Channel, message: Renew, now: Instant) -> None:
        record = self._store.endpoint(channel.name)
        if record is None or channel.current is None:
            raise PolicyError("the endpoint is not enrolled")
        try:
            renewal = renew_untrusted(
                self._ledger, record, channel.current, message, self._calendar.unix(now), channel.source
            )
        except RenewedTwiceError as error:
            self._events.append(events.RenewalAlarm(record.name, error.sources))
            for told in self._connections.get(record.name, ()):
                self._messages.append((told, Refused(Renew.__name__, f"{error}"[:255])))
            self.revoke(record.name, str(error), now, error.sources)
            return
        if isinstance(renewal.outcome, OrderRecord):
            self._wait_for(renewal.outcome, connection, channel)
            return
        if renewal.is_rotation:
            channel.state = ChannelState.LATE  # all else is for the new key to say
        self._hand_over(renewal.outcome, connection, channel, now)

    def _wait_for(self, order: OrderRecord, connection: int, channel: Channel) -> None:
        if channel.awaited != order.serial:
            self._events.append(events.SignatureAwaited(order.name, order_id(order), is_renewal=True))
        channel.awaited = order.serial
        self._messages.append((connection, Refused(Renew.__name__, Waiting(order, is_new=False).refusal.why[:255])))

    def _deliver_awaited(self, connection: int, channel: Channel, now: Instant) -> None:
        """The authority may have signed: what was asked for over this channel goes out over it."""
        issued = self._store.certificate(channel.awaited)
        if issued is not None and issued.revoked is None:
            self._hand_over(issued, connection, channel, now)
        elif self._store.order(channel.awaited) is None:
            channel.awaited = 0  # a person dropped it

    def _hand_over(self, issued: CertificateRecord, connection: int, channel: Channel, now: Instant) -> None:
        channel.current, channel.awaited = issued, 0
        self._messages.append((connection, Renewed(issued.der)))
        self._events.append(events.Renewed(issued.name))
        self._let_go_of_others(connection, issued.name, now)
        if channel.state is ChannelState.LATE:
            self._close(connection)  # it comes back with a certificate that stands, and states everything anew

    def _let_go_of_others(self, connection: int, name: str, now: Instant) -> None:
        """What was proven by the certificate before can renew nothing any more: the endpoint is to come back with
        the new one, once that has surely reached it. (A copy of it comes back with the old one, and is found out.)"""
        for other in self._connections.get(name, ()):
            if other != connection:
                self._deadlines.pop(other, None)
                self._deadlines[other] = now + self._settings.authentication_s

    # parts

    def _say(self, name: str, message: ToEndpoint) -> bool:
        """Queues a message for an endpoint, on each of its channels; False where none is up."""
        up = [
            connection
            for connection in self._connections.get(name, ())
            if self._channels[connection].state is ChannelState.UP
        ]
        self._messages.extend((connection, message) for connection in up)
        return bool(up)

    def _refresh_revocations(self, now: Instant) -> bytes:
        """Returns the newest list in DER; where it names somebody new, tells everyone who is connected.

        Who is revoked is put out at once, also where the list with the name waits for the authority.
        """
        listing = self._ledger.revocations(self._calendar.unix(now))
        newest = listing.newest
        if newest.number != self._trust.crl_number:
            self._trust.update_revocations(newest.der)
        if newest.serials - self._listed:
            self._events.append(events.RevocationsIssued(newest.number, len(newest.serials)))
            for connections in self._connections.values():
                self._messages.extend((connection, Revocations(newest.der)) for connection in connections)
        fresh = {name for serial, name in listing.revoked.items() if serial not in self._revoked}
        if fresh and listing.waiting:
            self._events.append(events.ListAwaited(listing.waiting))
        self._listed, self._revoked = newest.serials, frozenset(listing.revoked)
        for name in fresh:
            self._handle_revoked(name, now)
        return newest.der

    def _handle_revoked(self, name: str, now: Instant) -> None:
        record = self._store.endpoint(name)
        if record is not None:
            self._events.append(events.EndpointRevoked(name, record.public_key))
        self._introducer.handle_revoked(name, self._calendar.unix(now))

    def _reject(self, connection: int, channel: Channel, why: str) -> None:
        self.counters["channel_rejected"] += 1
        self._events.append(events.ChannelRejected(channel.source, channel.name, why))
        self._close(connection)

    def _close(self, connection: int) -> None:
        self._forget(connection)
        self._closing.append(connection)

    def _forget(self, connection: int) -> None:
        channel = self._channels.pop(connection, None)
        if channel is None:
            return
        self._deadlines.pop(connection, None)
        self._open.leave(channel.source)
        open_ones = self._connections.get(channel.name, [])
        if connection in open_ones:
            open_ones.remove(connection)
            if not open_ones:
                del self._connections[channel.name]
                self._events.append(events.EndpointLost(channel.name))
