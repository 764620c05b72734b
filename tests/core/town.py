"""An authority with endpoints of network `home` under it, made of the real parts from fixed seeds."""

from __future__ import annotations

import random
from ipaddress import IPv4Address, IPv6Address

from fabric.core.identity import Identity
from fabric.crypto.signature import Ed25519Signer
from fabric.custody.memory import MemoryCustodian
from fabric.identity.authority import Authority
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.intent import peek_intent
from fabric.identity.request import decode_request, make_request
from fabric.identity.trust import Trust

UNIX = 1_800_000_000.0
"""When every test begins."""

DAY_S = 86_400.0


class Town:
    """`identity` makes an endpoint, always the same for the same name."""

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)
        self.authority = Authority.create(
            "home", seed=self._random.randbytes(32), serial=1, not_before=UNIX - DAY_S, not_after=UNIX + 3650 * DAY_S
        )
        self.service_signer = Ed25519Signer(self._random.randbytes(32))
        self.tls_certificate = self.authority.issue_service(
            self.service_signer.public_key, ["discovery.example"], 2, UNIX - DAY_S, UNIX + 90 * DAY_S
        )
        self._identities: dict[str, Identity] = {}
        self._seeds: dict[str, bytes] = {}

    def identity(self, name: str, *, life_s: float = 7 * DAY_S) -> Identity:
        if name not in self._identities:
            self._identities[name] = self.make_identity(name, life_s=life_s)
        return self._identities[name]

    def make_identity(self, name: str, *, life_s: float = 7 * DAY_S) -> Identity:
        """A new key under `name`: what a thief or a mistaken authority would have."""
        seed = self._random.randbytes(32)
        self._seeds[name] = seed
        signer = MemoryCustodian(seed, draw=self._random.randbytes)
        bundle = signer.next_bundle(name, UNIX)
        return Identity(
            name=name,
            network="home",
            certificate=decode_certificate(self.certify(name, UNIX - 60, UNIX + life_s)),
            trust=Trust(self.authority.root_der, "home", None),
            signer=signer,
            opener=signer,
            bundle=bundle,
        )

    def certify(self, name: str, not_before: float, not_after: float) -> bytes:
        """Returns a certificate over the name's key and addresses, in DER."""
        number = sum(name.encode()) % 250 + 1
        return self.authority.issue_endpoint(
            decode_request(make_request(self._seeds[name], name)),
            name,
            addresses=(IPv4Address(f"100.64.0.{number}"), IPv6Address(f"fd00::{number:x}")),
            tags=(),
            serial=self._random.getrandbits(120),
            not_before=not_before,
            not_after=not_after,
        )

    def certify_request(self, name: str, request: bytes, like: Certificate) -> bytes:
        """Returns a certificate over another key of the name, with the addresses and the end of the one before."""
        return self.authority.issue_endpoint(
            decode_request(request),
            name,
            addresses=like.addresses,
            tags=(),
            serial=self._random.getrandbits(120),
            not_before=like.not_before,
            not_after=like.not_after + 1.0,
        )

    def states(self, intent: bytes, recipient: str) -> bool:
        """Whether an intent, which nobody has verified here, names this recipient."""
        return peek_intent(intent).recipient == recipient
