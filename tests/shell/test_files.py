"""What goes on when this process has as many files open as it may."""

from __future__ import annotations

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from fabric.core.events import FIRST_EXTRA_SOCKET
from fabric.shell import control, links, port_mapping
from fabric.shell.control import serve_control
from fabric.shell.control_wire import AnyAnswer, AnyQuestion, Done
from fabric.shell.files import RESERVE
from fabric.shell.gateway import Gateway
from fabric.shell.udp import open_udp_sockets

ROOM = 200


@contextmanager
def limited(most: int) -> Iterator[None]:
    """This process may have `most` files open more than it has."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_sockets_to_guess_with_leave_files_for_everything_else() -> None:
    udp = open_udp_sockets()
    try:
        with limited(ROOM):
            vias = udp.side.open(512)
            assert 0 < len(vias) <= ROOM - RESERVE
            assert vias[0] == FIRST_EXTRA_SOCKET
            assert udp.side.open(1) == ()
            udp.side.close(vias)
            assert len(udp.side.open(5)) == 5
    finally:
        udp.close()


async def test_a_look_at_the_own_addresses_waits_until_it_can_be_had(
    nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(links, "RECOVERY_S", 0.2)
    looked = trio.Event()

    async def look() -> None:
        await links.read_underlay("fabric0")
        looked.set()

    with limited(0):
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert not looked.is_set()
    with trio.fail_after(5):
        await looked.wait()


def test_a_gateway_is_not_asked_while_there_is_no_socket_for_it() -> None:
    with limited(0):
        assert port_mapping._open_door(Gateway("127.0.0.1", "127.0.0.1", 1, "lo")) is None


async def test_commands_are_answered_again_when_there_are_files_again(
    tmp_path: Path, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(control, "RECOVERY_S", 0.2)

    async def answer(_question: AnyQuestion) -> AnyAnswer:
        return Done()

    nursery.start_soon(serve_control, control.listen(tmp_path / "control.sock", None), answer)
    with trio.socket.socket(trio.socket.AF_UNIX) as asker:
        await trio.testing.wait_all_tasks_blocked()
        with limited(0):
            await asker.connect(str(tmp_path / "control.sock"))
            await trio.testing.wait_all_tasks_blocked(0.05)
        with trio.fail_after(5):
            await asker.send(b"nonsense\n")
            assert b"failed" in await asker.recv(1000)
    nursery.cancel_scope.cancel()
