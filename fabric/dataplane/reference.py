"""The lane in pure Python: the definition of correct, frame by frame, and as fast as that gets.

    frames from the TAP --look up--> port --wait, fill--> record --seal--> datagrams
    datagrams --index--> session --window, open, mark--> record --source guard--> learn --> frames to the TAP
              --else--> returned, for core

Per frame there is no await, no exception on the usual path, and one allocation each for record and datagram
(`encrypt_into` a ring of buffers was measured: no faster, as its memoryview slices cost what they save).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address

from fabric.core.machine import Instant
from fabric.core.switch import Switch
from fabric.dataplane.contract import Control, Drop, PeerCounters, Port, SessionKeys, Traffic
from fabric.dataplane.guard import SourceGuard
from fabric.dataplane.neighbours import Neighbours
from fabric.dataplane.peer_port import Outlet, PeerPort
from fabric.dataplane.session import Session, data_prefix
from fabric.dataplane.superframe import complete_checksum, shape_of
from fabric.errors import DecodeError
from fabric.wire.address import Address, Target, Transport, address_of, target_of
from fabric.wire.datagram import DATA_TYPE
from fabric.wire.ethernet import link_local_ip
from fabric.wire.record import (
    CONTROL_FLAG,
    FRAMES_HEAD,
    MIN_FRAME_BYTES,
    SLICE_HEAD,
    VNET_FLAG,
    ControlRecord,
    Empty,
    Frames,
    RecordKind,
    Slice,
    UnknownRecord,
    decode_record,
    is_control,
)
from fabric.wire.relay import RELAYED_TYPE
from fabric.wire.vnet import GSO_NONE, NEEDS_CSUM, NO_VNET, VNET_BYTES, decode_vnet

_DATA = bytes((DATA_TYPE,))
_RELAYED = bytes((RELAYED_TYPE,))
_HEAD_BYTES = FRAMES_HEAD.size
_SLICE = int(RecordKind.SLICE)
_FRAMES = int(RecordKind.FRAMES)
_LEAST_BYTES = SLICE_HEAD.size + 1 - _HEAD_BYTES
"""Behind the head of a record of frames; what has less is decoded with care, for it is rare."""

_GUARDED_BYTES = VNET_BYTES + 14 + 2 * 4 + 60 + 60
"""All headers that a super-frame can have: Ethernet, two tags, IP, TCP."""

_NEVER: Instant = math.inf
_NOTHING = PeerCounters(0, 0, {})


class ReferenceLane:
    """Implements `contract.Lane`, and the hot side that a pump or a simulator drives.

    `mac` and `addresses` are this endpoint's own on the overlay: no port ever gets them.
    """

    def __init__(self, mac: bytes, addresses: Iterable[IPv4Address | IPv6Address] = ()) -> None:
        self._mac = mac
        self._addresses = frozenset(address.packed for address in addresses)
        self._switch: Switch[PeerPort] = Switch(mac)
        self._neighbours = Neighbours()
        self._ports: dict[str, PeerPort] = {}
        self._sessions: dict[int, Session] = {}
        self._inlets: dict[bytes, tuple[Session, PeerPort]] = {}
        self._reassembling: dict[int, Session] = {}
        self._outlet = Outlet()
        self._frames: list[bytes] = []
        self._controls: list[Control] = []
        self._drops: Counter[Drop] = Counter()
        self._unopened = 0
        self._now: Instant = 0.0
        self._due = _NEVER
        self._is_urgent = False

    # The steering side: see `contract.Lane`.

    def admit(self, peer: str, port: Port) -> None:
        """A port whose MAC another peer or this host has is not admitted; neither are such addresses of it."""
        known = self._ports.get(peer)
        if known is not None and known.port == port:
            return
        admitted = known or PeerPort(peer, port, SourceGuard(self._mac, port, ()), self._outlet)
        if not self._switch.add(admitted, port.mac):
            self.dismiss(peer)
            return
        self._neighbours.remove(admitted.port.mac)
        admitted.port, admitted.guard = port, self._guard(port)
        self._ports[peer] = admitted

    def dismiss(self, peer: str) -> None:
        port = self._ports.pop(peer, None)
        if port is None:
            return
        self._switch.remove(port)
        self._neighbours.remove(port.port.mac)
        for index in [index for index, session in self._sessions.items() if session.peer == peer]:
            self._wipe(index)

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None:
        """The same keys again are ignored: their counters must not begin anew."""
        port = self._ports.get(keys.peer)
        known = self._sessions.get(keys.local_index)
        if port is None or (known is not None and known.is_made_from(keys)):
            return
        self.retire(keys.local_index)
        session = self._sessions[keys.local_index] = Session(keys, awaiting=awaiting)
        self._inlets[data_prefix(keys.local_index)] = session, port

    def promote(self, local_index: int) -> None:
        session = self._sessions.get(local_index)
        if session is None:
            return
        port = self._ports[session.peer]
        port.seal_with(session)
        session.awaiting = False
        held, session.held = session.held, []
        for plain in held:
            self._handle_record(plain, session, port, None)

    def retire(self, local_index: int) -> None:
        session = self._sessions.get(local_index)
        if session is None:
            return
        port = self._ports[session.peer]
        if port.sealing is session:
            port.seal_with(None)
        self._wipe(local_index)

    def steer(self, peer: str, to: Address | None, payload_limit: int, copy_to: Address | None = None) -> None:
        port = self._ports.get(peer)
        if port is not None:
            target = target_of(to) if to is not None else None
            copy_target = target_of(copy_to) if copy_to is not None else None
            port.steer(target, payload_limit, copy_target, self._now)

    def send_control(self, local_index: int, payload: bytes, to: Address, *, whole: bool = False) -> None:
        session = self._sessions.get(local_index)
        if session is not None:
            self._ports[session.peer].put_control(session, payload, target_of(to), whole=whole)

    def counters(self, peer: str) -> PeerCounters:
        port = self._ports.get(peer)
        return port.counters if port is not None else _NOTHING

    def drops(self) -> Mapping[Drop, int]:
        return dict(self._drops)

    # The hot side.

    def handle_frames(self, frames: Sequence[bytes], now: Instant) -> None:
        """Takes what this host sends: a batch that waited together, each a vnet header and an Ethernet frame."""
        self._now = now
        look_up = self._switch.look_up
        for item in frames:
            frame = item[VNET_BYTES:]
            if item[:VNET_BYTES] != NO_VNET:
                self._handle_unfinished(item[:VNET_BYTES], frame, now)
                continue
            port = look_up(frame[:6])
            if port is not None:
                port.put(frame, now)
            else:
                self._handle_unaddressed(frame, now)
        unflushed = self._outlet.unflushed
        for port in unflushed:
            port.flush(now)
        unflushed.clear()

    def handle_datagrams(self, batch: Sequence[tuple[bytes, Target]], now: Instant) -> list[tuple[bytes, Target]]:
        """Takes UDP payloads and their sources; returns those that are not DATA, untouched."""
        self._now = now
        if now >= self._due:
            self._age_slices(now)
        leftovers: list[tuple[bytes, Target]] = []
        find, pack_head = self._inlets.get, FRAMES_HEAD.pack
        for item in batch:
            datagram, source = item
            inlet = find(datagram[:8])
            if inlet is None:
                leftovers += self._handle_unknown(item)
                continue
            session, port = inlet
            plain = session.open(datagram)
            if not isinstance(plain, bytes):
                self._unopened += port.count_unopened(plain, source, now) and _is_by_main(source)
                continue
            session.opened += 1
            session.last_opened = now
            if source != port.target and source != port.copy_target:  # noqa: PLR1714  (no tuple for each frame)
                session.source = source
            if not session.touched:
                session.touched = True
                self._outlet.unreported.append(session)
                self._is_urgent |= session.awaiting
            frame_bytes = len(plain) - _HEAD_BYTES
            if frame_bytes < _LEAST_BYTES or session.awaiting:
                self._handle_record(plain, session, port, source)
            elif plain[0] == _SLICE and plain[3] == VNET_FLAG:
                finished = session.reassembly.handle_super_slice(plain, now)
                if finished is not None:
                    self._handle_finished(finished, session, port)
            elif plain[:_HEAD_BYTES] == pack_head(_FRAMES, frame_bytes):
                self._handle_frame(plain[_HEAD_BYTES:], port)
            else:
                self._handle_record(plain, session, port, source)
        return leftovers

    def handle_asks(self, _now: Instant) -> list[tuple[bytes, Target]]:
        """Nothing: this lane asks for nothing, as no thread of its own carries frames."""
        return []

    def take_too_long(self) -> list[tuple[Target, int]]:
        """Nothing: it sends nothing itself."""
        return []

    def take_datagrams(self) -> list[tuple[bytes, Target]]:
        """Returns the UDP payloads to send and where to, in order, and forgets them."""
        datagrams = self._outlet.datagrams[:]
        self._outlet.datagrams.clear()
        return datagrams

    def take_frames(self) -> list[bytes]:
        """Returns the frames for this host, in order, each with its vnet header before it, and forgets them."""
        frames, self._frames = self._frames, []
        return frames

    def take_controls(self) -> list[Control]:
        """To be handed to core after the traffic that was taken before it: a first record promotes its session."""
        controls, self._controls = self._controls, []
        return controls

    @property
    def is_urgent(self) -> bool:
        """Whether core should take the traffic now, not some time: a session waits to be promoted."""
        return self._is_urgent

    @property
    def unopened(self) -> int:
        """How many datagrams have come so far by main sockets that opened under no session, copies apart: strangers'
        work, or a handshake."""
        return self._unopened

    @property
    def indices(self) -> Collection[int]:
        """Of all sessions that are installed."""
        return self._sessions.keys()

    def destinations(self) -> list[Target]:
        """Where records go to at present."""
        ways = ((port.target, port.copy_target) for port in self._ports.values())
        return [to for pair in ways for to in pair if to is not None]

    def take_traffic(self) -> list[Traffic]:
        """Returns one report for each session on which records of frames were sealed, or any opened."""
        self._is_urgent = False
        sessions = self._outlet.unreported[:]
        self._outlet.unreported.clear()
        return [session.take_report() for session in sessions if self._sessions.get(session.local_index) is session]

    def handle_timeout(self, now: Instant) -> None:
        """Drops what has waited for too long; what has waited for long enough is among the frames to take then."""
        self._now = now
        self._switch.age(now)
        self._age_slices(now)

    def next_timeout(self) -> Instant | None:
        """When a super-frame with a hole is to be delivered as far as it came, or something forgotten."""
        nexts = (self._switch.next_timeout(), *self._slice_timeouts())
        return min((at for at in nexts if at is not None), default=None)

    def count_drop(self, reason: Drop, count: int) -> None:
        """Counts what the caller could not carry to or from the lane."""
        self._drops[reason] += count

    def _guard(self, port: Port) -> SourceGuard:
        packed = (link_local_ip(port.mac), *(address.packed for address in port.addresses))
        own = [ip for ip in packed if ip not in self._addresses and self._neighbours.add(ip, port.mac)]
        return SourceGuard(self._mac, port, own)

    def _wipe(self, local_index: int) -> None:
        session = self._sessions.pop(local_index)
        self._inlets.pop(data_prefix(local_index))
        self._reassembling.pop(local_index, None)
        session.wipe()

    def _handle_unknown(self, item: tuple[bytes, Target]) -> Sequence[tuple[bytes, Target]]:
        """Returns what is not DATA."""
        datagram, source = item
        self._unopened += _is_by_main(source) and not datagram.startswith(_RELAYED)  # what is in it is still to come
        if datagram[:1] != _DATA:
            return (item,)
        self._drops[Drop.UNKNOWN_INDEX if len(datagram) >= 8 else Drop.MALFORMED] += 1
        return ()

    def _handle_unfinished(self, vnet_header: bytes, frame: bytes, now: Instant) -> None:
        """What the kernel left undone: a checksum, or the cutting of a super-frame."""
        try:
            vnet = decode_vnet(vnet_header)
            if vnet.gso_type != GSO_NONE:
                self._handle_super_frame(vnet_header, frame, now)
                return
            whole = complete_checksum(vnet, frame) if vnet.flags & NEEDS_CSUM else frame
        except DecodeError:
            self._drops[Drop.MALFORMED] += 1
            return
        port = self._switch.look_up(frame[:6])
        if port is not None:
            port.put(whole, now)
        else:
            self._handle_unaddressed(whole, now)

    def _handle_super_frame(self, vnet_header: bytes, frame: bytes, now: Instant) -> None:
        """Raises `DecodeError` where the vnet header doesn't fit the frame."""
        port = self._switch.look_up(frame[:6])
        if port is not None:
            port.put_super_frame(vnet_header, frame, now)
            return
        shape_of(vnet_header, frame)
        for port in self._switch.flood():
            if port.sealing is not None and port.target is not None:
                port.put_super_frame(vnet_header, frame, now)

    def _handle_unaddressed(self, frame: bytes, now: Instant) -> None:
        """Broadcast, multicast, or a MAC that nobody is known to have: to every port, unless we know the answer."""
        if len(frame) < MIN_FRAME_BYTES:
            self._drops[Drop.MALFORMED] += 1
            return
        answer = self._neighbours.answer(frame) if frame[0] & 1 else None
        if answer is not None:
            self._frames.append(NO_VNET + answer)
            return
        for port in self._switch.flood():
            if port.sealing is not None and port.target is not None:
                port.put(frame, now)

    def _handle_record(self, plain: bytes, session: Session, port: PeerPort, source: Target | None) -> None:
        """Anything but one frame in a live session; `source` is None for what was held."""
        if session.awaiting and plain and not is_control(plain):
            if not session.hold(plain):
                port.count_drop(Drop.HELD)
            return
        try:
            record = decode_record(plain)
        except DecodeError:
            port.count_drop(Drop.MALFORMED)
            return
        match record:
            case Frames(frames):
                for frame in frames:
                    self._handle_frame(frame, port)
            case Slice():
                self._handle_slice(plain, record, session, port, source)
            case ControlRecord(message):
                self._handle_control(message, session, source)
            case UnknownRecord():
                port.count_drop(Drop.UNKNOWN_KIND)
            case Empty():
                pass

    def _handle_control(self, message: bytes, session: Session, source: Target | None) -> None:
        if source is not None:
            self._controls.append(Control(session.peer, session.local_index, message, address_of(source)))

    def _handle_slice(
        self, plain: bytes, piece: Slice, session: Session, port: PeerPort, source: Target | None
    ) -> None:
        """Other flags are of a later version."""
        if piece.flags == VNET_FLAG:
            self._handle_finished(session.reassembly.handle_super_slice(plain, self._now) or (), session, port)
            return
        if piece.flags not in (0, CONTROL_FLAG):
            port.count_drop(Drop.UNKNOWN_KIND)
            return
        whole = session.reassembly.handle_slice(piece, self._now)
        self._note_reassembly(session, port)
        if whole is None:
            return
        if piece.flags:
            self._handle_control(whole, session, source)
        elif len(whole) < MIN_FRAME_BYTES:
            port.count_drop(Drop.MALFORMED)
        else:
            self._handle_frame(whole, port)

    def _handle_finished(self, finished: Sequence[bytes], session: Session, port: PeerPort) -> None:
        """Super-frames and runs of such, each with its vnet header before it."""
        for item in finished:
            if self._may_enter(item[VNET_BYTES:_GUARDED_BYTES], port):
                port.count_received(len(item) - VNET_BYTES)
                self._frames.append(item)
        self._note_reassembly(session, port)

    def _age_slices(self, now: Instant) -> None:
        for session in list(self._reassembling.values()):
            self._handle_finished(session.reassembly.handle_timeout(now), session, self._ports[session.peer])
        self._due = min((at for at in self._slice_timeouts() if at is not None), default=_NEVER)

    def _slice_timeouts(self) -> Iterable[Instant | None]:
        return (session.reassembly.next_timeout() for session in self._reassembling.values())

    def _note_reassembly(self, session: Session, port: PeerPort) -> None:
        """To be called after whatever may have begun, ended or dropped something partial."""
        dropped, malformed = session.reassembly.take_drops()
        if dropped:
            port.count_drop(Drop.REASSEMBLY, dropped)
        if malformed:
            port.count_drop(Drop.MALFORMED, malformed)
        due = session.reassembly.next_timeout()
        if due is None:
            self._reassembling.pop(session.local_index, None)
        else:
            self._reassembling[session.local_index] = session
            self._due = min(self._due, due)

    def _handle_frame(self, frame: bytes, port: PeerPort) -> None:
        verdict = port.guard.check(frame)
        if verdict is not None:
            port.count_drop(verdict)
            return
        if port.port.bridge and not self._switch.learn(frame[6:12], port, self._now):
            port.count_drop(Drop.SOURCE_GUARD)
            return
        port.count_received(len(frame))
        self._frames.append(NO_VNET + frame)

    def _may_enter(self, head: bytes, port: PeerPort) -> bool:
        verdict = port.guard.check(head)
        if verdict is None and port.port.bridge and not self._switch.learn(head[6:12], port, self._now):
            verdict = Drop.SOURCE_GUARD
        if verdict is not None:
            port.count_drop(verdict)
        return verdict is None


def _is_by_main(source: Target) -> bool:
    """A filter can be given to the main sockets alone, and relays over UDP come in by these."""
    return len(source) == 2 or source[2] is Transport.RELAY_UDP
