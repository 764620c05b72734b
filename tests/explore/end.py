"""One endpoint of a pair as the walk sees it: its disk, its memory, and the driver that stands between the two.

The memory is a real `Keying`, steered as `fabric.core.peer` steers it, and drained as every driver does: what is to be
stored is on the disk before `handle_stored`, and that before anything leaves. A crash strikes inside `keep`, the
moment before or after the disk has it; whoever it strikes is started again at once.

What must be so at one moment of one end is checked here, and anything else is a `BreachError`.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any, cast

from fabric.core.entanglement import UNMET, Entangle, Entangled
from fabric.core.identity import Identity
from fabric.core.keying import CallDue, Keying, Met
from fabric.core.machine import Calendar, drain
from fabric.core.negotiation import Collided, Rebuffed
from fabric.core.negotiation_client import ClientNegotiation
from fabric.core.one_path import Path
from fabric.core.pair import PROVEN_STEPS
from fabric.core.settings import Settings
from fabric.core.surroundings import Surroundings
from fabric.dataplane.contract import Drop, PeerCounters, Port, SessionKeys, Traffic
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.address import Address
from fabric.wire.handshake import MessageKind, ProofKind
from fabric.wire.path import Close, CloseReason, decode_control, encode_control
from tests.core.town import UNIX
from tests.explore import symbolic
from tests.explore.stage import (
    CLIENT,
    FAR_S,
    SERVER,
    SESSION_S,
    Blow,
    BreachError,
    CrashError,
    Credulous,
    PrimaryPath,
    Raw,
    Rules,
    Unpaced,
    town,
)


class End:
    """`took` lists the roots that sessions were made from which are proven here by now: the other end has shown that it
    goes on from them too."""

    checks_order = True
    """Off only to see what comes of a wrong order."""

    keying: Keying
    keys: dict[int, SessionKeys]
    took: list[int]
    _unstored: deque[Entangled]
    _transmits: deque[bytes]
    _said: list[Raw]
    _confirming: tuple[int, int] | None

    def __init__(self, name: str, address: Address, disk: Entangled, rules: Rules) -> None:
        self.name, self.address, self.disk = name, address, disk
        self.is_client = name == CLIENT
        peer = SERVER if self.is_client else CLIENT
        self._peer = peer
        self._path = cast(Path, PrimaryPath(Address("198.51.100.2" if self.is_client else "198.51.100.1", 1)))
        self._steps, self._draw = rules.steps, rules.draw
        self._mode = rules.entangle[0 if self.is_client else 1]
        self._has_tickets = rules.has_tickets
        self.is_up = False
        self.now = 0.0
        self._blow: Blow | None = None
        self._sent: list[Raw] = []
        self._forget_memory()

    @property
    def is_symbolic(self) -> bool:
        return self._steps is not PROVEN_STEPS

    @property
    def entangled(self) -> Entangled:
        return self._memory

    def hold(self, entangled: Entangled) -> None:
        self._memory = entangled

    # what may happen to an end

    def start(self, blow: Blow | None = None) -> None:
        """Comes up with what its disk has."""
        self._forget_memory()
        self.is_up = True
        self._do(lambda: None, blow)

    def stop(self) -> None:
        self._forget_memory()
        self.is_up = False

    def deliver(self, raw: Raw, source: Address, blow: Blow | None = None) -> None:
        self._do(lambda: self._hear(raw, source), blow)

    def is_waiting(self) -> bool:
        """Whether it does something by itself before long."""
        due = self.keying.next_timeout()
        return due is not None and due - self.now < FAR_S

    def wait(self, blow: Blow | None = None) -> None:
        """Time passes until something is due, or until an attempt has failed for good."""
        attempt = self._attempt()
        self._do(self._wait, blow)
        while attempt is not None and attempt is self._attempt() and self.is_up:
            self._do(self._wait, blow)

    def renew(self, blow: Blow | None = None) -> None:
        """Another handshake is wanted, for whatever reason."""
        self._do(self.keying.want, blow)

    def doubt(self, blow: Blow | None = None) -> None:
        """Nothing has come back on the path for a while."""
        self._do(self.keying.doubt, blow)

    def age(self, blow: Blow | None = None) -> None:
        """The live session comes to the end of its life."""
        live = self.keying.live
        if live is not None:
            self.now = live.ends
            self._do(lambda: self.keying.handle_timeout(self._path, self.now), blow)

    def talk(self, blow: Blow | None = None) -> None:
        """Seals a record under the live session."""
        self._do(lambda: self._say(b""), blow)

    def reset(self, blow: Blow | None = None) -> None:
        """A person takes back what this end holds of the pair (`Peer.reset_trust`)."""
        self._do(self._reset, blow)

    # what comes out

    def take_sent(self) -> list[Raw]:
        sent, self._sent = self._sent, []
        return sent

    def take_took(self) -> list[int]:
        took, self.took = self.took, []
        return took

    # the lane (`fabric.dataplane.contract.Lane`)

    def admit(self, peer: str, port: Port) -> None:
        pass

    def dismiss(self, peer: str) -> None:
        for index in list(self.keys):
            self.retire(index)

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None:
        self.keys[keys.local_index] = keys

    def promote(self, local_index: int) -> None:
        if not self.is_symbolic:
            return
        exporter, root, is_resumed = symbolic.words(self.keys[local_index].seal_key)
        is_unproven = self.is_client and bool(is_resumed)
        roots = (root, exporter) if is_unproven else (exporter,)
        if self.checks_order and self._names(self.disk.roots) != roots:
            raise BreachError("a session is live before the disk has its root, and that root alone")
        if not self.is_client:
            self.took.append(root)
        if not is_unproven:
            self._forget_origin(local_index)

    def retire(self, local_index: int) -> None:
        self.keys.pop(local_index, None)

    def steer(self, peer: str, to: Address | None, payload_limit: int, copy_to: Address | None = None) -> None:
        pass

    def send_control(self, local_index: int, payload: bytes, to: Address, *, whole: bool = False) -> None:
        keys = self.keys.get(local_index)
        if keys is not None:
            self._said.append(Raw(index=keys.remote_index, key=keys.seal_key, payload=payload))

    def counters(self, peer: str) -> PeerCounters:
        return PeerCounters(0, 0, {})

    def drops(self) -> Mapping[Drop, int]:
        return {}

    # the driver

    def store_all(self) -> None:
        """Until there is nothing more to store: the disk first, then whoever waits for it."""
        while self._unstored:
            self.keep(self._unstored.popleft())
            self._handle_stored()

    def send_all(self) -> None:
        """What the core sends, and behind it what the lane has."""
        for message in drain(lambda: self._transmits.popleft() if self._transmits else None):
            if self.is_symbolic and self.checks_order and message:
                self._check_message(message)
            self._sent.append(Raw(message=message))
        self._sent += self._said
        self._said = []

    def keep(self, entangled: Entangled) -> None:
        """One write: what is held of the pair, as a whole."""
        self.writes += 1
        is_struck = self._blow is not None and self._blow.at == self.writes
        if is_struck and self._blow is not None and not self._blow.is_stored:
            raise CrashError
        self.disk = entangled
        if is_struck:
            raise CrashError

    def _drive(self) -> None:
        self.store_all()
        self.send_all()

    def _handle_stored(self) -> None:
        self.keying.handle_stored(self.now)
        confirming, self._confirming = self._confirming, None
        if confirming is not None and confirming[0] in self.keys:
            self.took.append(confirming[1])
            self._forget_origin(confirming[0])
        self._settle()

    # inside

    def _forget_memory(self) -> None:
        self._memory = self._stored = self.disk
        self._unstored = deque()
        self._transmits = deque()
        self._said = []
        self.keys = {}
        self.took = []
        self._confirming = None
        self.writes = 0
        self.is_refused = False
        self.freshness = Credulous()
        certificate = town.identity(self._peer).certificate
        identity = town.identity(self.name)
        check = (lambda _: certificate) if self.is_symbolic else _checked(identity, self._peer)
        self.keying = Keying(self._surroundings(identity), self._peer, check, self, self._remembered, steps=self._steps)

    def _remembered(self) -> bytes | None:
        return town.identity(self._peer).certificate.der if self._has_tickets else None

    def _surroundings(self, identity: Identity) -> Surroundings:
        settings = Settings(rekey_after_s=1e9, session_life_s=SESSION_S, entangle=self._mode)
        draw = self._draw
        return Surroundings(
            identity=identity,
            lane=self,
            calendar=Calendar(UNIX),
            draw=draw,
            settings=settings,
            allocate_index=lambda: int.from_bytes(draw(4)),
            allocate_gate_index=_never,
            is_overlay=_never,
            check_address=_never,
            can_pass_on=_never,
            here=_never,
            hole_interval_s=_never,
        )

    def _attempt(self) -> object | None:
        negotiation = self.keying._negotiation
        return negotiation._attempt if isinstance(negotiation, ClientNegotiation) else None

    def _do(self, act: Callable[[], None], blow: Blow | None) -> None:
        self.writes, self._blow = 0, blow
        negotiation = self.keying._negotiation
        if isinstance(negotiation, ClientNegotiation):
            negotiation.may_begin_at = self.now
        else:
            negotiation._pace = Unpaced()
        try:
            act()
            self._settle()
            self._drive()
        except CrashError:
            self.start()
        self._end_stragglers()

    def _end_stragglers(self) -> None:
        """More than one replaced session is more than ten seconds of replacing: the older ones are gone by then."""
        straggling = self.keying._sessions._straggling
        for index in list(straggling)[:-1]:
            del straggling[index]
            self.retire(index)

    def _forget_origin(self, local_index: int) -> None:
        """The exporter's name tells the keys from all others: what they were made from is of no more account."""
        keys = self.keys[local_index]
        key = symbolic.session_key(symbolic.words(keys.seal_key)[0], symbolic.NOBODY)
        self.keys[local_index] = dataclasses.replace(keys, seal_key=key, open_key=key)

    def _hear(self, raw: Raw, source: Address) -> None:
        if raw.message:
            try:
                self.keying.handle_message_untrusted(source, raw.message, self.freshness, self.now)
            except (AuthenticationError, DecodeError):
                return
        elif raw.index is None:
            self.keying.want()
        else:
            self._open(raw)

    def _open(self, raw: Raw) -> None:
        index = raw.index
        keys = self.keys.get(index) if index is not None else None
        if keys is None or index is None or not self._is_same_key(keys.open_key, raw.key):
            return
        is_confirming = self.keying._sessions.awaits(index) or self.keying._unproven == index
        if self.is_symbolic and self.is_client and is_confirming:
            self._confirming = index, symbolic.words(keys.seal_key)[1]
        self.keying.handle_opened(Traffic(self._peer, index, 1, 0, self.now, None, 0, None), self.now)
        self._settle()
        if not raw.payload or not self.keying.holds(index):
            return
        if isinstance(decode_control(raw.payload), Close) and not self.keying.is_left(index):
            self.keying.end()

    def _is_same_key(self, ours: bytes, theirs: bytes) -> bool:
        return ours[:4] == theirs[:4] if self.is_symbolic else ours == theirs

    def _wait(self) -> None:
        due = self.keying.next_timeout()
        if due is not None and due - self.now < FAR_S:
            self.now = max(self.now, due)
            self.keying.handle_timeout(self._path, self.now)

    def _say(self, payload: bytes) -> None:
        live = self.keying.live
        if live is not None:
            self.send_control(live.local_index, payload, self._path.address)

    def _reset(self) -> None:
        self._say(encode_control(Close(CloseReason.STOPPED)))
        self.keying.end()
        self.dismiss(self._peer)
        self.hold(UNMET)
        self.is_refused = False

    def _settle(self) -> None:
        """As `Peer._settle`, with a path that always stands."""
        self._drain_keying()
        self.keying.pursue(self._path, self.now)
        self._drain_keying()
        if self._memory != self._stored:
            self._stored = self._memory
            self._unstored.append(self._memory)

    def _drain_keying(self) -> None:
        for event in drain(self.keying.poll_event):
            match event:
                case Met():
                    self.is_refused = False
                case Collided():
                    self._say(encode_control(Close(CloseReason.STOPPED)))
                    self.keying.end_sessions()
                    self.dismiss(self._peer)
                case Rebuffed():
                    self.is_refused = True
                case CallDue():
                    self._transmits.append(b"")
                case _:
                    pass
        for outgoing in drain(self.keying.poll_outgoing):
            self._transmits.append(outgoing.message)

    def _names(self, roots: tuple[bytes, ...]) -> tuple[int | None, ...]:
        return tuple(symbolic.name_of(root) for root in roots)

    def _check_message(self, message: bytes) -> None:
        """What a message says of the root is on the disk by the time that it leaves (rules 2, 3 and 7)."""
        if message[0] not in (MessageKind.ANSWER, MessageKind.FINISH):
            return
        _, kind, *rest = symbolic.words(message)
        roots, is_alarmed = self._names(self.disk.roots), self.disk.alarm is not None
        if kind == ProofKind.ALARM:
            is_kept = is_alarmed
        elif kind == ProofKind.MISMATCH:
            is_kept = is_alarmed or not roots or self._mode is not Entangle.ENFORCE
        elif message[0] == MessageKind.ANSWER:
            is_kept = kind == ProofKind.NONE or rest[2] in roots
        else:
            is_kept = roots == (rest[1], rest[2]) if kind == ProofKind.PROOF else roots == (rest[2],)
        if not is_kept:
            said = f"{MessageKind(message[0]).name}({ProofKind(kind).name})"
            raise BreachError(f"{said} leaves before what it says is on the disk")


def _checked(identity: Identity, peer: str) -> Callable[[bytes], Any]:
    return lambda der: identity.trust.check(der, name=peer, unix=UNIX, pinned_key=None)


def _never(*_: object) -> Any:
    raise NotImplementedError("no part of the walk")
