"""The way to whoever holds the private keys: a running `fabric-keyd`, or one that is started for this process.

Its calls block, for some 0.1 ms each. A custodian that went away is looked for again, or started again, and asked once
more: what is asked may be done twice. So a restart of either end is noticed by nobody.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from fabric.custody import wire
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError, FabricError, PolicyError
from fabric.shell.config import DEFAULT_STATE, Config
from fabric.shell.exit_code import CommandError, ExitCode

SYSTEM_STATE = Path("/var/lib/fabric-keyd")
SYSTEM_SOCKET = Path("/run/fabric-keyd/keyd.sock")
"""Of `fabric-keyd.service`, which holds the keys for the daemon of `DEFAULT_STATE`, where it is installed."""

DEADLINE_S = 5.0
"""A custodian that systemd starts again is back within one; the daemon's own watchdog waits for longer."""
_PAUSE_S = 0.02
_CHILD_FD = 3
_CHILD = "import gc; gc.disable(); from fabric.shell.keyd import main; gc.enable(); gc.freeze(); main()"
"""Its modules stay for good: nobody looks for garbage among them."""
_NOT_FOR_A_CHILD = frozenset(
    ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "FABRIC_ENROLMENT_KEY")
)
_SIGNED = (wire.Sign, wire.Request, wire.NextBundle, wire.TakeOver)
"""What is asked of the identity key itself."""

Answer = TypeVar("Answer", wire.Begun, wire.Done)


class Way(Protocol):
    """How a custodian is reached."""

    def connect(self) -> socket.socket:
        """Raises `OSError` where nobody answers now."""
        ...

    def close(self) -> None: ...


class Running:
    """One that listens at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            connected.connect(str(self._path))
        except BaseException:
            connected.close()
            raise
        return connected

    def close(self) -> None:
        pass


class Child:
    """One of this process's own, that ends with it. It is started at once, and loads while this process does."""

    def __init__(self, state: Path, passphrase_file: str | None, environment: Mapping[str, str]) -> None:
        self._words = [sys.executable, "-P", "-c", _CHILD, "--child", str(state), passphrase_file or ""]
        self._environment = {name: value for name, value in environment.items() if name not in _NOT_FOR_A_CHILD}
        self._pid = 0
        self._ready: socket.socket | None = self._start()

    @property
    def pid(self) -> int:
        """0 where none was started, or it was ended."""
        return self._pid

    def connect(self) -> socket.socket:
        if self._ready is None:
            self._reap()
            self._ready = self._start()
        connected, self._ready = self._ready, None
        return connected

    def close(self) -> None:
        """Ends it. Whoever holds a connection has closed that before."""
        if self._ready is not None:
            self._ready.close()
            self._ready = None
        self._reap()

    def _start(self) -> socket.socket:
        mine, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        with its:
            self._pid = os.posix_spawn(
                self._words[0],
                self._words,
                self._environment,
                file_actions=[(os.POSIX_SPAWN_DUP2, its.fileno(), _CHILD_FD)],
            )
        return mine

    def _reap(self) -> None:
        """Ends it if it has not ended: all that it writes is whole or not there."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError, ChildProcessError):
                os.kill(self._pid, signal.SIGKILL)
                os.waitpid(self._pid, 0)
            self._pid = 0


class RemoteCustodian:
    """A `Custodian` at the end of a way. Raises what `fabric.custody.vault.Vault` does, and `CommandError` where nobody
    answers in time."""

    def __init__(self, way: Way, *, name: str = "", custody: str = "auto", deadline_s: float = DEADLINE_S) -> None:
        self._way = way
        self._begin = wire.Begin(name, custody)
        self._deadline_s = deadline_s
        self._connected: socket.socket | None = None
        self._buffer = bytearray()
        self._expected: set[bytes] = set()
        try:
            self._begun = self._ask_for(wire.Begun, None)
        except BaseException:
            self._drop()
            raise
        self._expected.add(self._begun.public_key)
        self._bundle = self._begun.bundle or None

    def __repr__(self) -> str:
        return f"RemoteCustodian(public_key={self.public_key.hex()})"

    def close(self) -> None:
        self._drop()
        self._way.close()

    @property
    def public_key(self) -> bytes:
        return self._begun.public_key

    @property
    def custody(self) -> str:
        """What keeps the secrets at rest, as `fabric status` tells it."""
        return self._begun.custody

    @property
    def storage_key(self) -> bytes:
        """32 bytes: seals the daemon's own database."""
        return self._begun.storage_key

    @property
    def bundle(self) -> bytes | None:
        return self._bundle

    def sign(self, label: bytes, *fields: bytes) -> bytes:
        return self._do(wire.Sign(label, fields))

    def open(self, sealed: bytes, info: bytes) -> bytes:
        return self._do(wire.Open(sealed, info))

    def make_request(self, name: str, nonce: bytes = b"", *, by_next: bool = False) -> bytes:
        return self._do(wire.Request(name, nonce, by_next))

    def rotate(self, name: str, unix: float) -> bytes:
        self._check_name(name)
        return self._do(wire.Rotate(unix))

    def take_over(self, public_key: bytes) -> str:
        self._expected.add(public_key)
        left = self._do(wire.TakeOver(public_key)).decode(errors="replace")
        self._expected = {public_key}
        self._begun = self._ask_for(wire.Begun, None)
        self._bundle = self._begun.bundle or None
        return left

    def next_bundle(self, name: str, unix: float, above: int = 0) -> bytes:
        self._check_name(name)
        self._bundle = self._do(wire.NextBundle(unix, above))
        return self._bundle

    def forget_secrets(self, unix: float) -> bool:
        return bool(self._do(wire.Forget(unix)))

    def move(self, custody: str) -> str:
        """Returns the provider that keeps the secrets from now on."""
        return self._do(wire.Move(custody)).decode()

    def _check_name(self, name: str) -> None:
        if name != self._begin.name:
            raise PolicyError("another name than the custodian was told")

    def _do(self, question: wire.AnyQuestion) -> bytes:
        return self._ask_for(wire.Done, question).value

    def _ask_for(self, kind: type[Answer], question: wire.AnyQuestion | None) -> Answer:
        answer = self._ask(question)
        if isinstance(answer, wire.Refused):
            raise _error_of(answer, question)
        if not isinstance(answer, kind):
            raise CommandError(ExitCode.NOT_SO, "the custodian of the keys is of another version: start it again")
        return answer

    def _ask(self, question: wire.AnyQuestion | None) -> wire.AnyAnswer:
        """Returns the answer to `question`, or for None what `Begin` was answered."""
        deadline = time.monotonic() + self._deadline_s
        while True:
            try:
                begun = self._begin_anew(deadline) if self._connected is None else None
                if question is None or isinstance(begun, wire.Refused):
                    return begun or self._exchange(self._begin, deadline)
                return self._exchange(question, deadline)
            except (OSError, DecodeError) as error:
                self._drop()
                if time.monotonic() + _PAUSE_S >= deadline:
                    raise CommandError(
                        ExitCode.UNREACHABLE, f"the custodian of the keys does not answer ({error}): does it run?"
                    ) from None
                time.sleep(_PAUSE_S)

    def _begin_anew(self, deadline: float) -> wire.AnyAnswer:
        self._connected = self._way.connect()
        answer = self._exchange(self._begin, deadline)
        if isinstance(answer, wire.Refused):
            self._drop()
        if isinstance(answer, wire.Begun) and self._expected and answer.public_key not in self._expected:
            raise ConfigurationError("the custodian of the keys holds another identity than before: start again")
        return answer

    def _exchange(self, question: wire.AnyQuestion, deadline: float) -> wire.AnyAnswer:
        if self._connected is None:
            raise ConnectionResetError("not connected")
        self._connected.settimeout(max(deadline - time.monotonic(), 0.001))
        self._connected.sendall(wire.encode(question))
        while (body := wire.take_message(self._buffer)) is None:
            received = self._connected.recv(wire.MAX_MESSAGE_BYTES)
            if not received:
                raise ConnectionResetError("it went away")
            self._buffer += received
        return wire.decode_answer(body)

    def _drop(self) -> None:
        self._buffer.clear()
        if self._connected is not None:
            self._connected.close()
            self._connected = None


def socket_of_custody(state: Path, config: Config) -> Path | None:
    """Returns where the custodian of this state directory listens; None where its daemon starts one for itself.

    A socket that is configured goes before the system's, which serves `DEFAULT_STATE` wherever it is installed.
    """
    if config.custody_socket:
        return Path(config.custody_socket)
    return SYSTEM_SOCKET if state == DEFAULT_STATE and SYSTEM_STATE.exists() else None


def way_to_custody(state: Path, config: Config, environment: Mapping[str, str]) -> Way:
    """Returns the way to the custodian of the daemon that keeps its state in `state`."""
    path = socket_of_custody(state, config)
    return Child(state, config.passphrase_file, environment) if path is None else Running(path)


def move_custody(state: Path, config: Config, environment: Mapping[str, str], custody: str) -> str:
    """Has the identity of `state` kept otherwise, and returns by what. Raises `ConfigurationError`, `CommandError`,
    and `PolicyError` for whom the custodian does not take that from."""
    with open_custody(way_to_custody(state, config, environment)) as remote:
        return remote.move(custody)


@contextmanager
def open_custody(way: Way, *, name: str = "", custody: str = "auto") -> Iterator[RemoteCustodian]:
    """Closes the way at the end. Raises `ConfigurationError`, `CommandError`."""
    try:
        remote = RemoteCustodian(way, name=name, custody=custody)
    except BaseException:
        way.close()
        raise
    try:
        yield remote
    finally:
        remote.close()


def _error_of(refused: wire.Refused, question: wire.AnyQuestion | None) -> FabricError:
    match refused.kind:
        case "decode":
            return DecodeError(refused.why)
        case "authentication":
            return AuthenticationError(refused.why)
        case "policy":
            return PolicyError(refused.why)
        case "configuration" if isinstance(question, _SIGNED):
            # the keys were opened before: the token that holds them is away, and a later start may find it back
            return CommandError(ExitCode.UNREACHABLE, refused.why)
        case "configuration":
            return ConfigurationError(refused.why)
