"""A discovery service that was taken over. It has a service inside, keeps all that passes, and says what it likes.

    endpoint --message--> [ hostile desk ] --some, late--> honest service
    endpoint <--any message that ever was, to anybody, exchanged, old, damaged, made up-- [ hostile desk ]

It holds the service's own key, so that every endpoint takes it for the service. What it lacks is the authority's;
`forge` is for one that has stolen that as well.
"""

from __future__ import annotations

from collections import Counter, defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import msgspec

from fabric.core.machine import Instant
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.authority import DAY_S, draw_serial
from fabric.identity.bundle import make_bundle
from fabric.identity.certificate import decode_certificate
from fabric.identity.intent import Intent, peek_intent, sign_intent
from fabric.identity.request import Request
from fabric.wire.rendezvous import (
    Authenticate,
    DeliverOffer,
    Granted,
    IntentNoted,
    Introduction,
    PublishBundle,
    Refused,
    Renewed,
    Revocations,
    SendOffer,
    StateIntent,
    ToEndpoint,
    ToService,
    Welcome,
    Withdrawn,
)
from tests.sim.damage import damaged
from tests.sim.office import NETWORK
from tests.sim.site import Desk
from tests.sim.world import World

LONG_S = 120.0
KEPT = 200


@dataclass(slots=True)
class Kept:
    """All that ever passed: who was told what, and every paper, the newest last."""

    told: list[tuple[str, ToEndpoint]] = field(default_factory=list)
    certificates: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    bundles: dict[str, list[bytes]] = field(default_factory=lambda: defaultdict(list))
    intents: list[tuple[str, str, bytes]] = field(default_factory=list)
    envelopes: list[tuple[str, str, bytes]] = field(default_factory=list)
    revocations: list[bytes] = field(default_factory=list)

    def note_said(self, name: str, message: ToService) -> None:
        match message:
            case PublishBundle(bundle=bundle):
                self.bundles[name].append(bundle)
            case StateIntent(intent=intent):
                self.intents.append((name, peek_intent(intent).recipient, intent))
            case SendOffer(to=to, envelope=envelope):
                self.envelopes.append((name, to, envelope))

    def note_told(self, name: str, message: ToEndpoint) -> None:
        self.told.append((name, message))
        match message:
            case Revocations(crl=crl) | Welcome(revocations=crl):
                self.revocations.append(crl)
            case Renewed(certificate=certificate):
                self.certificates[name].append(certificate)


class HostileDesk:
    """Stands in a site in the place of `inner`. `rate` is the share of messages that meet with mischief; 0: honest.

    `did` counts. `has_authority`: the authority's key is in the same hands.
    """

    def __init__(self, world: World, rate: float = 0.0, *, has_authority: bool = False) -> None:
        self.rate = rate
        self.has_authority = has_authority
        self.did: Counter[str] = Counter()
        self.kept = Kept()
        self._inner: Desk = world.site.desk
        self._world = world
        self._chance = world.chance
        self._names: dict[int, str] = {}
        self._connections: dict[str, int] = {}
        self._ready: deque[tuple[int, ToEndpoint]] = deque()
        self._seeds: dict[str, bytes] = {}
        world.site.desk = self

    # as a desk

    def handle_connected(self, connection: int, now: Instant, source: str) -> None:
        self._inner.handle_connected(connection, now, source)

    def handle_lost(self, connection: int, now: Instant) -> None:
        self._names.pop(connection, None)
        self._inner.handle_lost(connection, now)

    def handle_message(self, connection: int, message: ToService, now: Instant) -> None:
        if isinstance(message, Authenticate):
            name = decode_certificate(message.certificate).name
            self._names[connection], self._connections[name] = name, connection
            self.kept.certificates[name].append(message.certificate)
        elif connection in self._names:
            self.kept.note_said(self._names[connection], message)
            if self._happens():
                self._mishear(connection, message)
                return
        self._inner.handle_message(connection, message, now)

    def handle_timeout(self, now: Instant) -> None:
        self._inner.handle_timeout(now)

    def next_timeout(self) -> Instant | None:
        return self._inner.next_timeout()

    def poll_message(self) -> tuple[int, ToEndpoint] | None:
        while (said := self._inner.poll_message()) is not None:
            connection, message = said
            name = self._names.get(connection)
            if name is not None:
                self.kept.note_told(name, message)
            if name is not None and self._happens():
                self._meddle(name, connection, message)
            else:
                self._ready.append(said)
        return self._ready.popleft() if self._ready else None

    def poll_close(self) -> int | None:
        return self._inner.poll_close()

    # what it says by itself

    def tell(self, name: str, message: ToEndpoint) -> None:
        """Says anything to an endpoint, if it is connected."""
        connection = self._connections.get(name)
        if connection is not None:
            self._ready.append((connection, message))
            self._world.site.settle()

    def speak(self) -> None:
        """Says something to somebody that nothing called for."""
        if not self._connections:
            return
        name = self._chance.choice(sorted(self._connections))
        verbs: list[Callable[[str], ToEndpoint | None]] = [
            self.say_again,
            self.say_what_was_for_another,
            self.withdraw,
            self.introduce,
            self.introduce,
            self.offer,
            self.offer,
            self.revoke,
            self.renew,
            self.mumble,
        ]
        verb = self._chance.choice(verbs)
        message = verb(name)
        if message is not None:
            self.did[verb.__name__] += 1
            self.tell(name, message)

    def say_again(self, name: str) -> ToEndpoint | None:
        said = [message for to, message in self.kept.told[-KEPT:] if to == name and not isinstance(message, Welcome)]
        return self._chance.choice(said) if said else None

    def say_what_was_for_another(self, name: str) -> ToEndpoint | None:
        said = [message for to, message in self.kept.told[-KEPT:] if to != name and not isinstance(message, Welcome)]
        return self._chance.choice(said) if said else None

    def withdraw(self, name: str) -> ToEndpoint:
        """Tells one of two that the other wishes no more: the view is split."""
        return Withdrawn(self._somebody())

    def introduce(self, name: str) -> ToEndpoint | None:
        """Papers that may be anybody's, of any age, alive or dead, towards anybody; or forged."""
        peer = self._somebody()
        if self.has_authority and self._chance.random() < 0.5:
            return self.forge(peer, name)
        kept = self.kept
        if not kept.intents:
            return None
        _, _, intent = self._chance.choice(kept.intents)
        papers = [peer if self._chance.random() < 0.7 else self._somebody() for _ in range(2)]
        certificates, bundles = kept.certificates[papers[0]], kept.bundles[papers[1]]
        fitting = [intent for sender, to, intent in kept.intents if (sender, to) == (peer, name)]
        if fitting and self._chance.random() < 0.7:
            intent = self._chance.choice(fitting)
        if not certificates or not bundles:
            return None
        return Introduction(peer, self._chance.choice(certificates), intent, self._chance.choice(bundles))

    def offer(self, name: str) -> ToEndpoint | None:
        """Any envelope that ever was, as from anybody."""
        if not self.kept.envelopes:
            return None
        sender, _, envelope = self._chance.choice(self.kept.envelopes[-KEPT:])
        if self._chance.random() < 0.3:
            envelope = damaged(envelope, self._chance)
        return DeliverOffer(sender if self._chance.random() < 0.5 else self._somebody(), envelope)

    def revoke(self, name: str) -> ToEndpoint:
        """A list that is old, damaged, or none."""
        crl = self._chance.choice(self.kept.revocations or [b""])
        return Revocations(self._chance.choice((crl, damaged(crl, self._chance), b"\x30")))

    def renew(self, name: str) -> ToEndpoint | None:
        """A certificate of somebody else, or an old one of its own, or one over a key that is not its own."""
        if self.has_authority and self._chance.random() < 0.5:
            return Renewed(self.forge(name, self._somebody()).certificate)
        certificates = self.kept.certificates[self._somebody()] + self.kept.certificates[name]
        return Renewed(self._chance.choice(certificates)) if certificates else None

    def mumble(self, name: str) -> ToEndpoint:
        return self._chance.choice(
            (IntentNoted(self._somebody()), Refused("StateIntent", "no"), Refused("PublishBundle", "no"))
        )

    def forge(self, peer: str, to: str) -> Introduction:
        """Papers under a name, all of a piece, over a key of the thief's own: for that he needs the authority's key."""
        seed = self._seeds.setdefault(peer, self._world.draw(32))
        signer, unix, draw = Ed25519Signer(seed), self._world.unix, self._world.draw
        genuine = decode_certificate(self.kept.certificates[peer][-1])
        certificate = self._world.office.authority.issue_endpoint(
            Request(peer, signer.public_key),
            peer,
            addresses=genuine.addresses,
            tags=(),
            serial=draw_serial(draw),
            not_before=unix - 60.0,
            not_after=unix + 30 * DAY_S,
        )
        bundle, _ = make_bundle(signer, peer, draw, unix, None, above=2 * int(unix))
        to = to if to != peer else next(name for name in self.kept.certificates if name != peer)
        intent = sign_intent(signer, Intent(NETWORK, peer, to, unix, unix - 1.0, unix + DAY_S))
        return Introduction(peer, certificate, intent, bundle)

    # what it does to what is said

    def _mishear(self, connection: int, message: ToService) -> None:
        """Lost, or heard minutes later."""
        self.did["mishear"] += 1
        if self._chance.random() < 0.5:
            self._world.schedule.after(self._chance.random() * LONG_S, partial(self._hear_late, connection, message))

    def _hear_late(self, connection: int, message: ToService) -> None:
        if connection in self._names:
            self._inner.handle_message(connection, message, self._world.now)
            self._world.site.settle()

    def _meddle(self, name: str, connection: int, message: ToEndpoint) -> None:
        verbs: list[Callable[[str, int, ToEndpoint], None]] = [
            self.drop,
            self.delay,
            self.copy,
            self.tell_another,
            self.exchange,
            self.exchange,
            self.exchange,
        ]
        verb = self._chance.choice(verbs)
        self.did[verb.__name__] += 1
        verb(name, connection, message)

    def drop(self, name: str, connection: int, message: ToEndpoint) -> None:
        pass

    def delay(self, name: str, connection: int, message: ToEndpoint) -> None:
        delay_s = self._chance.choice((0.1, LONG_S)) * self._chance.random()
        self._world.schedule.after(delay_s, partial(self._say, connection, message))

    def copy(self, name: str, connection: int, message: ToEndpoint) -> None:
        self._ready.append((connection, message))
        self.delay(name, connection, message)

    def tell_another(self, name: str, connection: int, message: ToEndpoint) -> None:
        self._ready.append((self._chance.choice(sorted(self._connections.values())), message))

    def exchange(self, name: str, connection: int, message: ToEndpoint) -> None:
        """Something in it, or all of it, is replaced."""
        said = self._exchanged(name, message)
        if said is not None:
            self._ready.append((connection, said))

    def _exchanged(self, name: str, message: ToEndpoint) -> ToEndpoint | None:
        exchanges: dict[type[ToEndpoint], Callable[[str], ToEndpoint | None]] = {
            DeliverOffer: self.offer,
            Revocations: self.revoke,
            Renewed: self.renew,
        }
        match message:
            case Introduction():
                return self._exchanged_papers(name, message)
            case Granted():
                others = [told for _, told in self.kept.told[-KEPT:] if isinstance(told, Granted)]
                return msgspec.structs.replace(self._chance.choice(others), peer=message.peer)
            case Welcome():
                return self._exchanged_welcome(message)
            case _:
                return exchanges.get(type(message), self.withdraw)(name)

    def _exchanged_papers(self, name: str, message: Introduction) -> Introduction:
        other = self.introduce(name)
        what = self._chance.choice(("certificate", "intent", "bundle"))
        if isinstance(other, Introduction) and self._chance.random() < 0.8:
            return msgspec.structs.replace(message, **{what: getattr(other, what)})
        return msgspec.structs.replace(message, **{what: damaged(getattr(message, what), self._chance)})

    def _exchanged_welcome(self, message: Welcome) -> Welcome:
        """What of it the service's signature does not cover: other STUN servers, an old list, another time."""
        return msgspec.structs.replace(
            message,
            stun=tuple(f"198.51.0.{self._chance.randrange(1, 40)}:3478" for _ in range(2)),
            revocations=self._chance.choice(self.kept.revocations),
            unix_time=self._chance.choice((0.0, 4e9, float("nan"))),
        )

    def _say(self, connection: int, message: ToEndpoint) -> None:
        self._ready.append((connection, message))
        self._world.site.settle()

    def _somebody(self) -> str:
        return self._chance.choice(sorted(self.kept.certificates))

    def _happens(self) -> bool:
        return self.rate > 0.0 and self._chance.random() < self.rate
