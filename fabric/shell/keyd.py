"""`fabric-keyd`: the process that holds the private keys of an endpoint, and has no network.

    systemd     fabric-keyd.socket hands the listening socket over; who may connect says its mode, and `--user`
    a daemon    starts one for itself, over one end of a socket pair; it ends with the daemon
    by hand     `--socket PATH` listens there

What can be asked is in `fabric.custody.wire`. It answers one question at a time, logs none of them, and loads little:
a daemon waits for it when it starts.
"""

from __future__ import annotations

import os
import select
import socket
import struct
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from fabric.custody.identity_file import IDENTITY_FILE, Surroundings
from fabric.custody.keeper import Keeper
from fabric.custody.vault import Vault
from fabric.custody.wire import MAX_MESSAGE_BYTES, encode, take_message
from fabric.errors import ConfigurationError, DecodeError
from fabric.shell.confine import confine
from fabric.shell.program import run_command

CHILD_FD = 3
"""Where a daemon puts the child's end of the pair, and systemd its socket (sd_listen_fds(3))."""
MAX_CONNECTIONS = 16
ANSWER_S = 1.0
"""Who does not take an answer for so long is gone: an answer fits in any socket's buffer."""
SOCKET_MODE = 0o660

_CREDENTIALS = struct.Struct("=iII")


class KeyServer:
    """Answers on connections that `add` took, and on those that a listener brings.

    `may_use` and `is_administrator` judge by the user id of the process at the other end.
    """

    def __init__(self, keeper: Keeper, may_use: Callable[[int], bool], is_administrator: Callable[[int], bool]) -> None:
        self.keeper = keeper
        self._may_use = may_use
        self._is_administrator = is_administrator
        self._poll = select.poll()
        self._listener: socket.socket | None = None
        self._connections: dict[int, _Connection] = {}

    def listen(self, listener: socket.socket) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._poll.register(listener, select.POLLIN)

    def add(self, connected: socket.socket) -> None:
        """Takes a connection; closes it at once where its user may not ask, or there are too many."""
        uid = _peer_uid(connected)
        if not self._may_use(uid) or len(self._connections) >= MAX_CONNECTIONS:
            self.keeper.refused += 1
            connected.close()
            return
        connected.settimeout(ANSWER_S)
        self._connections[connected.fileno()] = _Connection(connected, self._is_administrator(uid))
        self._poll.register(connected, select.POLLIN)

    def serve(self) -> None:
        """Returns when nobody is connected and nobody can connect."""
        while self._listener is not None or self._connections:
            for descriptor, _ in self._poll.poll():
                if (connection := self._connections.get(descriptor)) is None:
                    self._accept()
                elif not self._serve_one(connection):
                    self._poll.unregister(descriptor)
                    del self._connections[descriptor]
                    connection.socket.close()

    def _accept(self) -> None:
        if self._listener is not None:
            try:
                connected, _ = self._listener.accept()
            except OSError:  # it was gone before it was taken
                return
            self.add(connected)

    def _serve_one(self, connection: _Connection) -> bool:
        """Answers what has come in; False where the connection is at its end."""
        try:
            received = connection.socket.recv(MAX_MESSAGE_BYTES)
            connection.buffer += received
            while (body := take_message(connection.buffer)) is not None:
                answer = self.keeper.answer_untrusted(body, is_administrator=connection.is_administrator)
                connection.socket.sendall(encode(answer))
        except DecodeError:
            self.keeper.refused += 1
            return False
        except OSError:
            return False
        return bool(received)


class _Connection:
    __slots__ = ("buffer", "is_administrator", "socket")

    def __init__(self, connected: socket.socket, is_administrator: bool) -> None:
        self.socket = connected
        self.is_administrator = is_administrator
        self.buffer = bytearray()


def _peer_uid(connected: socket.socket) -> int:
    _, uid, _ = _CREDENTIALS.unpack(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


def keyd(arguments: Sequence[str] | None = None) -> None:
    """Runs the custodian that the command line (`sys.argv`) names. Raises `FabricError`, `OSError`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--child"]:
        state, passphrase_file = words[1], words[2]
        confine(is_child=True)
        server = _server(Path(state), passphrase_file, None)
        if (Path(state) / IDENTITY_FILE).exists():
            server.keeper.open_early()
        server.add(socket.socket(fileno=CHILD_FD))
        server.serve()
        return
    _run_alone(words)


def _run_alone(words: list[str]) -> None:
    import argparse  # here, because a daemon that starts does not wait for it

    parser = argparse.ArgumentParser(
        "fabric-keyd", allow_abbrev=False, description="Hold the private keys of an endpoint, in a process of its own."
    )
    parser.add_argument("--state", type=Path, required=True, metavar="DIR", help="Where the keys are kept.")
    parser.add_argument("--socket", type=Path, metavar="PATH", help="Where to listen, if no socket is handed over.")
    parser.add_argument("--user", metavar="NAME", help="The user that may ask, beside the own one.")
    parser.add_argument("--passphrase-file", default="", metavar="FILE", help="A file whose content opens the keys.")
    parser.add_argument("--adopt", type=Path, metavar="DIR", help="Take over the keys of a daemon that had its own.")
    options = parser.parse_args(words)
    if options.adopt is not None:
        from fabric.shell.adopting import adopt

        adopt(options.adopt, options.state)
        return
    listener = _listener(options.socket)
    confine(is_child=False)
    server = _server(options.state, options.passphrase_file, options.user)
    server.listen(listener)
    server.serve()


def _server(state: Path, passphrase_file: str, user: str | None) -> KeyServer:
    around = Surroundings(state, Path(passphrase_file) if passphrase_file else None, dict(os.environ))
    own = os.geteuid()
    administrators = (0, own)
    users = (*administrators, _uid_of(user)) if user is not None else administrators
    keeper = Keeper(lambda custody: Vault(around, custody))
    return KeyServer(keeper, lambda uid: uid in users, lambda uid: uid in administrators)


def _uid_of(user: str) -> int:
    import pwd

    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise ConfigurationError(f"--user: there is no user {user}") from None


def _listener(path: Path | None) -> socket.socket:
    """Returns the socket that systemd handed over, or one at `path`. Raises `ConfigurationError`, `OSError`."""
    if os.environ.get("LISTEN_PID") == str(os.getpid()) and os.environ.get("LISTEN_FDS") == "1":
        return socket.socket(fileno=CHILD_FD)
    if path is None:
        raise ConfigurationError("no socket was handed over: name one with --socket")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    path.chmod(SOCKET_MODE)
    listener.listen()
    return listener


def main() -> None:
    sys.exit(run_command(keyd, "fabric-keyd"))


if __name__ == "__main__":
    main()
