"""The two ciphers of a session, and which of them this CPU should offer.

Both take a 32-byte key, a 12-byte nonce and give 16 bytes of tag. AES-256-GCM is offered only where the CPU has
AES and carry-less multiplication: without them it is slow and leaks through the cache.
"""

from __future__ import annotations

import enum
import functools

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from nacl.bindings import crypto_aead_aes256gcm_encrypt
from nacl.exceptions import UnavailableError

from fabric.errors import AuthenticationError, ConfigurationError

KEY_BYTES = 32
NONCE_BYTES = 12
TAG_BYTES = 16

Cipher = AESGCM | ChaCha20Poly1305


class Suite(enum.IntEnum):
    """A cipher; the value is its number on the wire."""

    AES_256_GCM = 1
    CHACHA20_POLY1305 = 2

    @property
    def label(self) -> str:
        """The name that people read and write."""
        return self.name.lower().replace("_", "-")


@functools.cache
def hardware_has_aes() -> bool:
    """Returns libsodium's verdict: x86 `aes`, `pclmulqdq`, `ssse3` or arm64 `aes`, `pmull`."""
    try:
        crypto_aead_aes256gcm_encrypt(b"", b"", bytes(NONCE_BYTES), bytes(KEY_BYTES))
    except UnavailableError:
        return False
    return True


def offered_suites(preference: str) -> tuple[Suite, ...]:
    """Returns what to offer for a `cipher` setting, best first. Raises `ConfigurationError` for an unknown one.

    "aes-256-gcm" is taken at the operator's word even where the hardware lacks it.
    """
    if preference == "auto":
        return (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305) if hardware_has_aes() else (Suite.CHACHA20_POLY1305,)
    for suite in Suite:
        if suite.label == preference:
            return (suite,)
    known = ", ".join(f'"{suite.label}"' for suite in Suite)
    raise ConfigurationError(f'cipher = "{preference}" is none of "auto", {known}')


def cipher(suite: Suite, key: bytes) -> Cipher:
    """Returns the keyed cipher, its key schedule done once; both kinds have the same four methods."""
    return AESGCM(key) if suite is Suite.AES_256_GCM else ChaCha20Poly1305(key)


def seal(suite: Suite, key: bytes, nonce: bytes, plaintext: bytes, header: bytes) -> bytes:
    """Returns ciphertext and tag. A nonce must never be used twice under one key."""
    return cipher(suite, key).encrypt(nonce, plaintext, header)


def open_(suite: Suite, key: bytes, nonce: bytes, sealed: bytes, header: bytes) -> bytes:
    """Raises `AuthenticationError` unless exactly these bytes were sealed so."""
    try:
        return cipher(suite, key).decrypt(nonce, sealed, header)
    except InvalidTag:
        raise AuthenticationError("the seal does not hold") from None
