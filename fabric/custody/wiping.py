"""Files whose old content is to be gone: overwritten in its place before that is given back.

What a disk, a snapshot or a copying file system keeps beside it, no program can reach.
"""

from __future__ import annotations

import os
from pathlib import Path

from fabric.shell.durable import remove_durably, write_durably


def replace_and_wipe(path: Path, content: bytes) -> None:
    """Replaces `path` as a whole, durably, and then overwrites what was there before. Raises `OSError`."""
    old = _open_old(path)
    try:
        write_durably(path, content)
        if old is not None:
            _overwrite(old)
    finally:
        if old is not None:
            os.close(old)


def remove_and_wipe(path: Path) -> None:
    """Removes `path`, if it is there, durably, and overwrites what was in it. Raises `OSError`."""
    old = _open_old(path)
    try:
        remove_durably(path)
        if old is not None:
            _overwrite(old)
    finally:
        if old is not None:
            os.close(old)


def _open_old(path: Path) -> int | None:
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None


def _overwrite(descriptor: int) -> None:
    os.pwrite(descriptor, bytes(os.fstat(descriptor).st_size), 0)
    os.fsync(descriptor)
