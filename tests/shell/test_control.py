"""The control socket, with real sockets."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.shell.control import listen, serve_control
from fabric.shell.control_client import ControlClient, NoDaemonError
from fabric.shell.control_wire import (
    MAX_QUESTION_BYTES,
    AnyAnswer,
    AnyQuestion,
    AskAdd,
    AskPing,
    AskStatus,
    AskWait,
    Done,
    Failed,
    decode_answer,
    decode_question,
    encode_line,
)
from fabric.shell.exit_code import CommandError, ExitCode


class Clerk:
    """Answers `add` at once, `ping` with a failure, and `wait` never."""

    def __init__(self) -> None:
        self.given_up = trio.Event()
        self.waiting = trio.Event()

    async def answer(self, question: AnyQuestion) -> AnyAnswer:
        match question:
            case AskAdd(peer=peer):
                return Done(peer)
            case AskWait():
                self.waiting.set()
                try:
                    await trio.sleep_forever()
                finally:
                    self.given_up.set()
            case _:
                raise CommandError(ExitCode.NO_SUCH_THING, "there is no such peer")


@asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Clerk]:
    clerk = Clerk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_control, listen(path, None), clerk.answer)
        yield clerk
        nursery.cancel_scope.cancel()


async def asked(path: Path, question: AnyQuestion) -> AnyAnswer:
    def ask() -> AnyAnswer:
        with ControlClient(path) as client:
            return client.ask(question)

    return await trio.to_thread.run_sync(ask)


async def test_a_question_is_answered_and_a_failure_carries_its_exit_code(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        assert await asked(path, AskAdd("bob")) == Done("bob")
        assert await asked(path, AskPing("bob")) == Failed(4, "there is no such peer")


async def test_the_socket_is_for_owner_and_group_only(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        assert path.stat().st_mode & 0o777 == 0o660


async def test_a_deep_state_directory_is_no_obstacle(tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 90) / ("e" * 90)
    directory.mkdir(parents=True)
    async with serving(directory / "control.sock"):
        assert await asked(directory / "control.sock", AskAdd("bob")) == Done("bob")


async def test_a_dead_daemons_socket_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    listen(path, None).close()
    with pytest.raises(NoDaemonError):
        ControlClient(path)
    async with serving(path):
        assert await asked(path, AskAdd("bob")) == Done("bob")


async def test_several_questions_on_one_connection_are_answered_in_order(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(encode_line(AskAdd("a")) + encode_line(AskAdd("b")))
        received = b""
        while received.count(b"\n") < 2:
            received += await stream.receive_some()
        assert [decode_answer(line) for line in received.splitlines()] == [Done("a"), Done("b")]
        await stream.aclose()


async def test_a_question_is_given_up_when_the_asker_goes_away(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path) as clerk:
        stream = await trio.open_unix_socket(path)
        await stream.send_all(encode_line(AskWait("bob")))
        await clerk.waiting.wait()
        await stream.aclose()
        with trio.fail_after(5):
            await clerk.given_up.wait()
        assert await asked(path, AskAdd("bob")) == Done("bob")


@pytest.mark.parametrize("line", [b"nonsense\n", b"{}\n", b'{"ask":"fly"}\n', b"\xff\xfe\n", b'{"ask":"add"}\n'])
async def test_what_is_no_question_is_answered_with_wrong_usage(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(line)
        answer = decode_answer(bytes(await stream.receive_some()))
        assert isinstance(answer, Failed)
        assert answer.code == ExitCode.WRONG_USAGE
        await stream.aclose()


async def test_a_line_without_an_end_ends_the_connection(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    async with serving(path):
        stream = await trio.open_unix_socket(path)
        await stream.send_all(b"x" * (MAX_QUESTION_BYTES + 1))
        with trio.fail_after(5):
            assert await stream.receive_some() == b""
        await stream.aclose()


def test_without_a_daemon_the_service_is_unreachable(tmp_path: Path) -> None:
    with pytest.raises(NoDaemonError) as raised:
        ControlClient(tmp_path / "control.sock")
    assert raised.value.code is ExitCode.UNREACHABLE


def test_a_daemon_that_breaks_off_is_told(tmp_path: Path) -> None:
    listener = listen(tmp_path / "control.sock", None)
    with listener, ControlClient(tmp_path / "control.sock") as client:
        accepted, _ = listener.accept()
        accepted.shutdown(socket.SHUT_RDWR)
        accepted.close()
        with pytest.raises(CommandError) as raised:
            client.ask(AskStatus())
    assert raised.value.code is ExitCode.UNREACHABLE


@given(st.binary(max_size=200))
def test_any_line_decodes_or_is_refused(line: bytes) -> None:
    for decode in (decode_question, decode_answer):
        try:
            decode(line)
        except DecodeError:
            continue


@given(st.text(max_size=100), st.sampled_from(["direct", "any"]), st.floats(0, 1000))
def test_questions_survive_the_way(peer: str, path: str, timeout_s: float) -> None:
    question = AskWait(peer, path, timeout_s)  # type: ignore[arg-type]
    assert decode_question(encode_line(question)) == question
