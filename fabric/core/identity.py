"""What a node knows of itself."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.crypto.signature import Signer
from fabric.identity.certificate import Certificate
from fabric.identity.envelope import Opener
from fabric.identity.trust import Trust


@dataclass(slots=True)
class Identity:
    """`signer` and `opener` hold the private keys, and show none; `bundle` is the newest of the key bundles, signed.

    `rotations` are the statements that led to the key, for peers that know an older one; `next_key` is the public half
    of the one that is to come after it, while the authority is asked for its certificate.
    """

    name: str
    network: str
    certificate: Certificate
    trust: Trust
    signer: Signer
    opener: Opener
    bundle: bytes | None
    rotations: tuple[bytes, ...] = ()
    next_key: bytes | None = None
