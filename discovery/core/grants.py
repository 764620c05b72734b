"""What introduced pairs are granted at relays: who shares what with whom follows from their names and one secret."""

from __future__ import annotations

from collections.abc import Callable
from itertools import zip_longest

from discovery.core.channel import ServiceIdentity
from discovery.core.records import EndpointRecord, IntentRecord
from discovery.core.settings import Settings
from fabric.crypto.digest import blake2b_256
from fabric.errors import ExhaustedError
from fabric.identity.grant import PAIR_BYTES, Grant, sign_grant
from fabric.wire.rendezvous import Granted, RelayPlace

MAX_RELAYS = 8
"""As many as a message names."""


class Granter:
    """Keeps no pair: each grant is made of what stands in the store."""

    def __init__(
        self, network: str, settings: Settings, secret: bytes, identity: Callable[[], ServiceIdentity]
    ) -> None:
        self._network = network
        self._settings = settings
        self._secret = secret
        self._identity = identity

    def pair_of(self, one: str, other: str) -> bytes:
        """Returns what relays call the two: 16 bytes, always the same, that tell nobody else anything."""
        return blake2b_256(*(name.encode() for name in sorted((one, other))), key=self._secret)[:PAIR_BYTES]

    def grant(
        self, to: EndpointRecord, peer: EndpointRecord, intents: tuple[IntentRecord, IntentRecord], unix: float
    ) -> tuple[Granted, float] | None:
        """Returns what `to` is to be told, and when the grant ends; None where there is no relay to use.

        The two are introduced: their intents and certificates hold now.
        """
        if not self._settings.relays:
            return None
        pair = self.pair_of(to.name, peer.name)
        ends = (to.not_after, peer.not_after, *(intent.expires for intent in intents))
        grant = Grant(
            network=self._network,
            pair=pair,
            side=int(to.name > peer.name),
            holder=to.public_key,
            not_before=unix,
            expires=min(unix + self._settings.grant_life_s, *ends),
            rate_bytes_s=self._settings.relay_rate_bytes_s,
            quota_bytes=self._settings.relay_quota_bytes,
        )
        identity = self._identity()
        try:
            signed = sign_grant(identity.signer, identity.certificate, grant)
        except ExhaustedError:
            return None  # the driver has said at its start that the certificate names too many hosts
        return Granted(peer.name, signed, self._relays_for(pair)), grant.expires

    def _relays_for(self, pair: bytes) -> tuple[RelayPlace, ...]:
        """Rendezvous hashing: both sides get one order, load spreads, and one relay more or less moves few pairs.

        Each relay comes once before any comes with its second place: the first two are never one process.
        """

        def weight(relay: tuple[RelayPlace, ...]) -> bytes:
            return blake2b_256(pair, relay[0].host.encode(), relay[0].udp_port.to_bytes(2))

        ordered = sorted(self._settings.relays, key=weight)
        rounds = zip_longest(*ordered)
        return tuple(place for places in rounds for place in places if place is not None)[:MAX_RELAYS]
