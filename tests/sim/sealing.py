"""The product's ciphers, each seal of which a witness sees. What is sealed and opened is the product's, unchanged."""

from __future__ import annotations

from collections.abc import Callable

from fabric.crypto.aead import Cipher, Suite, cipher, seal
from tests.sim.witness import Witness


class WitnessedCipher:
    """Stands where the data plane has its cipher."""

    def __init__(self, inner: Cipher, key: bytes, witness: Witness) -> None:
        self._inner = inner
        self._key = key
        self._witness = witness
        self.decrypt = inner.decrypt

    def encrypt(self, nonce: bytes, data: bytes, associated_data: bytes | None) -> bytes:
        self._witness.see_sealing(self._key, nonce)
        return self._inner.encrypt(nonce, data, associated_data)


def witnessed_cipher(witness: Witness) -> Callable[[Suite, bytes], WitnessedCipher]:
    """Returns what takes the place of `crypto.aead.cipher`."""
    return lambda suite, key: WitnessedCipher(cipher(suite, key), key, witness)


def witnessed_seal(witness: Witness) -> Callable[[Suite, bytes, bytes, bytes, bytes], bytes]:
    """Returns what takes the place of `crypto.aead.seal`."""

    def see_and_seal(suite: Suite, key: bytes, nonce: bytes, plaintext: bytes, header: bytes) -> bytes:
        witness.see_sealing(key, nonce)
        return seal(suite, key, nonce, plaintext, header)

    return see_and_seal
