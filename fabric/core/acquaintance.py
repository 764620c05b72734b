"""What is known of one peer by paper: the wish, the pin, its introduction, both gates, both offers.

Papers come by way of the service, which may lie: every one is verified (`scrutiny`) before anything of it is believed.
Every change makes a new record to store.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from fabric.core.entanglement import UNMET, Encounter, Entangled
from fabric.core.gate import gate_key
from fabric.core.identity import Identity
from fabric.core.machine import NEVER, Calendar, Draw, Instant
from fabric.core.offer_inbox import IncomingOffer
from fabric.core.records import PeerRecord
from fabric.core.scrutiny import MAX_CLOCK_SKEW_S, Held, Scrutiny, is_known
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.bundle import KeyBundle, open_bundle
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.envelope import open_envelope, seal_envelope
from fabric.identity.intent import Intent, open_intent, sign_intent
from fabric.identity.rotation import as_option
from fabric.identity.x509_form import MAX_SERIAL_BYTES
from fabric.wire.address import Address, Candidate, CandidateKind
from fabric.wire.envelope import EnvelopeKind
from fabric.wire.nat import NatBehaviour
from fabric.wire.offer import Offer, decode_offer, encode_offer
from fabric.wire.rendezvous import Granted, Introduction, SendOffer, StateIntent

GATE_SHARE_BYTES = 32
ENVELOPE_ID_BYTES = 16


class Acquaintance:
    """`check_address` raises `CertificateError` where an address of the certificate belongs to somebody else.

    `void` says why the papers are good for nothing now, as of the last `judge`; empty where they hold.
    """

    def __init__(
        self,
        identity: Identity,
        record: PeerRecord,
        calendar: Calendar,
        draw: Draw,
        allocate_gate_index: Callable[[], int],
        check_address: Callable[[Certificate], None],
    ) -> None:
        self._identity = identity
        self._calendar = calendar
        self._draw = draw
        self._allocate_gate_index = allocate_gate_index
        self._scrutiny = Scrutiny(identity, record.name, calendar, check_address)
        self._stored = record
        self.record = record
        self.void = ""
        self._offered_ms = 0
        self.certificate: Certificate | None = None
        self.intent: Intent | None = None
        self.offer: Offer | None = None
        self.bundle: KeyBundle | None = None
        self.gate_out = b""
        self.gate_in = b""
        self._restore(record)

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def network(self) -> str:
        return self._identity.network

    @property
    def ends(self) -> Instant:
        """When the introduction ends by itself: with the peer's certificate, or with its wish."""
        if self.certificate is None or self.void:
            return NEVER
        ends = self._calendar.instant(self.certificate.not_after)
        return ends if self.intent is None else min(ends, self._calendar.instant(self.intent.expires))

    def candidates(self) -> list[Candidate]:
        """Where the peer may be: what it last offered, and where it was last seen."""
        known = list(self.offer.candidates) if self.offer is not None else []
        if self.record.last_address is not None:
            last = Candidate(CandidateKind.PEER_REFLEXIVE, Address(*self.record.last_address))
            if last.address not in {candidate.address for candidate in known}:
                known.append(last)
        return known

    def judge(self, now: Instant) -> None:
        """Looks at the papers again, for time has passed, the clock was set, or a revocation has come.

        While they are void the gate is shut; index and share stay, since they never change by what others say.
        """
        was_void, self.void = self.void, self._why_void(now)
        if self.void:
            self.gate_in = self.gate_out = b""
        elif was_void:
            self._open_gate()

    def take_changed_record(self) -> PeerRecord | None:
        """Returns the record where it differs from the one that was last taken."""
        if self.record == self._stored:
            return None
        self._stored = self.record
        return self.record

    def check(self, certificate: bytes, now: Instant, rotations: Sequence[bytes] = ()) -> Certificate:
        """Returns the certificate that a handshake brings, verified. Raises `CertificateError`."""
        return self._scrutiny.check_certificate(self.record, certificate, now, rotations)

    def state_intent(self, life_s: float, now: Instant) -> StateIntent:
        unix = self._calendar.unix(now)
        intent = Intent(
            network=self._identity.network,
            sender=self._identity.name,
            recipient=self.name,
            created=self._intent_date_ms(now) / 1000,
            not_before=unix,
            expires=unix + life_s,
            options=tuple(as_option(statement) for statement in self._identity.rotations),
        )
        return StateIntent(sign_intent(self._identity.signer, intent))

    def introduce_untrusted(self, introduction: Introduction, now: Instant) -> None:
        """Believes an introduction after verifying all of it. Raises `AuthenticationError` or `DecodeError`."""
        held = Held(self.record, self.certificate, self.intent, self.bundle)
        certificate, intent, bundle = self._scrutiny.check_introduction(held, introduction, now)
        known, is_same_key = self.certificate, held.is_same_key(certificate)
        if not is_same_key and self.record.pinned_key is None:
            self.forget_introduction()  # it was enrolled anew before it was ever met: its old offer is another's
        if known is None or not is_same_key or certificate.not_before > known.not_before:
            self._take_certificate(certificate)
        self.intent = intent
        self.bundle = bundle
        self._change(intent=introduction.intent, bundle=introduction.bundle)
        if is_known(self.record, certificate):
            self._change(bundle_serial=bundle.serial)
        self.void = ""
        self._open_gate()

    def forget_introduction(self) -> None:
        """The other no longer wishes to meet: its papers go, and the gate is shut.

        What was drawn for the gate stays, and the pin, and the serial that only grows under the pinned key.
        """
        self.certificate = self.intent = self.bundle = self.offer = None
        self.gate_in = self.gate_out = b""
        self.void = ""
        serial = self.record.bundle_serial if self.record.pinned_key is not None else 0
        self._change(certificate=None, intent=None, bundle=None, bundle_serial=serial, offer=None, last_address=None)
        self._change(grant=None, relays=())

    def pin(self, certificate: Certificate) -> bool:
        """The peer has proven itself in a handshake: this is its key from now on. True where it had another before."""
        is_rotated = self.record.pinned_key not in (None, certificate.public_key)
        was_introduced = self.certificate is not None and self.certificate.public_key == certificate.public_key
        self._change(pinned_key=certificate.public_key)
        self._take_certificate(certificate)
        if not was_introduced:
            self.intent = self.bundle = None
            self._change(intent=None, bundle=None)
        if is_rotated:
            self._change(bundle_serial=self.bundle.serial if self.bundle is not None else 0)
            if self.record.fingerprint is not None:
                self._change(fingerprint=certificate.fingerprint)
        return is_rotated and not was_introduced

    def note_shown(self, key: bytes) -> None:
        """The peer knows this identity key of ours."""
        self._change(shown_key=key)

    @property
    def entangled(self) -> Entangled:
        return self.record.entangled

    def hold(self, entangled: Entangled) -> None:
        """Takes what this end holds of the pair's root from now on."""
        self._change(entangled=entangled)

    def note_place(self, address: Address) -> None:
        """Whoever was in session when an alarm was raised spoke from here: it says more than where that began."""
        alarm = self.entangled.alarm
        if alarm is not None and alarm.before is not None:
            before = Encounter(alarm.before.unix, str(address))
            self.hold(msgspec.structs.replace(self.entangled, alarm=msgspec.structs.replace(alarm, before=before)))

    def forget_trust(self, *, key: bool) -> None:
        """What a person takes back: the root secret and any alarm, and with `key` also who the peer is."""
        self._change(entangled=UNMET)
        if self.certificate is not None and not is_known(self.record, self.certificate):
            self.forget_introduction()  # of a key that only the root could have proven
        if key:
            self._change(pinned_key=None, pinned_serial=None, fingerprint=None)
            self.forget_introduction()
            self._change(gate_index=None, gate_share=None)  # whoever has the old key may know them as well

    def remember_address(self, address: Address) -> None:
        self._change(last_address=(address.ip, address.port))

    def note_grant(self, granted: Granted) -> None:
        """The pair may use these relays, also when the service is out of reach."""
        relays = tuple((place.host, place.udp_port, place.tls_port) for place in granted.relays)
        self._change(grant=granted.grant, relays=relays)

    def set_enabled(self, enabled: bool) -> None:
        self._change(enabled=enabled)

    def set_fingerprint(self, fingerprint: str) -> None:
        self._change(fingerprint=fingerprint)

    def make_offer(
        self, candidates: tuple[Candidate, ...], nat: NatBehaviour, *, reply_wanted: bool, now: Instant
    ) -> bytes:
        """Returns an encoded offer, newer than every one before it. Only after an introduction."""
        created_ms = self._offer_date_ms(now)
        index, share = self.record.gate_index, self.record.gate_share
        if index is None or share is None:
            raise AuthenticationError(f"{self.name} has not been introduced")
        return encode_offer(Offer(created_ms, index, share, reply_wanted, candidates, nat))

    def seal_offer(self, offer: bytes, life_s: int, now: Instant) -> SendOffer | None:
        """Returns the offer in an envelope, or None where no key of the peer is known to seal it to."""
        if self.bundle is None or self.bundle.offer_expires < self._calendar.unix(now):
            return None
        envelope = seal_envelope(
            self._identity.signer,
            network=self._identity.network,
            recipient=self.name,
            kind=EnvelopeKind.OFFER,
            id16=self._draw(ENVELOPE_ID_BYTES),
            created=self._calendar.unix(now),
            life_s=life_s,
            bundle_serial=self.bundle.serial,
            recipient_key=self.bundle.offer_key,
            payload=offer,
        )
        return SendOffer(self.name, envelope)

    def open_offer_untrusted(self, data: bytes, now: Instant) -> bytes:
        """Returns the offer in the envelope, still encoded.

        Raises `AuthenticationError` or `DecodeError` for what is not from this peer, or not for us.
        """
        if self.certificate is None:
            raise AuthenticationError(f"{self.name} has not been introduced")
        envelope = open_envelope(
            data,
            sender_key=self.certificate.public_key,
            network=self._identity.network,
            recipient=self._identity.name,
            opener=self._identity.opener,
        )
        if envelope.kind is not EnvelopeKind.OFFER or envelope.created + envelope.life_s < self._calendar.unix(now):
            raise AuthenticationError("an envelope of another kind, or past its life")
        return envelope.payload

    def read_offer(self, data: bytes, *, by_service: bool, now: Instant) -> IncomingOffer | None:
        """Reads an authenticated offer; None where it is not newer than the last one. Raises `DecodeError`.

        A date in the future orders nothing: a peer whose clock was fast for a while would else not be heard again
        until the time that it believed in.
        """
        offer = decode_offer(data)
        last_ms = self.offer.created_ms if self.offer is not None else -1
        horizon_ms = self._horizon_ms(now)
        if offer.created_ms > horizon_ms or offer.created_ms <= last_ms <= horizon_ms:
            return None
        return IncomingOffer(offer, data, by_service)

    def accept_offer(self, incoming: IncomingOffer) -> None:
        self.offer = incoming.offer
        self._change(offer=incoming.encoded)
        self._open_gate()

    def _restore(self, record: PeerRecord) -> None:
        """Papers that no longer decode are as good as none: the service brings new ones."""
        try:
            if record.certificate is not None and record.gate_share is not None:
                self.certificate = decode_certificate(record.certificate)
                if record.intent is not None:
                    self.intent = open_intent(record.intent, self.certificate.public_key)
                if record.bundle is not None:
                    self.bundle = open_bundle(record.bundle, self.certificate.public_key)
            if record.offer is not None:
                self.offer = decode_offer(record.offer)
        except (AuthenticationError, DecodeError):
            self.certificate = self.intent = self.bundle = self.offer = None
        if self.certificate is not None and record.pinned_serial is None:
            self._take_certificate(self.certificate)  # a record of before there was such a thing
        self._open_gate()

    def _open_gate(self) -> None:
        if self.certificate is None or self.void:
            return
        if self.record.gate_index is None:
            self._change(gate_index=self._allocate_gate_index(), gate_share=self._draw(GATE_SHARE_BYTES))
        me, network = self._identity.name, self._identity.network
        share = self.record.gate_share
        if share is not None:
            self.gate_in = gate_key(share, network, self.name, me)
        if self.offer is not None:
            self.gate_out = gate_key(self.offer.gate_share, network, me, self.name)

    def _take_certificate(self, certificate: Certificate) -> None:
        self.certificate = certificate
        self._change(certificate=certificate.der)
        if certificate.public_key == self.record.pinned_key:
            self._change(pinned_serial=certificate.serial.to_bytes(MAX_SERIAL_BYTES))

    def _why_void(self, now: Instant) -> str:
        """Compares instants, as `ends` does: rounding must not leave it due and nothing done."""
        if self.certificate is None:
            return ""
        if self._identity.trust.is_revoked(self.certificate):
            return f"the certificate of {self.name} was revoked"
        if self._calendar.instant(self.certificate.not_after) <= now:
            return f"the certificate of {self.name} has expired"
        if self.intent is not None and self._calendar.instant(self.intent.expires) <= now:
            return f"the intent of {self.name} to meet this endpoint has ended"
        return ""

    def _horizon_ms(self, now: Instant) -> int:
        """No clock that is right is further ahead."""
        return int((self._calendar.unix(now) + MAX_CLOCK_SKEW_S) * 1000)

    def _intent_date_ms(self, now: Instant) -> int:
        """Returns a date later than every one before, also where the clock was set back: the service orders by it."""
        date_ms = max(int(self._calendar.unix(now) * 1000), self.record.offered_ms + 1)
        self._change(offered_ms=date_ms)
        return date_ms

    def _offer_date_ms(self, now: Instant) -> int:
        """Returns a date later than every one before; but for those of a clock that was fast, which nobody took."""
        horizon_ms = self._horizon_ms(now)
        before = [date_ms for date_ms in (self.record.offered_ms, self._offered_ms) if date_ms < horizon_ms]
        self._offered_ms = max(int(self._calendar.unix(now) * 1000), max(before, default=0) + 1)
        self._change(offered_ms=max(self.record.offered_ms, self._offered_ms))
        return self._offered_ms

    def _change(self, **fields: object) -> None:
        self.record = msgspec.structs.replace(self.record, **fields)
