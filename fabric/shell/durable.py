"""Files that are either as they were or as they should be, whenever the power fails."""

from __future__ import annotations

import os
from pathlib import Path

PRIVATE = 0o600
READABLE = 0o640


def write_durably(path: Path, content: bytes, *, mode: int = PRIVATE) -> None:
    """Replaces `path` as a whole; on return it is on stable storage. Raises `OSError`.

    The new content is synchronized before it takes the name, else the name could survive a crash and the content
    not; the directory after it, else the name might not.
    """
    beside = path.with_name(f".{path.name}.new")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
    try:
        os.fchmod(descriptor, mode)
        _write_all(descriptor, content)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    beside.replace(path)
    sync_directory(path.parent)


def remove_durably(path: Path) -> None:
    """Removes `path` if it is there; on return that is on stable storage."""
    path.unlink(missing_ok=True)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, content: bytes) -> None:
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
