"""X.509 structures under a key that only signs: `cryptography` wants a private key, so a placeholder signs, and goes.

    SEQUENCE { what is signed | AlgorithmIdentifier Ed25519 | BIT STRING signature }

An Ed25519 signature is as long as any other, so exchanging it leaves every length around it as it was.
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from fabric.crypto.signature import SIGNATURE_BYTES

PLACEHOLDER = Ed25519PrivateKey.from_private_bytes(bytes(32))
"""Everybody has it: what it signed proves nothing, and never leaves this package."""


def sign_instead(der: bytes, body: bytes, signed: bytes, sign_raw: Callable[[bytes], bytes]) -> bytes:
    """Returns `der`, that the placeholder signed over `body`, with `signed` in its place and signed by `sign_raw`.

    `signed` is as long as `body`. Raises what `sign_raw` raises.
    """
    head, tail = der[:-SIGNATURE_BYTES].split(body)
    return head + signed + tail + sign_raw(signed)
