"""What is said for and to others in the sessions of this node: sealed offers, passed on between two peers of it."""

from __future__ import annotations

from collections import Counter

from fabric.core.circle import Circle
from fabric.core.machine import Instant
from fabric.core.passing import Passing
from fabric.core.peer import Peer
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.path import ControlKind, Forward, Forwarded, decode_control
from fabric.wire.rendezvous import SendOffer

_KINDS = (ControlKind.FORWARD, ControlKind.FORWARDED)


class ThirdParties:
    """With `may_ask`, other peers are asked to pass on the own offers; theirs are passed on in any case.

    `counters` are the node's.
    """

    def __init__(self, peers: Circle, counters: Counter[str], *, may_ask: bool) -> None:
        self._peers = peers
        self._counters = counters
        self._may_ask = may_ask
        self._passing = Passing()

    @staticmethod
    def concern(payload: bytes) -> bool:
        """Whether a control message is about somebody else than who says it."""
        return payload[:1] != b"" and payload[0] in _KINDS

    def can_pass_on(self, to: str) -> bool:
        """Whether there is a peer in reach that may know `to` as well."""
        return self._may_ask and bool(self._peers.connected - {to})

    def pass_on(self, offer: SendOffer) -> None:
        """Asks a few peers to take the own offer to its recipient."""
        for name in self._passing.choose(self._peers.connected, offer.to):
            self._peers[name].pass_on(Forward(offer.to, offer.envelope))

    def handle_control_untrusted(self, peer: Peer, payload: bytes, now: Instant) -> Peer | None:
        """Returns the peer that has something new by it.

        Raises `AuthenticationError` or `DecodeError`, and nothing has changed.
        """
        match decode_control(payload):
            case Forward() as asked:
                self._handle_asked(peer, asked, now)
                return None
            case Forwarded(sender=sender, envelope=envelope):
                known = self._peers.get(sender)
                if known is None:
                    raise AuthenticationError("an offer of somebody unknown")
                known.handle_envelope_untrusted(envelope, now)
                self._passing.note_passed(sender, peer.name)
                return known
            case _:
                raise DecodeError("not to be passed on")

    def forget(self, peer: str) -> None:
        self._passing.forget(peer)

    def _handle_asked(self, peer: Peer, asked: Forward, now: Instant) -> None:
        other = self._peers.get(asked.to)
        if other is None or other is peer or not self._passing.may_ask(peer.name, now):
            self._counters["not_passed_on"] += 1
        else:
            other.pass_on(Forwarded(peer.name, asked.envelope))
