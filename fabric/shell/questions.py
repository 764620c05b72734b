"""Answers what commands ask over the control socket."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from fabric.core.status import PathKind, PeerState, PeerStatus
from fabric.shell.control_wire import (
    AnyAnswer,
    AnyQuestion,
    AskAdd,
    AskDisable,
    AskDoctor,
    AskEnable,
    AskPing,
    AskRemove,
    AskReset,
    AskRotate,
    AskStatus,
    AskTrust,
    AskWait,
    AskWishes,
    Connected,
    Done,
    EndpointReport,
    Examined,
    Failed,
    PeerExamined,
    Pinged,
    Rotated,
    Status,
    StatusReport,
    Trusts,
)
from fabric.shell.endpoint import Endpoint
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.late import load
from fabric.shell.report import milliseconds, report_path, report_peer, report_trust
from fabric.shell.wishes import Verb

if TYPE_CHECKING:
    from fabric.shell.doctor import Doctor

DIRECT = frozenset((PathKind.LAN, PathKind.DIRECT_UDP, PathKind.DIRECT_TCP))
_VERBS = {AskAdd: Verb.ADD, AskRemove: Verb.REMOVE, AskEnable: Verb.ENABLE, AskDisable: Verb.DISABLE}


class Questions:
    """`report_endpoint` makes the part of a status that is not about peers. `call_doctor` is asked for one when a
    person asks for the first time; without it nothing is examined."""

    def __init__(
        self,
        endpoint: Endpoint,
        report_endpoint: Callable[[], EndpointReport],
        call_doctor: Callable[[], Doctor] | None = None,
    ) -> None:
        self._endpoint = endpoint
        self._report_endpoint = report_endpoint
        self._call_doctor = call_doctor
        self._doctor: Doctor | None = None

    async def answer(self, question: AnyQuestion) -> AnyAnswer:
        """Raises `FabricError` for what can't be done, to be told to the asker."""
        match question:
            case AskStatus() | AskTrust():
                return self._report(question)
            case AskAdd() | AskRemove() | AskEnable() | AskDisable() | AskReset():
                return self._wish(question)
            case AskWait() | AskPing() | AskRotate():
                return await self._do(question)
            case AskDoctor(peer=peer):
                return await self._examine(peer)
            case AskWishes():
                self._endpoint.fulfil_waiting()
                return Done()

    def _wish(self, question: AskAdd | AskRemove | AskEnable | AskDisable | AskReset) -> Done:
        if isinstance(question, AskReset):
            return Done(self._endpoint.wish(Verb.RESET_KEY if question.new_key else Verb.RESET, question.peer))
        fingerprint = question.fingerprint if isinstance(question, AskAdd) else None
        return Done(self._endpoint.wish(_VERBS[type(question)], question.peer, fingerprint))

    def _report(self, question: AskStatus | AskTrust) -> AnyAnswer:
        if isinstance(question, AskTrust):
            return Trusts(tuple(report_trust(each) for each in self._endpoint.trust()))
        peer = question.peer
        peers = self._endpoint.peers()
        if peer is not None:
            peers = (self._endpoint.peer(self._endpoint.full_name(peer)),)
        return Status(StatusReport(self._report_endpoint(), tuple(report_peer(each) for each in peers)))

    async def _do(self, question: AskWait | AskPing | AskRotate) -> AnyAnswer:
        match question:
            case AskWait():
                return await self._wait(question)
            case AskPing():
                return await self._ping(question)
            case AskRotate(timeout_s=timeout_s):
                return Rotated(await self._endpoint.rotate(timeout_s))

    async def _wait(self, question: AskWait) -> AnyAnswer:
        name = self._endpoint.full_name(question.peer)

        def holds() -> bool:
            return _is_connected(self._endpoint.peer(name), question.path)

        if await self._endpoint.wait_until(holds, question.timeout_s):
            return Connected(name, report_path(self._endpoint.peer(name).path))
        peer = self._endpoint.peer(name)
        over = " over a direct path" if question.path == "direct" else ""
        why = f"{name} is not connected{over} after {question.timeout_s:g} s: {peer.state.value}, {peer.why}"
        return Failed(ExitCode.NOT_SO, why)

    async def _ping(self, question: AskPing) -> AnyAnswer:
        peer = self._endpoint.peer(self._endpoint.full_name(question.peer))
        if peer.state is not PeerState.CONNECTED:
            return Failed(ExitCode.NOT_SO, f"{peer.name} is {peer.state.value}: {peer.why}")
        pong = await self._endpoint.ping(peer.name, question.timeout_s)
        if pong is None:
            return Failed(ExitCode.NOT_SO, f"no answer from {peer.name} within {question.timeout_s:g} s")
        return Pinged(peer.name, milliseconds(pong.rtt_s), pong.kind.value, str(pong.remote))

    async def _examine(self, peer: str | None) -> AnyAnswer:
        if self._call_doctor is None:
            raise CommandError(ExitCode.NOT_SO, "this daemon has no doctor")
        if self._doctor is None:
            await load("fabric.shell.doctor")
            self._doctor = self._doctor or self._call_doctor()
        if peer is None:
            return Examined(self._report_endpoint(), await self._doctor.examine())
        status = self._endpoint.peer(self._endpoint.full_name(peer))
        return PeerExamined(self._doctor.examine_peer(status))


def _is_connected(peer: PeerStatus, path: str) -> bool:
    if peer.state is not PeerState.CONNECTED:
        return False
    return path == "any" or (peer.path is not None and peer.path.kind in DIRECT)
