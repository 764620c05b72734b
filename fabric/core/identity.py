"""What a node knows of itself."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.crypto.signature import Signer
from fabric.identity.bundle import BundleSecrets
from fabric.identity.certificate import Certificate
from fabric.identity.trust import Trust


@dataclass(slots=True)
class Identity:
    """`secrets` are the opening halves of the key bundles, the newest first; `bundle` is the newest, signed."""

    name: str
    network: str
    certificate: Certificate
    trust: Trust
    signer: Signer
    secrets: tuple[BundleSecrets, ...]
    bundle: bytes | None
