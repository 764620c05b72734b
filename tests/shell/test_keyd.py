"""The custodian as a real process over a real socket: killed, stopped, started again, and asked by strangers."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fabric.crypto.signature import LABEL_GRANT, LABEL_HANDSHAKE_CLIENT, verify
from fabric.custody.identity_file import IDENTITY_FILE, Surroundings
from fabric.custody.keeper import Keeper
from fabric.custody.vault import SEALING_FILE, Vault
from fabric.custody.wire import Begin, Begun, Done, Sign, decode_answer, encode, take_message
from fabric.errors import ConfigurationError, PolicyError
from fabric.identity.bundle import open_bundle
from fabric.identity.rotation import open_rotation
from fabric.shell.adopting import adopt
from fabric.shell.config import Config
from fabric.shell.custody import Child, RemoteCustodian, Running, open_custody, way_to_custody
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.keyd import MAX_CONNECTIONS, KeyServer

NAME = "web-1.home"
NOW = 1_800_000_000.0
HASH = bytes(32)
GONE_S = 10


def child(state: Path) -> Child:
    return Child(state, None, os.environ)


@contextmanager
def custodian(way: Child | Running, *, deadline_s: float = 20.0) -> Iterator[RemoteCustodian]:
    remote = RemoteCustodian(way, name=NAME, deadline_s=deadline_s)
    try:
        yield remote
    finally:
        remote.close()


def assert_it_signs(remote: RemoteCustodian) -> None:
    verify(remote.public_key, LABEL_HANDSHAKE_CLIENT, remote.sign(LABEL_HANDSHAKE_CLIENT, HASH, HASH), HASH, HASH)


def await_end(pid: int) -> None:
    """Returns when a process has ended; an error if it does not."""
    with suppress(ProcessLookupError):
        descriptor = os.pidfd_open(pid)
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = poll.poll(GONE_S * 1000)
        os.close(descriptor)
        assert ended, f"{pid} goes on"


# as a child


def test_a_child_holds_the_keys_and_does_all_that_is_asked(tmp_path: Path) -> None:
    with custodian(child(tmp_path)) as remote:
        assert_it_signs(remote)
        bundle = remote.next_bundle(NAME, NOW)
        assert remote.bundle == bundle
        assert open_bundle(bundle, remote.public_key).name == NAME
        assert remote.make_request(NAME, b"n" * 16)
        assert not remote.forget_secrets(NOW)
        with pytest.raises(PolicyError):
            remote.sign(LABEL_GRANT, HASH)
        assert_it_signs(remote)
    with custodian(child(tmp_path)) as again:
        assert (again.public_key, again.bundle, again.storage_key) == (remote.public_key, bundle, remote.storage_key)


def test_a_child_that_is_killed_in_mid_use_is_missed_by_nobody(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way) as remote:
        for _ in range(3):
            before = way.pid
            os.kill(before, signal.SIGKILL)
            assert_it_signs(remote)
            assert way.pid != before
        bundle = remote.next_bundle(NAME, NOW)
        os.kill(way.pid, signal.SIGKILL)
        assert (
            open_bundle(remote.next_bundle(NAME, NOW), remote.public_key).serial
            > open_bundle(bundle, remote.public_key).serial
        )


def test_a_child_that_is_killed_as_the_next_key_takes_over_goes_on_with_it(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way) as remote:
        rotation = open_rotation(remote.rotate(NAME, NOW))
        assert rotation.old_key == remote.public_key
        remote.take_over(rotation.new_key)
        os.kill(way.pid, signal.SIGKILL)
        remote.take_over(rotation.new_key)
        assert remote.public_key == rotation.new_key
        assert_it_signs(remote)
        os.kill(way.pid, signal.SIGKILL)
        assert_it_signs(remote)


@pytest.mark.slow
def test_a_bundle_that_was_answered_survives_a_kill_at_any_moment(tmp_path: Path) -> None:
    """It is killed some time into the making of each, which takes a few milliseconds."""
    way = child(tmp_path)
    with custodian(way) as remote:
        serials = []
        for after_ms in (0, 1, 2, 3, 4, 6, 8):
            killer = threading.Timer(after_ms / 1000, os.kill, (way.pid, signal.SIGKILL))
            killer.start()
            serials.append(open_bundle(remote.next_bundle(NAME, NOW), remote.public_key).serial)
            killer.join()
        assert serials == sorted(set(serials))
        last = remote.next_bundle(NAME, NOW)
    with custodian(child(tmp_path)) as again:
        assert again.bundle == last


def test_a_child_that_hangs_is_an_error_within_the_deadline_and_not_for_ever(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way) as remote:
        remote._deadline_s = 0.3
        hung = way.pid
        os.kill(hung, signal.SIGSTOP)
        with pytest.raises(CommandError, match="does not answer") as raised:
            remote.sign(LABEL_HANDSHAKE_CLIENT, HASH, HASH)
        assert raised.value.code is ExitCode.UNREACHABLE
        remote._deadline_s = 20.0
        assert_it_signs(remote)
        await_end(hung)


def test_a_child_ends_with_whoever_started_it_however_that_ends(tmp_path: Path) -> None:
    program = (
        "import os, sys, time; from pathlib import Path; from fabric.shell.custody import Child, RemoteCustodian;"
        "way = Child(Path(sys.argv[1]), None, os.environ); RemoteCustodian(way); print(way.pid, flush=True);"
        "time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", program, str(tmp_path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        os.kill(pid, 0)
        parent.kill()
        await_end(pid)


def test_a_child_that_was_closed_is_gone(tmp_path: Path) -> None:
    way = child(tmp_path)
    unused = child(tmp_path / "unused")
    pids = [way.pid, unused.pid]
    with custodian(way):
        pass
    unused.close()
    for pid in pids:
        await_end(pid)


def test_a_child_has_no_network_and_leaves_no_core(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way):
        status = dict(
            line.split(":", 1) for line in Path(f"/proc/{way.pid}/status").read_text().splitlines() if ":" in line
        )
        assert status["NoNewPrivs"].strip() == "1"
        limits = Path(f"/proc/{way.pid}/limits").read_text()
        (core,) = [line for line in limits.splitlines() if line.startswith("Max core file size")]
        assert core.split()[4:6] == ["0", "0"]
        try:
            network = Path(f"/proc/{way.pid}/ns/net").readlink()
        except PermissionError:
            pytest.skip("only root looks into a process that is not dumpable")
        if Path(f"/proc/{way.pid}/ns/user").readlink() == Path("/proc/self/ns/user").readlink() and os.geteuid() != 0:
            pytest.skip("user namespaces are not allowed here")
        assert network != Path("/proc/self/ns/net").readlink()
        interfaces = Path(f"/proc/{way.pid}/net/dev").read_text().splitlines()[2:]
        assert [line.split(":")[0].strip() for line in interfaces] == ["lo"]


def test_where_the_kernel_allows_no_namespace_it_serves_all_the_same(tmp_path: Path) -> None:
    """As root of a container without CAP_SYS_ADMIN and CAP_SETFCAP, who may make a user namespace and map nobody."""
    asking = (
        "import os, sys; from pathlib import Path; from fabric.shell.custody import Child, RemoteCustodian;"
        "remote = RemoteCustodian(Child(Path(sys.argv[1]), None, os.environ), name=sys.argv[2]);"
        "remote.next_bundle(sys.argv[2], 1.8e9); remote.close()"
    )
    drop = (
        "import ctypes, os, sys; [ctypes.CDLL(None).prctl(24, number, 0, 0, 0) for number in (21, 31)];"
        "os.execv(sys.executable, [sys.executable, '-c', *sys.argv[1:]])"
    )
    words = [sys.executable, "-c", drop, asking, str(tmp_path), NAME]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / SEALING_FILE).exists()


def test_an_interrupt_of_both_leaves_the_child_to_its_daemon(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way) as remote:
        before = way.pid
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(before, number)
        assert_it_signs(remote)
        assert way.pid == before


def test_keys_that_do_not_open_after_a_restart_are_told_each_time_and_may_be_mended(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way) as remote:
        content = (tmp_path / IDENTITY_FILE).read_bytes()
        (tmp_path / IDENTITY_FILE).write_bytes(b"nonsense")
        os.kill(way.pid, signal.SIGKILL)
        for _ in range(2):
            with pytest.raises(CommandError, match="is damaged"):
                remote.sign(LABEL_HANDSHAKE_CLIENT, HASH, HASH)
        (tmp_path / IDENTITY_FILE).write_bytes(content)
        assert_it_signs(remote)


def test_an_identity_that_does_not_open_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    (tmp_path / IDENTITY_FILE).write_bytes(b"nonsense")
    with pytest.raises(ConfigurationError, match="is damaged"), open_custody(child(tmp_path), name=NAME):
        pass


def test_another_identity_than_before_is_not_gone_on_with(tmp_path: Path) -> None:
    way = child(tmp_path)
    with custodian(way) as remote:
        for name in (IDENTITY_FILE, "identity.passphrase"):
            (tmp_path / name).unlink()
        os.kill(way.pid, signal.SIGKILL)
        with pytest.raises(ConfigurationError, match="another identity"):
            remote.sign(LABEL_HANDSHAKE_CLIENT, HASH, HASH)


# one that listens


@contextmanager
def listening(state: Path, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    words = [sys.executable, "-m", "fabric.shell.keyd", "--state", str(state), "--socket", str(path)]
    with subprocess.Popen(words) as process:
        try:
            yield process
        finally:
            process.kill()


def test_a_custodian_that_listens_is_restarted_and_nobody_notices(tmp_path: Path) -> None:
    path = tmp_path / "keyd.sock"
    with listening(tmp_path, path), custodian(Running(path)) as remote:
        assert_it_signs(remote)
        with listening(tmp_path, path) as second:
            assert_it_signs(remote)
        assert second.poll() is not None


def test_a_new_daemon_is_served_as_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "keyd.sock"
    with listening(tmp_path, path):
        with custodian(Running(path)) as first:
            assert_it_signs(first)
            with custodian(Running(path)) as second:
                assert_it_signs(second)
                assert_it_signs(first)
        with custodian(Running(path)) as third:
            assert third.public_key == first.public_key


def test_the_socket_is_for_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "keyd.sock"
    with listening(tmp_path, path), custodian(Running(path)):
        assert path.stat().st_mode & 0o777 == 0o660


def test_nobody_there_is_said_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="does it run") as raised:
        RemoteCustodian(Running(tmp_path / "nowhere"), deadline_s=0.1)
    assert raised.value.code is ExitCode.UNREACHABLE


def test_the_configured_socket_is_where_a_daemon_asks(tmp_path: Path) -> None:
    assert isinstance(way_to_custody(tmp_path, Config(custody_socket="/run/x"), {}), Running)
    own = way_to_custody(tmp_path, Config(), os.environ)
    assert isinstance(own, Child)
    own.close()


# who asks, and what


class Square:
    """A server in a thread of its own, and connections to it."""

    def __init__(self, state: Path, *, may_use: bool = True) -> None:
        self.keeper = Keeper(lambda custody: Vault(Surroundings(state, None, {}), custody))
        self.path = state / "keyd.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(self.path))
        listener.listen()
        self.server = KeyServer(self.keeper, lambda uid: may_use and uid == os.geteuid(), lambda _uid: False)
        self.server.listen(listener)
        threading.Thread(target=self.server.serve, daemon=True).start()
        self._listener = listener

    def connect(self) -> socket.socket:
        connected = socket.socket(socket.AF_UNIX)
        connected.settimeout(10)
        connected.connect(str(self.path))
        return connected

    def ask(self, connected: socket.socket, *questions: Begin | Sign) -> list[object]:
        connected.sendall(b"".join(map(encode, questions)))
        return [self.answer(connected) for _ in questions]

    def answer(self, connected: socket.socket) -> object:
        buffer = bytearray()
        while (body := take_message(buffer)) is None:
            received = connected.recv(1)
            assert received, "it hung up"
            buffer += received
        return decode_answer(body)


def test_a_user_who_may_not_ask_is_hung_up_on_and_counted(tmp_path: Path) -> None:
    square = Square(tmp_path, may_use=False)
    with square.connect() as connected:
        with suppress(OSError):
            connected.sendall(encode(Begin(NAME)))
        with suppress(ConnectionResetError):
            assert connected.recv(1) == b""
    assert square.keeper.refused == 1
    assert not (tmp_path / IDENTITY_FILE).exists()


def test_a_daemons_user_may_not_move_the_identity_elsewhere(tmp_path: Path) -> None:
    square = Square(tmp_path)
    with custodian(Running(square.path)) as remote, pytest.raises(PolicyError, match="only root"):
        remote.move("file")


def test_a_message_too_long_costs_its_sender_the_connection_and_nobody_else(tmp_path: Path) -> None:
    square = Square(tmp_path)
    with square.connect() as good, square.connect() as bad:
        assert isinstance(square.ask(good, Begin(NAME))[0], Begun)
        bad.sendall(b"\xff\xff\xff\xff")
        assert bad.recv(1) == b""
        assert isinstance(square.ask(good, Sign(LABEL_HANDSHAKE_CLIENT, (HASH, HASH)))[0], Done)
    assert square.keeper.refused == 1


def test_questions_that_come_together_are_answered_in_order(tmp_path: Path) -> None:
    square = Square(tmp_path)
    with square.connect() as connected:
        hashes = [bytes([number]) * 32 for number in range(50)]
        first, *answers = square.ask(
            connected, Begin(NAME), *(Sign(LABEL_HANDSHAKE_CLIENT, (each, HASH)) for each in hashes)
        )
        assert isinstance(first, Begun)
        for each, answer in zip(hashes, answers, strict=True):
            assert isinstance(answer, Done)
            verify(first.public_key, LABEL_HANDSHAKE_CLIENT, answer.value, each, HASH)


def test_connections_are_bounded_and_those_that_are_open_go_on(tmp_path: Path) -> None:
    square = Square(tmp_path)
    held = [square.connect() for _ in range(MAX_CONNECTIONS)]
    assert isinstance(square.ask(held[-1], Begin(NAME))[0], Begun)
    with square.connect() as one_more, suppress(ConnectionResetError):
        assert one_more.recv(1) == b""
    assert isinstance(square.ask(held[0], Begin(NAME))[0], Begun)
    for each in held:
        each.close()


# taking over


def test_keys_of_a_daemon_that_had_its_own_are_taken_over_once(tmp_path: Path) -> None:
    origin, state = tmp_path / "fabric", tmp_path / "keyd"
    origin.mkdir()
    state.mkdir()
    assert not adopt(origin, state)
    before = Vault(Surroundings(origin, None, {}))
    bundle = before.next_bundle(NAME, NOW)
    held = os.open(origin / IDENTITY_FILE, os.O_RDONLY)
    assert adopt(origin, state)
    after = Vault(Surroundings(state, None, {}))
    assert (after.public_key, after.storage_key, after.bundle) == (before.public_key, before.storage_key, bundle)
    assert not list(origin.iterdir())
    assert set(os.read(held, 4096)) == {0}
    os.close(held)
    assert not adopt(origin, state)
    assert (state / SEALING_FILE).stat().st_mode & 0o777 == 0o600


def test_keys_that_are_there_already_stay(tmp_path: Path) -> None:
    origin, state = tmp_path / "fabric", tmp_path / "keyd"
    for each in (origin, state):
        each.mkdir()
    ours, theirs = (Vault(Surroundings(each, None, {})).public_key for each in (state, origin))
    assert not adopt(origin, state)
    assert [Vault(Surroundings(each, None, {})).public_key for each in (state, origin)] == [ours, theirs]


def test_a_link_in_anothers_directory_is_not_followed(tmp_path: Path) -> None:
    origin, state, secret = tmp_path / "fabric", tmp_path / "keyd", tmp_path / "secret"
    for each in (origin, state):
        each.mkdir()
    secret.write_text("root's own")
    (origin / IDENTITY_FILE).symlink_to(secret)
    with pytest.raises(OSError, match=IDENTITY_FILE):
        adopt(origin, state)
    assert not list(state.iterdir())
    assert secret.read_text() == "root's own"
