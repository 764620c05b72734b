"""The identity key that is to come after the present one, from its making until it takes over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import SEED_BYTES, Ed25519Signer, Signer
from fabric.custody.provider import Token
from fabric.errors import PolicyError
from fabric.identity.rotation import peek_rotation, sign_rotation


@dataclass(frozen=True, slots=True)
class NextKey:
    """`statement` is the present key's, that it hands over to this one. `seed` has 32 bytes: where the next key is in a
    token it only names it, and `former` names the present one there, or is empty for the first."""

    seed: bytes = field(repr=False)
    statement: bytes
    former: bytes = field(default=b"", repr=False)

    @property
    def public_key(self) -> bytes:
        """32 bytes."""
        return peek_rotation(self.statement).new_key

    @property
    def former_key(self) -> bytes:
        """The public key of the one that hands over."""
        return peek_rotation(self.statement).old_key


def make_next_key(signer: Signer, name: str, draw: Callable[[int], bytes], unix: float) -> NextKey:
    """`signer` holds the present key; `draw` returns as many random bytes as it is asked for."""
    seed = draw(SEED_BYTES)
    return NextKey(seed, sign_rotation(signer, name, Ed25519Signer(seed).public_key, unix))


def make_next_key_in(token: Token, former: bytes, signer: Signer, root: bytes, name: str, unix: float) -> NextKey:
    """As `make_next_key`, for keys in a token, where `former` names the present one. Raises `ConfigurationError`.

    The name of the next follows from a secret of this identity (`root`, 32 bytes) and the present key. So no other
    identity ever has it, and who is asked again after a crash finds the key that was made instead of making another.
    """
    successor = blake2b_256(b"fabric/1 next key in a token", signer.public_key, key=root)
    return NextKey(successor, sign_rotation(signer, name, token.make_successor(successor), unix), former)


def require_next(key: NextKey | None, public_key: bytes | None = None) -> NextKey:
    """Returns it. Raises `PolicyError` where there is none, and where it has another public key than is given."""
    if key is None:
        raise PolicyError("there is no next identity key: rotate first")
    if public_key is not None and key.public_key != public_key:
        raise PolicyError("that is not the next identity key")
    return key
