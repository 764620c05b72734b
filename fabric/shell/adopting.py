"""Takes over the keys of a daemon that held its own: from its state directory to that of `fabric-keyd`.

Root does it, before the unit starts. The directory that they are taken from is somebody else's: nothing in there is
followed, and what was copied is wiped there.
"""

from __future__ import annotations

import os
from pathlib import Path

from fabric.custody.identity_file import IDENTITY_FILE
from fabric.custody.providers.passphrase import GENERATED_FILE
from fabric.custody.vault import SEALING_FILE
from fabric.custody.wiping import remove_and_wipe
from fabric.shell.durable import write_durably

_MAX_BYTES = 1_048_576
_FILES = (GENERATED_FILE, SEALING_FILE, IDENTITY_FILE)
"""The key last: where it is, the others are."""


def adopt(origin: Path, state: Path) -> bool:
    """Moves the keys, for the owner of `state`; returns whether there was anything to move. Raises `OSError`.

    Keys that are in `state` already stay, and so do others in `origin`.
    """
    found = {name: content for name in _FILES if (content := _read(origin / name)) is not None}
    if IDENTITY_FILE not in found:
        return False
    if not (state / IDENTITY_FILE).exists():
        for name, content in found.items():
            _give(state / name, content)
    if (state / IDENTITY_FILE).read_bytes() != found[IDENTITY_FILE]:
        return False
    for name in reversed(found):
        remove_and_wipe(origin / name)
    return True


def _give(path: Path, content: bytes) -> None:
    write_durably(path, content)
    owner = path.parent.stat()
    if owner.st_uid != os.geteuid():
        os.chown(path, owner.st_uid, owner.st_gid)


def _read(path: Path) -> bytes | None:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        return os.read(descriptor, _MAX_BYTES)
    finally:
        os.close(descriptor)
