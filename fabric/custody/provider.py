"""What keeps an identity's secrets where they can't be copied from: files, the TPM, a token, behind one contract.

A secret is up to 4,096 bytes: in this program the 32-byte seed of the identity key and the 32-byte storage key. Its
blob may lie on any disk, beside the state. What a provider must not keep in a blob (a passphrase, a PIN) it finds again
by itself, from its `place`.

    identity.key   NAME [SPACE PLACE] NEWLINE BLOB          NAME and PLACE say who unseals BLOB

Providers that need a library of their own import it when they are asked for, and nowhere else. A module of
`fabric.custody.providers` has one function for that: `open_provider(place, directory) -> Provider`.
"""

from __future__ import annotations

import enum
from typing import Protocol, runtime_checkable


class Rank(enum.IntEnum):
    """How hard it is to take the secret away from the host, where its disk was read; `auto` takes the highest."""

    KEY_FILE = 10
    PASSPHRASE_FILE = 20
    SYSTEMD_CREDENTIAL = 30
    TPM2 = 40
    TOKEN = 50


class Provider(Protocol):
    """Seals secrets so that they open here. All of it may block, and raises `ConfigurationError` with one sentence
    for a person: what is missing or refuses, and what to do."""

    @property
    def name(self) -> str:
        """As `fabric status` tells it and `identity.key` keeps it: lower case, no space."""
        ...

    @property
    def place(self) -> str:
        """What `open_provider` needs to find the same again: a path or a URI without a secret; empty where the name
        is enough. One line."""
        ...

    @property
    def rank(self) -> Rank: ...

    def is_available(self) -> bool:
        """Whether it can seal on this host now. Raises nothing, changes nothing, and takes at most some milliseconds
        where the answer is no."""
        ...

    def seal(self, secret: bytes) -> bytes:
        """Returns `secret` (at most 4,096 bytes) as a blob that only this provider, in this place, unseals."""
        ...

    def unseal(self, blob: bytes) -> bytes:
        """Returns what `seal` was given. A blob that is damaged, or another host's, is a `ConfigurationError` too."""
        ...


@runtime_checkable
class Token(Provider, Protocol):
    """A provider that also makes the identity key inside of itself and never lets it out: it signs.

    The seed in the sealed secret is then no identity key; other keys are derived from it. `successor`, 32 bytes that
    no other key has for a name, says which key is meant where it came after another one; it is empty for the first.
    """

    def make_key(self) -> bytes:
        """Makes the Ed25519 key pair of `place` and returns the 32-byte public key. An existing one is an error."""
        ...

    def make_successor(self, successor: bytes) -> bytes:
        """Makes the key pair of this name and returns the 32-byte public key.

        One that is there is taken as it is: whoever asked before may have ended without hearing of it.
        """
        ...

    def public_key(self, successor: bytes = b"") -> bytes:
        """Returns the 32-byte public key of a pair that was made."""
        ...

    def sign_raw(self, message: bytes, successor: bytes = b"") -> bytes:
        """Returns the 64-byte Ed25519 signature (RFC 8032, pure) over `message` as it is."""
        ...

    def destroy_key(self, public_key: bytes, successor: bytes = b"") -> bool:
        """Destroys the pair, if it is the one of this public key; returns False where the token keeps it for ever.

        Harmless when that was done. A token that is away raises, and is to be asked again.
        """
        ...
