"""What a daemon keeps from one start to the next, beside what its peers know of it."""

from __future__ import annotations

import os
from pathlib import Path

from fabric.shell.assembly import _mapping_nonce
from fabric.shell.keystore import Keystore
from fabric.wire.pcp import NONCE_BYTES


def test_a_gateway_knows_its_client_after_a_restart(tmp_path: Path) -> None:
    with Keystore(tmp_path, bytes(32), os.urandom) as keystore:
        nonce = _mapping_nonce(keystore)
    with Keystore(tmp_path, bytes(32), os.urandom) as keystore:
        assert _mapping_nonce(keystore) == nonce
    assert len(nonce) == NONCE_BYTES
