"""The random value that a renewal carries: one for each certificate, on the disk before it is first sent.

So a retry, also after a crash, is the same request and gets the same answer; a copy of this host's key draws another
value, and by that is found out (protocol.md section 3). Who copies the value too is found out a renewal later.
"""

from __future__ import annotations

from collections.abc import Callable

from fabric.identity.request import NONCE_BYTES
from fabric.shell.keystore import Keystore

_FACT = "renewal"


def renewal_nonce(keystore: Keystore, serial: int, draw: Callable[[int], bytes]) -> bytes:
    """Returns the 16 bytes for the one request that renews the certificate with this serial number.

    They are on stable storage. Raises `sqlite3.Error`.
    """
    kept_for, _, kept = (keystore.fact(_FACT) or "").partition(" ")
    if kept_for == f"{serial:x}":
        return bytes.fromhex(kept)
    nonce = draw(NONCE_BYTES)
    keystore.note_fact(_FACT, f"{serial:x} {nonce.hex()}")
    return nonce


def is_renewing(keystore: Keystore, serial: int) -> bool:
    """Whether a renewal of this certificate may have been asked for already."""
    return (keystore.fact(_FACT) or "").startswith(f"{serial:x} ")


def forget_renewal(keystore: Keystore) -> None:
    """The authority has refused the request, and so knows nothing of it: the next one may be another."""
    keystore.note_fact(_FACT, "")
