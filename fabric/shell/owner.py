"""Who a command works as when root runs it beside a daemon that runs as somebody else."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = 0


def become_owner(directory: Path) -> None:
    """Gives up root for the owner of `directory`, for good, so that its daemon can read what this process writes.

    Does nothing where this is not root, or the directory is root's or not there yet.
    """
    if os.geteuid() != ROOT or not directory.exists():
        return
    owner = directory.stat()
    if owner.st_uid != ROOT:
        os.setgroups([])
        os.setresgid(owner.st_gid, owner.st_gid, owner.st_gid)
        os.setresuid(owner.st_uid, owner.st_uid, owner.st_uid)
