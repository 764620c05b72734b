"""What the rest of the daemon may ask of whoever holds its private keys.

The identity key never leaves its holder: others hand in what is to be signed. The holder in `memory` lives in the
daemon's own process; one in a process of its own, or in hardware, answers the same calls.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fabric.crypto.signature import Signer
from fabric.identity.bundle import BundleSecrets


class Custodian(Signer, Protocol):
    """A signer that also makes certificate requests, and holds the secrets of the key bundles."""

    def make_request(self, name: str) -> bytes:
        """Returns a PKCS#10 request in DER over the identity key. Raises `DecodeError` for no name."""
        ...

    @property
    def secrets(self) -> tuple[BundleSecrets, ...]:
        """Those that may still open something, the newest first."""
        ...

    def next_bundle(self, name: str, draw: Callable[[int], bytes], unix: float, above: int = 0) -> bytes:
        """Makes the next key pairs and returns their signed bundle; `secrets` begins with them from now on.

        Its serial is higher than `above`, the highest that was ever published.

        They must be durable before the bundle is published.
        """
        ...

    def forget_secrets(self, draw: Callable[[int], bytes], unix: float) -> bool:
        """Deletes every key whose time is over at this wall time; returns whether anything is to be stored anew."""
        ...
