"""Whether a laboratory can be built here, and becoming able to where it takes a user namespace of our own."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Sequence
from typing import NoReturn

from fabric.lab import kernel
from fabric.lab.namespace import NAMED, SEARCH_PATH, LabError, Namespace

PREFIX = "fab-"
UNSHARED = "FABRIC_LAB_UNSHARED"
"""Set in the environment of what we started again inside a user namespace, so that it happens once."""


def why_not() -> str | None:
    """None where a laboratory can be built; else one sentence: what is missing, and what to do about it."""
    if shutil.which("nft", path=SEARCH_PATH) is None:
        return "nft is not installed: apt-get install nftables"
    if os.geteuid() != 0:
        return "network namespaces need root, or user namespaces: run as root, or under `unshare -Urnm`"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return (
            f"/dev/net/tun cannot be opened ({error.strerror}): modprobe tun, chmod 0666 /dev/net/tun, or run as root"
        )
    try:
        _prepare_names()
        Namespace(f"{PREFIX}{os.getpid()}-try").destroy()
    except OSError as error:
        return f"the kernel refuses a network namespace ({error}): run as root, or allow user namespaces"
    return None


def become_able(arguments: Sequence[str]) -> None:
    """Returns if we are root; else starts `arguments` again inside namespaces of our own, where we are."""
    if os.geteuid() != 0 and UNSHARED not in os.environ:
        _unshare(arguments)


def _unshare(arguments: Sequence[str]) -> NoReturn:
    program = shutil.which("unshare", path=SEARCH_PATH)
    if program is None:
        raise LabError("unshare is not installed: apt-get install util-linux, or run as root")
    sys.stdout.flush()
    os.execve(program, ["unshare", "-Urnm", "--", *arguments], {**os.environ, UNSHARED: "1"})  # noqa: S606


def _prepare_names() -> None:
    """Makes sure that names can be made under /run/netns: inside `unshare -Urnm`, on a tmpfs of our own."""
    with contextlib.suppress(OSError):
        NAMED.mkdir(mode=0o755, exist_ok=True)
    if os.access(NAMED, os.W_OK):
        return
    if not NAMED.is_dir():
        kernel.mount_tmpfs(NAMED.parent)
        NAMED.mkdir(mode=0o755)
    else:
        kernel.mount_tmpfs(NAMED)
