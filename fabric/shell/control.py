"""The daemon's end of the control socket: whoever may open it may steer the endpoint."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import trio

from fabric.errors import ConfigurationError, DecodeError, FabricError
from fabric.shell.control_client import short_path
from fabric.shell.control_wire import (
    MAX_QUESTION_BYTES,
    AnyAnswer,
    AnyQuestion,
    Failed,
    decode_question,
    encode_line,
)
from fabric.shell.exit_code import ExitCode, exit_code_of, sentence_of
from fabric.shell.files import EXHAUSTED

SOCKET_MODE = 0o660
MAX_CONNECTIONS = 64
BACKLOG = 64
RECOVERY_S = 0.5

Handle = Callable[[AnyQuestion], Awaitable[AnyAnswer]]


def listen(path: Path, group: str | None) -> socket.socket:
    """Returns the listening socket. From here on commands wait for the daemon instead of storing their wishes.

    The lock on the state directory is held: a socket that lies there is a dead daemon's. Raises
    `ConfigurationError`, `OSError`.
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        path.unlink(missing_ok=True)
        with short_path(path) as name:
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                listener.bind(name)
            finally:
                os.umask(before)
        if group is not None:
            os.chown(path, -1, _group_id(group))
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener


async def serve_control(listener: socket.socket, handle: Handle) -> None:
    """Answers everybody who connects, until cancelled; closes the listener."""
    places = trio.Semaphore(MAX_CONNECTIONS)
    async with trio.open_nursery() as nursery, trio.SocketListener(trio.socket.from_stdlib_socket(listener)) as door:
        while True:
            await places.acquire()
            nursery.start_soon(_serve, await _accept(door), handle, places)


async def _accept(door: trio.SocketListener) -> trio.SocketStream:
    while True:
        try:
            return await door.accept()
        except OSError as error:
            if error.errno not in EXHAUSTED:
                raise
            await trio.sleep(RECOVERY_S)


async def _serve(stream: trio.SocketStream, handle: Handle, places: trio.Semaphore) -> None:
    try:
        async with stream:
            await _converse(stream, handle)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    finally:
        places.release()


async def _converse(stream: trio.SocketStream, handle: Handle) -> None:
    """Answers line after line until the other side closes."""
    lines = _Lines(stream)
    while (line := await lines.next()) is not None:
        answer = await _answer_unless_gone(line, handle, lines)
        if answer is None:
            return
        await stream.send_all(encode_line(answer))


class _Lines:
    """Lines of a stream. A longer one than a question may be ends the stream."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._read = bytearray()

    async def next(self) -> bytes | None:
        while (end := self._read.find(b"\n")) < 0:
            if not await self.receive():
                return None
        line = bytes(self._read[:end])
        del self._read[: end + 1]
        return line

    async def receive(self) -> bool:
        """Waits for more bytes; False at the end."""
        data = await self._stream.receive_some(MAX_QUESTION_BYTES)
        self._read += data
        return bool(data) and len(self._read) <= MAX_QUESTION_BYTES


async def _answer_unless_gone(line: bytes, handle: Handle, lines: _Lines) -> AnyAnswer | None:
    """Returns the answer, or None when the asker went away before there was one."""
    answer: AnyAnswer | None = None
    async with trio.open_nursery() as nursery:

        async def watch() -> None:
            try:
                while await lines.receive():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass
            nursery.cancel_scope.cancel()

        nursery.start_soon(watch)
        answer = await _answer(line, handle)
        nursery.cancel_scope.cancel()
    return answer


async def _answer(line: bytes, handle: Handle) -> AnyAnswer:
    try:
        return await handle(decode_question(line))
    except DecodeError as error:
        return Failed(ExitCode.WRONG_USAGE, sentence_of(error))
    except FabricError as error:
        return Failed(exit_code_of(error), sentence_of(error))


def _group_id(group: str) -> int:
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise ConfigurationError(f'control_group: there is no group "{group}"') from None
