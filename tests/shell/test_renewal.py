"""What a renewal carries: the same for a certificate whatever happens between, another for the next."""

from __future__ import annotations

import os
from pathlib import Path

from fabric.identity.request import NONCE_BYTES
from fabric.shell.keystore import Keystore
from fabric.shell.renewal import forget_renewal, is_renewing, renewal_nonce

STORAGE_KEY = bytes(32)


def opened(directory: Path) -> Keystore:
    return Keystore(directory, STORAGE_KEY, os.urandom)


def never(_: int) -> bytes:
    raise AssertionError("another value was drawn")


def test_a_retry_carries_the_same_value_also_after_a_crash(tmp_path: Path) -> None:
    with opened(tmp_path) as keystore:
        first = renewal_nonce(keystore, 7, os.urandom)
        assert len(first) == NONCE_BYTES
        assert renewal_nonce(keystore, 7, never) == first
        with opened(tmp_path) as after_a_crash:  # nothing of the other was closed or flushed
            assert renewal_nonce(after_a_crash, 7, never) == first


def test_the_next_certificate_is_renewed_with_another_value(tmp_path: Path) -> None:
    with opened(tmp_path) as keystore:
        first, second = (renewal_nonce(keystore, serial, os.urandom) for serial in (7, 2**127 - 1))
        assert first != second
        assert renewal_nonce(keystore, 2**127 - 1, never) == second


def test_a_copy_of_the_directory_made_before_draws_another_value(tmp_path: Path) -> None:
    drawn = []
    for name in ("original", "copy"):
        (tmp_path / name).mkdir()
        with opened(tmp_path / name) as keystore:
            drawn.append(renewal_nonce(keystore, 7, os.urandom))
    assert drawn[0] != drawn[1]


def test_what_was_refused_is_asked_anew(tmp_path: Path) -> None:
    """Else a change of key that was refused once, since the certificate was too young, could never be wished again."""
    with opened(tmp_path) as keystore:
        first = renewal_nonce(keystore, 7, os.urandom)
        assert is_renewing(keystore, 7)
        assert not is_renewing(keystore, 8)
        forget_renewal(keystore)
        assert not is_renewing(keystore, 7)
        assert renewal_nonce(keystore, 7, os.urandom) != first
