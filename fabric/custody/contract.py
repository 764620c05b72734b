"""What the rest of the daemon may ask of whoever holds its private keys.

None of them ever leaves its holder: others hand in what is to be signed or opened. The holder in `memory` lives in the
process that asks; one in a process of its own, or in hardware, answers the same calls.
"""

from __future__ import annotations

from typing import Protocol

from fabric.crypto.signature import Signer
from fabric.identity.envelope import Opener


class Custodian(Signer, Opener, Protocol):
    """A signer that also makes certificate requests, and holds the secrets of the key bundles.

    It signs statements of the protocol and nothing else, see `statements`.
    """

    def make_request(self, name: str, nonce: bytes = b"", *, by_next: bool = False) -> bytes:
        """Returns a PKCS#10 request in DER over the identity key, or over the next one. Raises `DecodeError` for no
        name, `PolicyError` where there is no next one.

        `nonce` (16 bytes, or none) tells it from every other: a renewal has one, that was stored before it is sent.
        """
        ...

    def rotate(self, name: str, unix: float) -> bytes:
        """Makes the next identity key, unless there is one, and returns the statement by which the present one hands
        over to it (`identity.rotation`), always the same. Durable on return; nothing else changes yet."""
        ...

    def take_over(self, public_key: bytes) -> str:
        """Lets the next key be the identity key from now on, and forgets the one before; harmless when that was done,
        and does what is left of it where it was cut short. There is no `bundle` then, for the old key has signed it.

        Returns a sentence for the log where something of the key before stays, empty otherwise.

        Raises `PolicyError` where `public_key` is neither the next nor the present one.
        """
        ...

    @property
    def bundle(self) -> bytes | None:
        """The newest key bundle, signed; None where there is none, or what it is for can't be opened any more."""
        ...

    def next_bundle(self, name: str, unix: float, above: int = 0) -> bytes:
        """Makes the next key pairs and returns their signed bundle, which `bundle` is from now on.

        Its serial is higher than `above`, the highest that was ever published. The secrets are durable on return.
        """
        ...

    def forget_secrets(self, unix: float) -> bool:
        """Deletes every key whose time is over at this wall time; returns whether there was one."""
        ...
