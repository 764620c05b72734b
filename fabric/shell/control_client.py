"""A command's end of the control socket. Plain blocking sockets: a command asks, prints and ends."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fabric.errors import DecodeError
from fabric.shell.control_wire import MAX_LINE_BYTES, AnyAnswer, AnyQuestion, decode_answer, encode_line
from fabric.shell.exit_code import CommandError, ExitCode

MAX_PATH_BYTES = 107
"""sun_path of unix(7), less its end."""


class NoDaemonError(CommandError):
    """Nobody listens at the control socket."""

    def __init__(self, path: Path) -> None:
        super().__init__(ExitCode.UNREACHABLE, f"no daemon answers at {path}: start fabricd on this state directory")


class ControlClient:
    """One connection; ask as often as you like, one question after the other."""

    def __init__(self, path: Path) -> None:
        """Raises `NoDaemonError`, `CommandError` (NOT_PERMITTED)."""
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            with short_path(path) as name:
                self._socket.connect(name)
        except PermissionError:
            self._socket.close()
            raise CommandError(
                ExitCode.NOT_PERMITTED, f"{path}: permission denied; run as root or as a member of the socket's group"
            ) from None
        except OSError:
            self._socket.close()
            raise NoDaemonError(path) from None
        self._lines = self._socket.makefile("rb")
        self._path = path

    def __enter__(self) -> ControlClient:
        return self

    def __exit__(self, *_: object) -> None:
        self._lines.close()
        self._socket.close()

    def ask(self, question: AnyQuestion, within_s: float = 10.0) -> AnyAnswer:
        """Raises `CommandError` (UNREACHABLE) when the daemon ends or does not answer in time."""
        self._socket.settimeout(within_s)
        try:
            self._socket.sendall(encode_line(question))
            line = self._lines.readline(MAX_LINE_BYTES)
            if line:
                return decode_answer(line)
        except TimeoutError:
            raise CommandError(ExitCode.UNREACHABLE, f"the daemon at {self._path} does not answer") from None
        except (OSError, DecodeError) as error:
            raise CommandError(ExitCode.UNREACHABLE, f"the daemon at {self._path} broke off: {error}") from None
        raise CommandError(ExitCode.UNREACHABLE, f"the daemon at {self._path} ended")


@contextmanager
def short_path(path: Path) -> Iterator[str]:
    """Yields a name for a socket that fits into its address, however deep the directory is."""
    if len(os.fsencode(path)) <= MAX_PATH_BYTES:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
