"""One peer, from the wish to meet it to the frames that flow: papers, paths, handshakes and sessions together.

    disabled <--> pending --introduction--> introduced --offer--> connecting --first record--> connected
                     ^                          |                     ^                            |
                     +------- withdrawn --------+                     +---- last path or session lost

The parts know nothing of each other: `PathAgent` finds addresses, `Keying` makes and renews keys, `Gateway`
opens and shuts the gate, `Acquaintance` holds the papers. What the word of one means for the others is decided here
and nowhere else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from fabric.core.account import Account
from fabric.core.acquaintance import Acquaintance
from fabric.core.callers import Callers
from fabric.core.correspondence import Correspondence
from fabric.core.events import (
    ConnectWanted,
    Event,
    LinkUnwanted,
    PathChanged,
    Pong,
    SocketsUnwanted,
    StoreRecord,
)
from fabric.core.gateway import Gateway
from fabric.core.guessing import is_hopeless
from fabric.core.keying import AttemptFailed, BecameLive, CallDue, Keying, Met, SessionEnded
from fabric.core.machine import NEVER, Instant, Transmit, drain
from fabric.core.negotiation import Collided, Rebuffed
from fabric.core.offer_inbox import OfferInbox
from fabric.core.one_path import payload_limit
from fabric.core.opener import Opener
from fabric.core.path import (
    DoorDue,
    LinkForgotten,
    PathAgent,
    PrimaryChanged,
    PrimaryDoubted,
    ProbeDue,
)
from fabric.core.reach import Network
from fabric.core.records import PeerRecord
from fabric.core.status import PathKind, PeerState, PeerStatus
from fabric.core.surroundings import Surroundings
from fabric.dataplane.contract import Control, Traffic
from fabric.errors import CertificateError
from fabric.identity.certificate import Certificate
from fabric.wire.address import Address, Candidate, Transport
from fabric.wire.datagram import DATA_OVERHEAD_BYTES, Gated
from fabric.wire.nat import NatBehaviour
from fabric.wire.path import (
    PROBE_BYTES,
    TOKEN_BYTES,
    Call,
    Close,
    CloseReason,
    Forward,
    Forwarded,
    GatedProbe,
    OfferUpdate,
    Probe,
    ProbeReply,
    decode_control,
    encode_control,
)
from fabric.wire.rendezvous import Granted, Introduction, ToService

MAX_PINGS = 64
CUT_OFF_S = 10.0
"""The two ends may have chosen relays that only one of them reaches."""
TURN_S = 0.75
"""Longer than a round trip, so that one end's probe answers for both; a dead path is still noticed within 10 s."""


class Peer:
    """`since_unix` is when this process started, for a record that is older than it; else 0."""

    def __init__(self, around: Surroundings, record: PeerRecord, since_unix: float, *, is_service_up: bool) -> None:
        self._around = around
        self._lane = around.lane
        self.papers = Acquaintance(
            around.identity,
            record,
            around.calendar,
            around.draw,
            around.allocate_gate_index,
            around.check_address,
        )
        self._gateway = Gateway(self.papers, around.calendar, around.draw, since_unix)
        # Either end's probe keeps a path: where both have the same interval they send theirs at once, for ever.
        self._is_client = around.identity.name < record.name
        turn_s = 0.0 if self._is_client else TURN_S
        self._paths = PathAgent(
            around.draw,
            around.settings.keepalive_s + turn_s,
            around.is_overlay,
            around.settings.path_mtu,
            around.hole_interval_s,
        )
        self._paths.copies = around.settings.relay_copies
        self._opener = Opener(around.draw, self._paths.admits)
        self._keying = Keying(around, record.name, self._check, self.papers, self._remembered)
        self._letters = Correspondence(around, self.papers, self._keying, self._paths, is_service_up=is_service_up)
        self._inbox = OfferInbox()
        self._account = Account(around, self.papers, self._keying, self._paths, self._opener)
        self._now: Instant = 0.0
        self._steering: tuple[Address, int, Address | None] | None = None
        self._is_doubtful = False
        self._observed: Address | None = None
        self._carried: tuple[Address, ...] = ()
        self._pathless: Instant | None = None
        self._place: Address | None = None
        self._is_shown = False
        self._callers = Callers(self._paths.answering)
        self._pings: dict[bytes, int] = {}
        self._events: deque[Event] = deque()
        self._transmits: deque[Transmit] = deque()

    @property
    def name(self) -> str:
        return self.papers.name

    @property
    def gate_index(self) -> int | None:
        """Where the own gate for this peer is open, its index."""
        return self.papers.record.gate_index if self.papers.gate_in else None

    @property
    def is_introduced(self) -> bool:
        """Whether the two may meet, by all that is known here."""
        return self.papers.record.enabled and self.papers.certificate is not None and not self.papers.void

    @property
    def wants_tcp(self) -> bool:
        return self._opener.wants_tcp

    @property
    def wants_sockets(self) -> bool:
        return self._opener.wants_sockets

    @property
    def is_spreading(self) -> bool:
        """Whether the sockets that were lent are in use."""
        return self._opener.is_spreading

    @property
    def is_on_lan(self) -> bool:
        primary = self._paths.primary
        return primary is not None and primary.kind is PathKind.LAN

    def holds(self, local_index: int) -> bool:
        return self._keying.holds(local_index)

    # what the node hands in

    def start(self, now: Instant) -> None:
        """Takes up a peer that was known before, with no help from the service."""
        self._judge(now)
        if not self.papers.void and self.papers.record.enabled and self.papers.offer is not None:
            self._look(now)
        self._settle(now)

    def handle_local(
        self,
        candidates: tuple[Candidate, ...],
        nat: NatBehaviour,
        networks: Sequence[Network],
        *,
        moved: bool,
        now: Instant,
    ) -> None:
        """What offers say has changed; `moved` where that is because the own network did."""
        has_left = not set(self._letters.candidates) <= set(candidates)
        changed = self._letters.handle_local(candidates, nat)
        self._paths.handle_networks(networks)
        if moved:
            self._paths.handle_moved(now)
            self._opener.hurry()
        if changed:
            self._letters.offer(reply_wanted=False, now=now)
        if changed and (moved or has_left):
            # What was just said in the session may never arrive: the peer's NAT knows only where we were.
            self._keying.doubt()
            self._letters.offer_if_lost(now)
        self._settle(now)

    def handle_granted(self, granted: Granted, now: Instant) -> bool:
        """The service lets the pair use relays. False where the two are not introduced."""
        if not self.is_introduced:
            return False
        self.papers.note_grant(granted)
        self._settle(now)
        return True

    def handle_channels(self, channels: Sequence[Address], now: Instant) -> None:
        """These channels of relays lead to the peer now."""
        self._paths.handle_channels(channels, now)
        self._settle(now)

    def handle_link(self, link: Address, asked: Address, now: Instant) -> bool:
        """A TCP connection to `asked` stands. False where it was not asked for here."""
        is_taken = self._paths.handle_link(link, asked, now)
        self._settle(now)
        return is_taken

    def handle_link_lost(self, link: Address, now: Instant) -> None:
        self._paths.handle_link_lost(link, now)
        self._settle(now)

    def handle_connect_failed(self, to: Address, why: str, now: Instant) -> None:
        self._paths.handle_connect_failed(to, why)
        self._settle(now)

    def handle_sockets(self, vias: tuple[int, ...], now: Instant) -> None:
        """The sockets that were wanted, to guess with."""
        self._opener.handle_sockets(vias, self.papers.offer, now)
        self._settle(now)

    def handle_too_long(self, to: Address, payload_bytes: int, now: Instant) -> None:
        """The own device refused a datagram of `payload_bytes` to `to` for its length."""
        self._paths.handle_too_long(to, payload_bytes, now)
        self._settle(now)

    def lives_on(self, link: Address) -> bool:
        """Whether the peer has answered on this TCP connection."""
        return any(path.address == link and path.valid for path in self._paths.paths)

    def make_beacon(self, now: Instant) -> bytes | None:
        """Returns a probe for everybody on the local network, which only the peer can tell from noise; None where the
        two are there together, or may not meet."""
        if self.is_on_lan or not (self.is_introduced and self._gateway.is_open):
            return None
        return self._gateway.wrap_probe(self._around.draw(TOKEN_BYTES), now)

    def take_doubt(self) -> bool:
        """Returns whether the primary stopped to answer, or the last path was lost, once."""
        was, self._is_doubtful = self._is_doubtful, False
        return was

    def take_carried(self) -> tuple[Address, ...] | None:
        """Returns the channels at relays on which the peer answers, where that has changed."""
        carried = tuple(path.address for path in self._paths.paths if path.is_relayed and path.valid)
        if carried == self._carried:
            return None
        self._carried = carried
        return carried

    def is_cut_off(self, now: Instant) -> bool:
        """Whether nothing has led to the peer for a while: then every relay that may do is worth a try."""
        return self._pathless is not None and now - self._pathless >= CUT_OFF_S

    def take_observed(self) -> Address | None:
        """Returns where the peer saw the own UDP port, once for each time that it said so."""
        observed, self._observed = self._observed, None
        return observed

    def pass_on(self, message: Forward | Forwarded) -> bool:
        """Says in the session what concerns a third party; False where there is none to say it in."""
        live, primary = self._keying.live, self._paths.primary
        if live is None or primary is None or self._keying.is_suspect:
            return False
        self._lane.send_control(live.local_index, encode_control(message), primary.address)
        return True

    def handle_service(self, *, up: bool, now: Instant) -> None:
        self._letters.is_service_up = up
        if up and self.papers.record.enabled:
            self._letters.hurry()
            self._letters.state_intent(now)
            self._letters.offer_if_lost(now)
        elif up:
            self._letters.withdraw()
        self._settle(now)

    def handle_introduction_untrusted(self, introduction: Introduction, now: Instant) -> None:
        """Raises `AuthenticationError` or `DecodeError`, and nothing has changed."""
        if not self.papers.record.enabled:
            return
        try:
            self.papers.introduce_untrusted(introduction, now)
        except CertificateError as error:
            self._account.note_fault(error)
            self._settle(now)
            raise
        self._account.trouble = ""
        if self.papers.offer is not None and self._keying.live is None:
            self._look(now)
        self._letters.offer_if_lost(now)
        self._settle(now)

    def handle_withdrawn(self, now: Instant) -> None:
        """The service says that the other's intent is gone. It may lie, so it ends no live session and silences no
        alarm that the other end is still to hear of."""
        alarm = self.papers.entangled.alarm
        if self._keying.live is None and (alarm is None or alarm.is_known):
            self._withdraw(now)

    def handle_envelope_untrusted(self, envelope: bytes, now: Instant) -> None:
        """Raises `AuthenticationError` or `DecodeError`, and nothing has changed."""
        if not self.papers.record.enabled:
            return
        if self.papers.certificate is None and not self._account.trouble:
            # The peer believes that it was introduced to us: our own introduction must have got lost.
            self._letters.hurry()
            self._settle(now)
        self._put_offer(self.papers.open_offer_untrusted(envelope, now), by_service=True, now=now)
        self._settle(now)

    def handle_gated_untrusted(self, source: Address, datagram: Gated, now: Instant) -> None:
        """Raises `AuthenticationError` or `DecodeError`: count it, nothing has changed."""
        self._now = now
        match self._gateway.open_untrusted(source, datagram, now):
            case None:
                return
            case bytes() as message:
                self._handle_handshake_untrusted(source, message, now)
            case GatedProbe(token=token):
                if self._gateway.is_open:
                    self._transmits.append(Transmit(source, self._gateway.wrap(ProbeReply(token, source))))
                    self._paths.handle_gated(source, now)
            case ProbeReply(token=token, observed=observed):
                self._handle_reply(token, source, observed, now)
            case Call():
                if self._gateway.is_open:
                    self._keying.want()
                    self._callers.note(source, now)
                    self._paths.handle_gated(source, now)
        self._settle(now)

    def handle_control_untrusted(self, control: Control, now: Instant) -> None:
        """A message of the peer, sealed in a session. Raises `DecodeError`."""
        if not self._keying.holds(control.local_index):
            return
        live = self._keying.live
        is_from_host = control.source.transport in (Transport.UDP, Transport.TCP)
        if is_from_host and live is not None and live.local_index == control.local_index:
            self._place = control.source
        match decode_control(control.payload):
            case Probe(token=token, use=use):
                self._lane.send_control(
                    control.local_index, encode_control(ProbeReply(token, control.source)), control.source
                )
                self._paths.handle_probe(control.source, now)
                if use and not self._is_client:
                    self._paths.follow(control.source, now)  # one end leads, so that both come to use the same path
            case ProbeReply(token=token, observed=observed):
                self._handle_reply(token, control.source, observed, now)
            case Close(reason=reason):
                if not self._keying.is_left(control.local_index):
                    self._handle_close(reason, now)
            case OfferUpdate(offer=data):
                self._put_offer(data, by_service=False, now=now)
            case Forward() | Forwarded():
                pass  # the node's, which knows the third party
        self._settle(now)

    def handle_traffic(self, traffic: Traffic, now: Instant) -> None:
        self._keying.handle_sealed(traffic, now)
        if traffic.sealed:
            self._paths.handle_load(now, traffic.sealed)
        if traffic.opened:
            self._account.last_seen = now
            if self._keying.handle_opened(traffic, now):
                self._handle_heard(traffic.source, traffic.opened, now)
        elif traffic.sealed:
            self._paths.handle_sealed(now)
        self._settle(now)

    def handle_stored(self, now: Instant) -> None:
        """Every record that was to be stored is on stable storage."""
        self._keying.handle_stored(now)
        self._settle(now)

    def reset_trust(self, *, key: bool, now: Instant) -> None:
        """A person takes back what this end holds of the pair: its root, any alarm, and with `key` the pinned key."""
        self._end(CloseReason.STOPPED)
        self.papers.forget_trust(key=key)
        self._account.trouble = ""
        if key:
            self._paths.pause()
            self._letters.hurry()
        else:
            self._paths.restart(now)
        self._settle(now)

    def handle_own_certificate(self, now: Instant) -> None:
        """The own certificate was renewed: the next handshake shows it, so let that be now."""
        self._keying.renew()
        self._settle(now)

    def handle_trust_changed(self, now: Instant) -> None:
        """A revocation list has come: the peer's certificate is looked at again."""
        self._judge(now)
        self._settle(now)

    def handle_clock_set(self, by_s: float, now: Instant) -> None:
        """The wall clock was corrected by so much: every life that it measures is looked at again."""
        self._gateway.freshness.handle_clock_set(by_s)
        self._judge(now)
        if self.papers.certificate is not None:
            self._keying.bound(self.papers.certificate)
        if self.state is not PeerState.CONNECTED:
            # What was said or refused by the wrong clock is to be said again.
            self._letters.hurry()
            self._letters.ask_anew()
        self._settle(now)

    def set_enabled(self, enabled: bool, now: Instant) -> None:
        if enabled == self.papers.record.enabled:
            return
        self.papers.set_enabled(enabled)
        if enabled:
            self.handle_service(up=self._letters.is_service_up, now=now)
        else:
            self._letters.withdraw()
            self._end(CloseReason.WITHDRAWN)
            self.papers.forget_introduction()
            self._paths.pause()
            self._letters.stop()
        self._settle(now)

    def set_fingerprint(self, fingerprint: str, now: Instant) -> None:
        self.papers.set_fingerprint(fingerprint)
        self._letters.hurry()
        certificate = self.papers.certificate
        if certificate is not None and certificate.fingerprint != fingerprint:
            self._account.trouble = f"the key of {self.name} is not the one whose fingerprint was given"
            self._end(CloseReason.WITHDRAWN)
            self.papers.forget_introduction()
            self._paths.pause()
        self._settle(now)

    def close(self, reason: CloseReason, now: Instant) -> None:
        """Ends every session and tells the peer; for `remove` and for the stop of the daemon."""
        self._end(reason)
        self._letters.stop()
        self._paths.pause()
        self._letters.is_service_up = False
        self._drain_paths(now)
        self._drain_opener(now)

    def ping(self, token: int, now: Instant) -> bool:
        """Sends a probe over the session; the answer is a `Pong`. False where the peer is not connected."""
        primary = self._paths.primary
        if self.state is not PeerState.CONNECTED or primary is None:
            return False
        if len(self._pings) >= MAX_PINGS:
            del self._pings[next(iter(self._pings))]
        name = self._paths.probe(primary.address, now)
        if name is not None:
            self._pings[name] = token
        self._settle(now)
        return name is not None

    def handle_timeout(self, now: Instant) -> None:
        self._paths.handle_timeout(now)
        self._opener.handle_timeout(self._letters.nat, self.papers.offer, self._paths, now)
        if self.papers.ends <= now:
            self._judge(now)
        self._keying.handle_timeout(self._paths.primary, now)
        self._take_offer(now)
        self._letters.handle_timeout(now)
        self._settle(now)

    # what the node takes out

    def next_timeout(self) -> Instant | None:
        parts = (self._letters, self._inbox, self._paths, self._keying, self._opener)
        nexts = [at for at in (part.next_timeout() for part in parts) if at is not None]
        if self.papers.ends != NEVER:
            nexts.append(self.papers.ends)
        return min(nexts, default=None)

    def poll_event(self) -> Event | None:
        return self._events.popleft() if self._events else None

    def poll_transmit(self) -> Transmit | None:
        return self._transmits.popleft() if self._transmits else None

    def poll_message(self) -> ToService | None:
        return self._letters.poll_message()

    @property
    def state(self) -> PeerState:
        return self._account.state

    def status(self, now: Instant) -> PeerStatus:
        return self._account.status(now)

    # handshakes and sessions

    def _handle_handshake_untrusted(self, source: Address, message: bytes, now: Instant) -> None:
        if not self._gateway.is_open:
            return
        try:
            self._keying.handle_message_untrusted(source, message, self._gateway.freshness, now)
        except CertificateError as error:
            self._account.note_fault(error)
            self._settle(now)
            raise

    def _handle_met(self, met: Met, now: Instant) -> None:
        self._account.trouble = ""
        self._is_shown = met.is_full
        if self.papers.pin(met.certificate):
            self._letters.hurry()  # what the service brought of it was signed by the key before
        if met.is_proven:
            self._paths.handle_proven(met.source, now)
        else:
            self._paths.handle_probe(met.source, now)

    def _handle_heard(self, source: Address | None, records: int, now: Instant) -> None:
        """Records of the live session opened; `source` where they came from elsewhere than the primary."""
        if source is None:
            self._paths.handle_heard(now, records)
            return
        self._paths.handle_probe(source, now)

    def _judge(self, now: Instant) -> None:
        """Whatever ends by itself or by revocation ends at once: the session, its keys, and the gate."""
        was_void = bool(self.papers.void)
        self.papers.judge(now)
        certificate = self.papers.certificate
        if self.papers.void and not was_void:
            self._account.trouble = self.papers.void
            self._end(CloseReason.CERTIFICATE)
            self._paths.pause()
        elif was_void and not self.papers.void:
            self._account.trouble = ""
            self._look(now)
        if certificate is not None and self._around.identity.trust.is_revoked(certificate):
            self.papers.forget_introduction()

    def _handle_collided(self) -> None:
        """Every session of the pair ends. Whoever is at its other end is told, and will ask why."""
        if self._place is not None:
            self.papers.note_place(self._place)
        self._say_close(CloseReason.STOPPED)
        self._keying.end_sessions()
        self._steering = None
        self._paths.is_measuring = False
        self._lane.dismiss(self.name)
        self._account.note_rebuff()

    def _check(self, certificate: bytes, rotations: Sequence[bytes] = ()) -> Certificate:
        return self.papers.check(certificate, self._now, rotations)

    def _remembered(self) -> bytes | None:
        """The certificate of a peer that was met, for a session that shows none; while each knows the other's key."""
        certificate, record = self.papers.certificate, self.papers.record
        if certificate is None or certificate.public_key != record.pinned_key:
            return None
        return certificate.der if record.shown_key == self._around.identity.signer.public_key else None

    def _handle_live(self, now: Instant) -> None:
        self._place = None
        if self._is_shown:
            self.papers.note_shown(self._around.identity.signer.public_key)
        self._letters.handle_live()
        self._paths.handle_live(now)
        self._steering = None
        self._letters.offer_if_untold(now)

    def _handle_session_ended(self, now: Instant) -> None:
        self._account.note_end(now)
        self._paths.restart(now)

    def _handle_close(self, reason: CloseReason, now: Instant) -> None:
        self._keying.end()
        if reason is CloseReason.WITHDRAWN:
            self._withdraw(now)
        else:
            self._paths.restart(now)

    def _withdraw(self, now: Instant) -> None:
        self._end(None)
        self.papers.forget_introduction()
        self._paths.pause()
        # It may wish again already, and its introduction have been quicker than the end of the one before.
        self._letters.hurry()
        self._settle(now)

    def _end(self, reason: CloseReason | None) -> None:
        """Wipes the keys at once; with a reason the peer is told first, so that it does so too."""
        if reason is not None:
            self._say_close(reason)
        self._keying.end()
        self._gateway.close()
        self._inbox.clear()
        self._opener.stop()
        self._steering = None
        self._paths.is_measuring = False
        self._letters.forget_offers()
        self._lane.dismiss(self.name)

    def _say_close(self, reason: CloseReason) -> None:
        live, primary = self._keying.live, self._paths.primary
        if live is not None and primary is not None:
            self._lane.send_control(live.local_index, encode_control(Close(reason)), primary.address)

    # paths

    def _handle_reply(self, token: bytes, source: Address, observed: Address, now: Instant) -> None:
        rtt_s = self._paths.handle_reply(token, source, now)
        if rtt_s is not None and source.transport is Transport.UDP and not source.via:
            self._observed = observed
        ping = self._pings.pop(token, None)
        primary = self._paths.primary
        if rtt_s is not None and ping is not None and primary is not None:
            self._events.append(Pong(self.name, ping, rtt_s, primary.kind, source))

    def _send_probe(self, due: ProbeDue, now: Instant) -> None:
        live = self._keying.live
        if live is not None and not self._keying.is_suspect:
            room = payload_limit(due.to, due.packet_bytes) - DATA_OVERHEAD_BYTES - 1 if due.packet_bytes else 0
            primary = self._paths.primary
            is_used = self._is_client and primary is not None and primary.address == due.to
            probe = Probe(due.token, max(0, room - PROBE_BYTES), is_used)
            self._lane.send_control(live.local_index, encode_control(probe), due.to, whole=True)
        elif self._gateway.is_open and not due.packet_bytes:
            self._transmits.append(Transmit(due.to, self._gateway.wrap_probe(due.token, now)))

    def _handle_primary(self, to: Address | None, now: Instant) -> None:
        if to is None:
            # Frames still go to the last address: it may come back before anything better is found.
            self._is_doubtful = True
            self._keying.doubt()
            self._letters.hurry()
            self._letters.offer_if_lost(now)
            self._events.append(PathChanged(self.name, None, None))
            return
        primary = self._paths.primary
        if primary is not None:
            self._events.append(PathChanged(self.name, primary.kind, to))
        if to.transport is Transport.UDP and not to.via:
            self.papers.remember_address(to)
        if self._keying.live is not None:
            self._letters.offer_if_untold(now)

    def _steer(self) -> None:
        """Frames go where the paths say, as long as the paths say the same."""
        primary, copy = self._paths.primary, self._paths.copy
        if primary is None or self._keying.live is None:
            return
        limit = min(path.payload_limit for path in (primary, copy or primary))
        steering = (primary.address, limit, copy.address if copy is not None else None)
        if steering != self._steering:
            self._steering = steering
            self._lane.steer(self.name, *steering)

    def _look(self, now: Instant, *, again: bool = False) -> None:
        """Everything that may reach the peer is tried from now on; `again` where that failed or hardly can open."""
        offer = self.papers.offer
        again = again or (offer is not None and is_hopeless(self._letters.nat, offer.nat))
        self._paths.handle_candidates(self.papers.candidates(), now, again=again)
        self._opener.begin(self._letters.nat, offer, now)
        if not self._letters.nat.carries_udp or (offer is not None and not offer.nat.carries_udp):
            self._paths.hurry_doors(now)

    # intents and offers

    def _put_offer(self, data: bytes, *, by_service: bool, now: Instant) -> None:
        """Takes an authenticated offer, at once or as soon as its turn comes. Raises `DecodeError`."""
        incoming = self.papers.read_offer(data, by_service=by_service, now=now)
        if incoming is not None:
            self._inbox.put(incoming)
            self._take_offer(now)

    def _take_offer(self, now: Instant) -> None:
        incoming = self._inbox.take_due(now)
        if incoming is None:
            return
        before = self.papers.offer
        self.papers.accept_offer(incoming)
        if before is not None and before.hosts != incoming.offer.hosts:
            self._paths.handle_moved(now)
        is_known = before is not None and (before.candidates, before.nat) == (
            incoming.offer.candidates,
            incoming.offer.nat,
        )
        self._look(now, again=is_known and not incoming.by_service)
        self._opener.note_heard()
        if incoming.by_service and incoming.offer.reply_wanted:
            # Whoever asks through the service has no session any more, whatever we still believe.
            self._keying.doubt()
            self._letters.offer(reply_wanted=False, now=now)

    # what follows from all of it

    def _settle(self, now: Instant) -> None:
        """Brings the parts together after any input: what one of them said is acted on until all are quiet."""
        self._now = now
        self._drain_keying(now)
        self._drain_paths(now)
        if self.papers.record.enabled:
            # Whoever calls is asked where it calls from: a copy may sit at the end of the primary.
            caller = self._callers.first(now)
            if self._keying.pursue(caller or self._paths.primary, now) and caller is not None:
                self._callers.drop(caller.address)
            self._drain_keying(now)
        is_pathless = self._paths.primary is None and self.is_introduced and self.papers.offer is not None
        self._pathless = (self._pathless or now) if is_pathless else None
        self._opener.plan(self._paths, now, is_live=self._keying.live is not None and not self._keying.is_suspect)
        self._drain_opener(now)
        self._steer()
        self._letters.plan(now)
        record = self.papers.take_changed_record()
        if record is not None:
            self._events.append(StoreRecord(record))
        self._events.extend(self._account.news(now, is_service_up=self._letters.is_service_up))

    def _drain_keying(self, now: Instant) -> None:
        for event in drain(self._keying.poll_event):
            match event:
                case Met():
                    self._handle_met(event, now)
                case BecameLive():
                    self._handle_live(now)
                case SessionEnded():
                    self._handle_session_ended(now)
                case AttemptFailed():
                    self._paths.doubt(now)
                case Collided():
                    self._handle_collided()
                case Rebuffed():
                    self._account.note_rebuff()
                case CallDue(to=to):
                    if self._gateway.is_open:
                        self._transmits.append(Transmit(to, self._gateway.wrap_call(now)))
        for outgoing in drain(self._keying.poll_outgoing):
            if self._gateway.is_open:
                datagrams = self._gateway.wrap_pieces(outgoing.message, now)
                self._transmits.extend(Transmit(outgoing.to, datagram) for datagram in datagrams)

    def _drain_paths(self, now: Instant) -> None:
        for event in drain(self._paths.poll_event):
            match event:
                case PrimaryChanged(to=to):
                    self._handle_primary(to, now)
                case DoorDue(to=to):
                    self._events.append(ConnectWanted(to))
                case LinkForgotten(link=link):
                    self._events.append(LinkUnwanted(link))
                case PrimaryDoubted():
                    self._is_doubtful = True
        for due in drain(self._paths.poll_probe):
            self._send_probe(due, now)

    def _drain_opener(self, now: Instant) -> None:
        for to in drain(self._opener.poll_guess):
            if self._gateway.is_open:
                self._transmits.append(Transmit(to, self._gateway.wrap_probe(self._around.draw(TOKEN_BYTES), now)))
        if self._opener.take_offer_due():
            self._letters.offer(reply_wanted=False, now=now)
        unwanted = self._opener.take_unwanted(self._paths, now)
        if unwanted:
            self._events.append(SocketsUnwanted(unwanted))
