"""The smallest discovery service that introduces, and whatever a hostile one may do instead.

It has the verbs of the product's own service, so that both stand in the same site. It keeps all that it was ever
given, as a hostile service would, and a test may hand any of it to anybody.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from fabric.core.machine import Calendar, Draw, Instant
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER, verify
from fabric.identity.authority import DAY_S
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.grant import PAIR_BYTES, Grant, sign_grant
from fabric.identity.intent import peek_intent
from fabric.wire.rendezvous import (
    Authenticate,
    Challenge,
    DeliverOffer,
    Granted,
    IntentNoted,
    Introduction,
    PublishBundle,
    RelayPlace,
    Renew,
    Renewed,
    Revocations,
    SendOffer,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
    WithdrawIntent,
    Withdrawn,
)
from tests.sim.office import NETWORK, Office

GRANT_MARGIN_S = 60.0


@dataclass(slots=True)
class Hoard:
    """All that passed through, by name, the newest last; an honest service would forget most of it."""

    certificates: dict[str, list[bytes]] = field(default_factory=dict)
    bundles: dict[str, list[bytes]] = field(default_factory=dict)
    intents: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)
    envelopes: dict[tuple[str, str], list[bytes]] = field(default_factory=dict)


class Introducer:
    """`standing` are the intents that hold now: (who, whom). `relays` are granted to every pair."""

    def __init__(
        self,
        office: Office,
        stun: tuple[str, ...],
        calendar: Calendar,
        draw: Draw,
        relays: tuple[RelayPlace, ...] = (),
    ) -> None:
        self.office = office
        self.stun = stun
        self.relays = relays
        self.hoard = Hoard()
        self.standing: set[tuple[str, str]] = set()
        self._calendar = calendar
        self._draw = draw
        self._now: Instant = 0.0
        self._nonces: dict[int, bytes] = {}
        self._names: dict[int, str] = {}
        self._connections: dict[str, int] = {}
        self._messages: deque[tuple[int, ToEndpoint]] = deque()

    def handle_connected(self, connection: int, now: Instant, source: str) -> None:
        self._now = now
        self._nonces[connection] = self._draw(32)
        self._messages.append((connection, Challenge(self._nonces[connection])))

    def handle_lost(self, connection: int, now: Instant) -> None:
        name = self._names.pop(connection, None)
        if name is not None and self._connections.get(name) == connection:
            del self._connections[name]

    def handle_message(self, connection: int, message: ToService, now: Instant) -> None:
        self._now = now
        if isinstance(message, Authenticate):
            self._handle_authenticate(connection, message, now)
            return
        name = self._names[connection]
        match message:
            case PublishBundle(bundle=bundle):
                self.hoard.bundles.setdefault(name, []).append(bundle)
                for who, whom in sorted(self.standing):
                    if who == name:
                        self._introduce_if_mutual(who, whom)
            case StateIntent(intent=intent):
                self._handle_intent(name, intent)
            case WithdrawIntent(peer=peer):
                self.say(name, IntentNoted(peer))
                if (name, peer) in self.standing:
                    self.standing.discard((name, peer))
                    self.say(peer, Withdrawn(name))
            case SendOffer(to=to, envelope=envelope):
                self.hoard.envelopes.setdefault((name, to), []).append(envelope)
                if self._is_mutual(name, to):
                    self.say(to, DeliverOffer(name, envelope))
            case Renew():
                certificate = self.office.renew(name, self._calendar.unix(now))
                self.hoard.certificates[name].append(certificate.der)
                self.say(name, Renewed(certificate.der))

    def handle_timeout(self, now: Instant) -> None:
        pass

    def next_timeout(self) -> Instant | None:
        return None

    def poll_message(self) -> tuple[int, ToEndpoint] | None:
        return self._messages.popleft() if self._messages else None

    def poll_close(self) -> int | None:
        return None

    def say(self, name: str, message: ToEndpoint) -> None:
        """Says anything to an endpoint, if it is connected."""
        connection = self._connections.get(name)
        if connection is not None:
            self._messages.append((connection, message))

    def introduce(self, to: str, peer: str) -> None:
        """Hands out the newest papers of `peer` that there ever were, whether it still wishes it or not."""
        hoard = self.hoard
        certificate, bundle, intent = hoard.certificates[peer][-1], hoard.bundles[peer][-1], hoard.intents[peer, to][-1]
        self.say(to, Introduction(peer, certificate, intent, bundle))
        if self.relays and hoard.certificates.get(to):
            self.say(to, Granted(peer, self._grant(to, peer), self.relays))

    def push_revocations(self) -> None:
        for name in sorted(self._connections):
            self.say(name, Revocations(self.office.crl))

    def _handle_authenticate(self, connection: int, message: Authenticate, now: Instant) -> None:
        certificate: Certificate = decode_certificate(message.certificate)
        fields = (
            NETWORK.encode(),
            self._nonces.pop(connection),
            message.nonce,
            blake2b_256(self.office.tls_certificate),
            blake2b_256(message.certificate),
        )
        verify(certificate.public_key, LABEL_CONTROL_CLIENT, message.signature, *fields)
        self._names[connection] = certificate.name
        self._connections[certificate.name] = connection
        self.hoard.certificates.setdefault(certificate.name, []).append(message.certificate)
        signature = self.office.service_signer.sign(LABEL_CONTROL_SERVER, *fields)
        welcome = Welcome(signature, self.stun, self.office.crl, self._calendar.unix(now))
        self._messages.append((connection, welcome))

    def _grant(self, holder: str, peer: str) -> bytes:
        unix = self._calendar.unix(self._now)
        sides = sorted((holder, peer))
        grant = Grant(
            network=NETWORK,
            pair=blake2b_256(*(side.encode() for side in sides))[:PAIR_BYTES],
            side=sides.index(holder),
            holder=decode_certificate(self.hoard.certificates[holder][-1]).public_key,
            not_before=unix - GRANT_MARGIN_S,
            expires=unix + DAY_S,
            rate_bytes_s=10**7,
            quota_bytes=10**12,
        )
        return sign_grant(self.office.service_signer, self.office.tls_certificate, grant)

    def _handle_intent(self, name: str, intent: bytes) -> None:
        peer = peek_intent(intent).recipient
        self.hoard.intents.setdefault((name, peer), []).append(intent)
        self.standing.add((name, peer))
        self.say(name, IntentNoted(peer))
        self._introduce_if_mutual(name, peer)

    def _introduce_if_mutual(self, one: str, other: str) -> None:
        if self._is_mutual(one, other) and {one, other} <= self.hoard.bundles.keys():
            self.introduce(one, other)
            self.introduce(other, one)

    def _is_mutual(self, one: str, other: str) -> bool:
        return {(one, other), (other, one)} <= self.standing
