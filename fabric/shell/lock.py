"""One daemon a state directory: a lock that the kernel takes back when its holder ends, however it ends."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fabric.shell.durable import PRIVATE
from fabric.shell.exit_code import CommandError, ExitCode

LOCK_FILE = "lock"


@contextmanager
def only_one(directory: Path) -> Iterator[None]:
    """Holds the directory for the block. Raises `CommandError` (NOT_SO) where another daemon has it."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                ExitCode.NOT_SO, f"another fabricd runs on {directory}: stop it, or use another --state"
            ) from None
        yield
    finally:
        os.close(descriptor)
