"""A pure service with endpoints that speak to it, for tests: no socket, no clock, every random byte from a seed."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

from discovery.core.channel import ServiceIdentity
from discovery.core.records import KeyRecord
from discovery.core.service import Service
from discovery.core.settings import Settings
from discovery.core.signatory import Present, Signatory
from discovery.core.store import MemoryStore, Store
from fabric.core.machine import Calendar
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER, Ed25519Signer, verify
from fabric.identity.authority import DAY_S, Authority, draw_serial
from fabric.identity.bundle import make_bundle
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.enrolment_key import enrolment_proof
from fabric.identity.envelope import seal_envelope
from fabric.identity.intent import Intent, sign_intent
from fabric.identity.request import NONCE_BYTES, make_request
from fabric.wire.envelope import EnvelopeKind
from fabric.wire.rendezvous import (
    Authenticate,
    Challenge,
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    PublishBundle,
    Renew,
    SendOffer,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
    WithdrawIntent,
)

NETWORK = "home"
START = 1_000.0
UNIX = 1_800_000_000.0


def make_authority(draw: random.Random) -> Authority:
    return Authority.create(
        NETWORK,
        seed=draw.randbytes(32),
        serial=draw_serial(draw.randbytes),
        not_before=UNIX - DAY_S,
        not_after=UNIX + 3650 * DAY_S,
    )


class Town:
    """One service, its store and its time."""

    def __init__(self, store: Store | None = None, settings: Settings | None = None, seed: int = 1) -> None:
        self.random = random.Random(seed)
        self.draw = self.random.randbytes
        self.now = START
        self.calendar = Calendar(UNIX - START)
        self.store: Store = store or MemoryStore()
        self.settings = replace(
            settings or Settings(),
            addresses=("service.example:443",),
            stun=("service.example:3478",),
            sweep_s=900.0,  # weeks pass in these tests
        )
        self.authority = make_authority(self.random)
        self.signatory: Signatory = Present(self.authority)
        self.identity = self.new_identity()
        self.next_connection = 1
        self.inbox: dict[int, list[ToEndpoint]] = {}
        self.closed: set[int] = set()
        self.service = self.start_service()

    def new_identity(self) -> ServiceIdentity:
        signer = Ed25519Signer(self.draw(32))
        certificate = self.authority.issue_service(
            signer.public_key,
            hosts=("service.example",),
            serial=draw_serial(self.draw),
            not_before=UNIX - 300,
            not_after=UNIX + 90 * DAY_S,
        )
        return ServiceIdentity(certificate, signer)

    def start_service(self) -> Service:
        """A service on the same store: also how a restart looks."""
        self.service = Service(
            self.signatory, self.store, self.identity, self.draw, self.calendar, self.settings, self.now
        )
        return self.service

    @property
    def unix(self) -> float:
        return self.calendar.unix(self.now)

    def drain(self) -> None:
        while (item := self.service.poll_message()) is not None:
            connection, message = item
            if connection not in self.closed:
                self.inbox.setdefault(connection, []).append(message)
        while (connection_ := self.service.poll_close()) is not None:
            self.closed.add(connection_)

    def pass_time(self, seconds: float) -> None:
        """Goes from deadline to deadline, as a driver does."""
        end = self.now + seconds
        while (due := self.service.next_timeout()) <= end:
            self.now = max(self.now, due)
            self.service.handle_timeout(self.now)
            self.drain()
        self.now = end

    def create_key(self, key_id: str = "k1", **changes: object) -> KeyRecord:
        record = KeyRecord(key_id, secret=self.draw(32), created=self.unix, uses_left=None, expires=None)
        record = replace(record, **changes)  # type: ignore[arg-type]
        self.store.put_key(record)
        return record

    def enrol(
        self, key: KeyRecord, request: bytes, source: str = "192.0.2.1", proof: bytes | None = None
    ) -> EnrolmentAnswer | EnrolmentRefusal:
        if proof is None:
            proof = enrolment_proof(key.secret, request, self.identity.certificate)
        return self.service.handle_enrolment(EnrolmentRequest(key.key_id, request, proof), source, self.now)

    def resident(self, name: str, key: KeyRecord | None = None) -> Resident:
        """An enrolled endpoint."""
        seed = self.draw(32)
        key = key or self.store.key("k1") or self.create_key()
        answer = self.enrol(key, make_request(seed, name))
        assert isinstance(answer, EnrolmentAnswer), answer
        return Resident(self, name, seed, decode_certificate(answer.certificate))

    def online(self, name: str) -> Resident:
        """An enrolled endpoint that is connected and has published its bundle."""
        resident = self.resident(name)
        resident.connect()
        resident.publish()
        return resident


@dataclass
class Resident:
    """An endpoint as the service sees it."""

    town: Town
    system: str
    seed: bytes = field(repr=False)
    certificate: Certificate
    connection: int = 0
    taken: int = 0
    kept: tuple[int, bytes] = (0, b"")
    """The certificate to be renewed, and the random value of the request for that."""

    def __post_init__(self) -> None:
        self.signer = Ed25519Signer(self.seed)
        self.bundle, self.secrets = make_bundle(self.signer, self.name, self.town.draw, self.town.unix, None)

    @property
    def name(self) -> str:
        return self.certificate.name

    def open(self, source: str = "192.0.2.1") -> Challenge:
        self.connection = self.town.next_connection
        self.town.next_connection += 1
        self.taken = 0
        self.town.service.handle_connected(self.connection, self.town.now, source)
        self.town.drain()
        (challenge,) = self.hear()
        assert isinstance(challenge, Challenge)
        return challenge

    def fields(self, challenge: bytes, nonce: bytes) -> tuple[bytes, ...]:
        return (
            NETWORK.encode(),
            challenge,
            nonce,
            blake2b_256(self.town.identity.certificate),
            blake2b_256(self.certificate.der),
        )

    def proof(self, challenge: Challenge) -> Authenticate:
        nonce = self.town.draw(32)
        signature = self.signer.sign(LABEL_CONTROL_CLIENT, *self.fields(challenge.nonce, nonce))
        return Authenticate(self.certificate.der, nonce, signature)

    def connect(self, source: str = "192.0.2.1") -> Welcome:
        """Both prove each other; returns the welcome, whose signature holds."""
        challenge = self.open(source)
        message = self.proof(challenge)
        self.say(message)
        welcome = self.hear_next()
        assert isinstance(welcome, Welcome)
        fields = self.fields(challenge.nonce, message.nonce)
        verify(self.town.identity.signer.public_key, LABEL_CONTROL_SERVER, welcome.signature, *fields)
        return welcome

    def disconnect(self) -> None:
        self.town.service.handle_lost(self.connection, self.town.now)
        self.town.drain()

    def say(self, message: ToService) -> None:
        self.town.service.handle_message(self.connection, message, self.town.now)
        self.town.drain()

    def hear(self) -> list[ToEndpoint]:
        """Everything said to this endpoint since it was last asked."""
        heard = self.town.inbox.get(self.connection, [])[self.taken :]
        self.taken += len(heard)
        return heard

    def hear_next(self) -> ToEndpoint:
        self.taken += 1
        return self.town.inbox[self.connection][self.taken - 1]

    @property
    def is_closed(self) -> bool:
        return self.connection in self.town.closed

    def publish(self) -> None:
        self.say(PublishBundle(self.bundle))

    def replace_bundle(self) -> None:
        self.bundle, self.secrets = make_bundle(self.signer, self.name, self.town.draw, self.town.unix, self.secrets)

    def intent(self, peer: str, life_s: float = 30 * DAY_S, begins_in_s: float = 0.0) -> bytes:
        begins = self.town.unix + begins_in_s
        return sign_intent(
            self.signer, Intent(NETWORK, self.name, peer, self.town.unix, begins, self.town.unix + life_s)
        )

    def state_intent(self, peer: str, life_s: float = 30 * DAY_S) -> None:
        self.say(StateIntent(self.intent(peer, life_s)))

    def withdraw(self, peer: str) -> None:
        self.say(WithdrawIntent(peer))

    def envelope(self, to: Resident, payload: bytes = b"offer", life_s: int = 300) -> bytes:
        return seal_envelope(
            self.signer,
            network=NETWORK,
            recipient=to.name,
            kind=EnvelopeKind.OFFER,
            id16=self.town.draw(16),
            created=self.town.unix,
            life_s=life_s,
            bundle_serial=to.secrets.serial,
            recipient_key=to.secrets.offer.public,
            payload=payload,
        )

    def send_offer(self, to: Resident, payload: bytes = b"offer", life_s: int = 300) -> bytes:
        envelope = self.envelope(to, payload, life_s)
        self.say(SendOffer(to.name, envelope))
        return envelope

    def renew(self, name: str | None = None) -> None:
        """Asks with the random value that this host has kept for the certificate it shows, or draws it now."""
        if self.kept[0] != self.certificate.serial:
            self.kept = self.certificate.serial, self.town.draw(NONCE_BYTES)
        self.say(Renew(make_request(self.seed, name or self.name, self.kept[1])))
