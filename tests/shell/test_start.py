"""How `fabricd` starts: its command line, and what it does without until the first frame has gone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from fabric.core.status import PeerState
from fabric.errors import FabricError
from fabric.shell import late
from fabric.shell.daemon import HEAD_START_S, meet_known_peers
from fabric.shell.endpoint import Endpoint
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.start import fabricd

LATER = (
    "fabric.shell.doctor",
    "fabric.shell.enrolment",
    "fabric.shell.port_mapping",
    "fabric.shell.websocket",
    "h11",
    "httpx",
    "importlib.metadata",
    "pyroute2",
    "rich",
    "starlette",
    "trio_websocket",
    "typer",
    "wsproto",
    "xml.etree",
)
"""Each takes 5 to 150 ms, or megabytes: a daemon that has a use for one of them loads it when it has."""


def modules_after(program: str) -> set[str]:
    shown = f"{program}; import json, sys; print(json.dumps(list(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stdout))


def test_a_daemon_is_loaded_without_what_the_first_frame_has_no_use_for() -> None:
    loaded = modules_after("import fabric.shell.daemon")
    assert "fabric.core.node" in loaded
    assert loaded.isdisjoint(LATER)


def test_what_comes_later_is_there_when_it_is_wanted() -> None:
    """The list above names what exists, and what the daemon's own modules lead to."""
    program = "import fabric.shell.websocket, fabric.shell.upnp as u, fabric.shell.port_mapping; u._client('')"
    assert {"h11", "httpx", "trio_websocket", "wsproto"} <= modules_after(program)


@pytest.mark.parametrize("words", [["--stat", "x"], ["--port", "many"], ["up"], ["--device"]], ids=" ".join)
def test_a_command_line_that_is_not_understood_is_the_persons_mistake(words: list[str]) -> None:
    with pytest.raises(CommandError, match=r"\(see fabricd --help\)$") as raised:
        fabricd(words)
    assert raised.value.code is ExitCode.WRONG_USAGE
    assert isinstance(raised.value, FabricError)


# peers before all else


class Acquaintance:
    """An endpoint with one peer, as far as a start goes."""

    def __init__(self, state: PeerState | None) -> None:
        self.state = state
        self._changed = trio.Event()

    def peers(self) -> tuple[SimpleNamespace, ...]:
        return () if self.state is None else (SimpleNamespace(state=self.state),)

    def become(self, state: PeerState) -> None:
        self.state = state
        self._changed.set()

    async def wait_until(self, holds: Callable[[], bool], timeout_s: float) -> bool:
        with trio.move_on_after(timeout_s):
            while not holds():
                await self._changed.wait()
                self._changed = trio.Event()
        return holds()


async def seconds_until_met(of: Acquaintance) -> float:
    began = trio.current_time()
    await meet_known_peers(cast(Endpoint, of), HEAD_START_S)
    return trio.current_time() - began


@pytest.mark.parametrize("state", [None, PeerState.PENDING, PeerState.DISABLED, PeerState.QUARANTINED])
async def test_nobody_is_waited_for_who_can_not_come(state: PeerState | None, autojump_clock: object) -> None:
    assert await seconds_until_met(Acquaintance(state)) == 0.0


@pytest.mark.parametrize("state", [PeerState.INTRODUCED, PeerState.CONNECTING])
async def test_a_known_peer_that_is_away_holds_the_device_up_for_a_moment(
    state: PeerState, autojump_clock: object
) -> None:
    assert await seconds_until_met(Acquaintance(state)) == pytest.approx(HEAD_START_S)


async def test_the_device_is_set_up_as_soon_as_a_known_peer_is_there(autojump_clock: object) -> None:
    bob = Acquaintance(PeerState.CONNECTING)
    async with trio.open_nursery() as nursery:

        async def come() -> None:
            await trio.sleep(HEAD_START_S / 4)
            bob.become(PeerState.CONNECTED)

        nursery.start_soon(come)
        assert await seconds_until_met(bob) == pytest.approx(HEAD_START_S / 4)


# loading later


async def test_loading_leaves_the_loop_free(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The module can only be loaded to its end while other tasks run."""
    directory = tmp_path_factory.mktemp("modules")
    body = "import sys\nsys.modules['a_gate'].is_entered.set()\nassert sys.modules['a_gate'].is_open.wait(30)\n"
    (directory / "a_slow_module.py").write_text(body)
    monkeypatch.syspath_prepend(str(directory))
    gate = SimpleNamespace(is_entered=threading.Event(), is_open=threading.Event())
    monkeypatch.setitem(sys.modules, "a_gate", gate)
    interval = sys.getswitchinterval()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(late.load, "a_slow_module")
        await trio.to_thread.run_sync(gate.is_entered.wait)
        assert sys.getswitchinterval() < interval
        gate.is_open.set()
    assert "a_slow_module" in sys.modules
    assert sys.getswitchinterval() == interval


async def test_what_is_loaded_costs_nothing_more() -> None:
    with trio.testing.assert_no_checkpoints():
        await late.load("json", "fabric.shell.late")
