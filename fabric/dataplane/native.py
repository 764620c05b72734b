"""The lane in C and its half in Python: C touches frames, Python what is rare: ports, keys, questions, news.

    C  --asks-->   unaddressed frames, datagrams that are not DATA, messages for core, what a glance can't judge
       <--steer--  ports, MACs, sessions, addresses

`attach` lets two threads carry frames between the device and the main UDP sockets; without it, or beside it for all
other ways that datagrams come, the lane is driven like the reference lane.
"""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

from fabric.core.machine import Instant
from fabric.core.switch import Switch
from fabric.dataplane.contract import Control, Drop, PeerCounters, Port, SessionKeys, Traffic
from fabric.dataplane.guard import SourceGuard
from fabric.dataplane.neighbours import Neighbours
from fabric.dataplane.segment import segment
from fabric.dataplane.session import MAX_HELD
from fabric.dataplane.superframe import complete_checksum, shape_of
from fabric.errors import DecodeError
from fabric.wire.address import Address, Target, Transport, address_of, target_of
from fabric.wire.datagram import DATA_OVERHEAD_BYTES, MAX_GATED_BYTES
from fabric.wire.ethernet import link_local_ip
from fabric.wire.record import (
    CONTROL_FLAG,
    MAX_CONTROL_BYTES,
    MAX_FRAME_BYTES,
    MIN_FRAME_BYTES,
    ControlRecord,
    Empty,
    encode_record,
    slice_frame,
)
from fabric.wire.vnet import GSO_NONE, NEEDS_CSUM, NO_VNET, VNET_BYTES, decode_vnet

if TYPE_CHECKING:
    from fabric.dataplane._native import Lane

DROPS = (
    Drop.MALFORMED,
    Drop.UNKNOWN_INDEX,
    Drop.AUTHENTICATION,
    Drop.REPLAY,
    Drop.COPY,
    Drop.UNKNOWN_KIND,
    Drop.SOURCE_GUARD,
    Drop.NO_SESSION,
    Drop.NO_PATH,
    Drop.OVERSIZE,
    Drop.EXHAUSTED,
    Drop.BACKPRESSURE,
    Drop.REASSEMBLY,
    Drop.QUEUE,
)
"""As `enum drop` of lane.h counts them."""


class _Ask(enum.IntEnum):
    """As `enum ask_kind` of lane.h has them."""

    UNADDRESSED = 0
    LEFTOVER = 1
    RECORD = 2
    CONTROL = 3
    FRAME = 4
    SEND = 5
    TOO_LONG = 6
    SEGMENT = 7


_MOST_BYTES = MAX_FRAME_BYTES + 64
"""Of a frame and its vnet header: what C takes. It counts what no record or slices can carry."""

_NOTHING = PeerCounters(0, 0, {})


@dataclass(slots=True, eq=False)
class _Member:
    """A port as Python knows it. `number` is its name in C."""

    number: int
    name: str
    port: Port
    guard: SourceGuard
    drops: Counter[Drop] = field(default_factory=Counter)
    limit: int = 0
    to: Target | None = None
    copy_to: Target | None = None
    sealing: int | None = None


@dataclass(slots=True)
class _Session:
    member: _Member
    keys: int
    awaiting: bool
    held: list[bytes] = field(default_factory=list)


class NativeLane:
    """Implements `contract.Lane`, and the hot side, as `reference.ReferenceLane` does.

    `lane` is the one in C, made for the same `mac`.
    """

    def __init__(self, lane: Lane, mac: bytes, addresses: Iterable[IPv4Address | IPv6Address] = ()) -> None:
        self.lane = lane
        self._mac = mac
        self._addresses = frozenset(address.packed for address in addresses)
        self._switch: Switch[_Member] = Switch(mac)
        self._neighbours = Neighbours()
        self._members: dict[str, _Member] = {}
        self._by_number: dict[int, _Member] = {}
        self._sessions: dict[int, _Session] = {}
        self._learned: dict[bytes, _Member] = {}
        self._next_number = 0
        self._frames: list[bytes] = []
        self._datagrams: list[tuple[bytes, Target]] = []
        self._controls: list[Control] = []
        self._leftovers: list[tuple[bytes, Target]] = []
        self._too_long: list[tuple[Target, int]] = []
        self._drops: Counter[Drop] = Counter()
        self._now: Instant = 0.0
        self._due: Instant | None = None  # beside threads: what came by other ways, of which they sleep on
        self._is_attached = False

    # The steering side: see `contract.Lane`.

    def admit(self, peer: str, port: Port) -> None:
        """A port whose MAC another peer or this host has is not admitted; neither are such addresses of it."""
        known = self._members.get(peer)
        if known is not None and known.port == port:
            return
        if known is None:
            self._next_number += 1
            known = _Member(self._next_number, peer, port, SourceGuard(self._mac, port, ()))
        if not self._switch.add(known, port.mac):
            self.dismiss(peer)
            return
        old_mac = known.port.mac
        self._neighbours.remove(old_mac)
        packed = (link_local_ip(port.mac), *(address.packed for address in port.addresses))
        own = tuple(ip for ip in packed if ip not in self._addresses and self._neighbours.add(ip, port.mac))
        known.port, known.guard = port, SourceGuard(self._mac, port, own)
        self._members[peer] = self._by_number[known.number] = known
        self.lane.add_port(known.number, port.mac, own, port.bridge)
        if old_mac != port.mac:
            self.lane.unmap_mac(old_mac)
        self._learned.pop(port.mac, None)
        self.lane.map_mac(port.mac, known.number)

    def dismiss(self, peer: str) -> None:
        member = self._members.pop(peer, None)
        if member is None:
            return
        del self._by_number[member.number]
        self._switch.remove(member)
        self._neighbours.remove(member.port.mac)
        self._sessions = {index: s for index, s in self._sessions.items() if s.member is not member}
        self._learned = {mac: owner for mac, owner in self._learned.items() if owner is not member}
        self.lane.remove_port(member.number)

    def install(self, keys: SessionKeys, *, awaiting: bool) -> None:
        """The same keys again are ignored: their counters must not begin anew."""
        member = self._members.get(keys.peer)
        known = self._sessions.get(keys.local_index)
        if member is None or (known is not None and known.keys == hash(keys)):
            return
        self.retire(keys.local_index)
        self.lane.install(
            member.number,
            keys.local_index,
            keys.remote_index,
            keys.suite,
            keys.seal_key,
            keys.open_key,
            awaiting,
        )
        self._sessions[keys.local_index] = _Session(member, hash(keys), awaiting)

    def promote(self, local_index: int) -> None:
        session = self._sessions.get(local_index)
        if session is None:
            return
        self.lane.set_live(local_index)
        session.member.sealing = local_index
        session.awaiting = False
        held, session.held = session.held, []
        for plain in held:
            self.lane.handle_record(local_index, plain, self._now)
        self._settle()

    def retire(self, local_index: int) -> None:
        session = self._sessions.pop(local_index, None)
        if session is None:
            return
        if session.member.sealing == local_index:
            session.member.sealing = None
        self.lane.retire(local_index)

    def steer(self, peer: str, to: Address | None, payload_limit: int, copy_to: Address | None = None) -> None:
        member = self._members.get(peer)
        if member is None:
            return
        target = target_of(to) if to is not None else None
        copy_target = target_of(copy_to) if copy_to is not None else None
        copied = copy_target if target is not None and copy_target != target else None
        member.limit, member.to, member.copy_to = payload_limit, target, copied
        self.lane.steer(member.number, target, payload_limit, copy_target, self._now)

    def send_control(self, local_index: int, payload: bytes, to: Address, *, whole: bool = False) -> None:
        session = self._sessions.get(local_index)
        if session is None:
            return
        member = session.member
        record = encode_record(ControlRecord(payload) if payload else Empty())
        room = (member.limit or MAX_GATED_BYTES) - DATA_OVERHEAD_BYTES
        parts = [record]
        if not whole and len(record) > room:
            parts = slice_frame(payload, room, self.lane.next_slice_id(member.number), CONTROL_FLAG)
        if not parts or len(payload) > MAX_CONTROL_BYTES:
            member.drops[Drop.OVERSIZE] += 1
            return
        target = target_of(to)
        for part in parts:
            datagram = self.lane.seal(local_index, part)
            if datagram is None:
                member.drops[Drop.EXHAUSTED] += 1
                return
            self._datagrams.append((datagram, target))

    def counters(self, peer: str) -> PeerCounters:
        member = self._members.get(peer)
        if member is None:
            return _NOTHING
        rx_bytes, tx_bytes, drops = self.lane.counters(member.number)
        return PeerCounters(rx_bytes, tx_bytes, _sum(member.drops, drops))

    def drops(self) -> Mapping[Drop, int]:
        return _sum(self._drops, self.lane.drops())

    # The hot side: see `reference.ReferenceLane`.

    def handle_frames(self, frames: Sequence[bytes], now: Instant) -> None:
        self._now = now
        self.lane.handle_frames([item for item in frames if self._is_takeable(item)], now)
        self._settle()

    def handle_datagrams(self, batch: Sequence[tuple[bytes, Target]], now: Instant) -> list[tuple[bytes, Target]]:
        """Beside threads what is not DATA is left to `handle_asks`, for which the bell has rung: theirs comes all the
        time, and who were given it here, for each batch anew, might never come to an end."""
        self._now = now
        self._age_slices(now)
        self.lane.handle_datagrams(list(batch), now)
        self._settle()
        if not self._is_attached:
            return self._take_leftovers()
        self._due = self.lane.next_timeout()
        return []

    def handle_asks(self, now: Instant) -> list[tuple[bytes, Target]]:
        """Does what the threads have asked for; returns the datagrams that are not DATA."""
        self._now = now
        self._settle()
        return self._take_leftovers()

    def take_datagrams(self) -> list[tuple[bytes, Target]]:
        datagrams, self._datagrams = self._datagrams, []
        return self.lane.take_datagrams() + datagrams

    def take_frames(self) -> list[bytes]:
        frames, self._frames = self._frames, []
        return self.lane.take_frames() + frames

    def take_controls(self) -> list[Control]:
        controls, self._controls = self._controls, []
        return controls

    def take_too_long(self) -> list[tuple[Target, int]]:
        """Returns what this host's own devices refused to carry: where to, and the length in bytes."""
        too_long, self._too_long = self._too_long, []
        return too_long

    @property
    def is_urgent(self) -> bool:
        return self.lane.is_urgent()

    @property
    def unopened(self) -> int:
        return self.lane.unopened()

    @property
    def indices(self) -> Collection[int]:
        return self._sessions.keys()

    def destinations(self) -> list[Target]:
        ways = ((member.to, member.copy_to) for member in self._by_number.values())
        return [to for pair in ways for to in pair if to is not None]

    def take_traffic(self) -> list[Traffic]:
        reports = self.lane.take_traffic()
        return [
            Traffic(
                peer=self._by_number[number].name,
                local_index=index,
                opened=opened,
                sealed=sealed,
                last_opened=last_opened if opened else None,
                last_sealed=last_sealed if sealed else None,
                highest_sealed_counter=counter,
                source=_address(source),
            )
            for number, index, opened, sealed, last_opened, last_sealed, counter, source in reports
        ]

    def handle_timeout(self, now: Instant) -> None:
        self._now = now
        for mac in self.lane.take_seen():
            member = self._learned.get(mac)
            if member is not None:
                self._switch.learn(mac, member, now)
        self._switch.age(now)
        for mac in [mac for mac in self._learned if self._switch.look_up(mac) is None]:
            del self._learned[mac]
            self.lane.unmap_mac(mac)
        self._due = None
        self.lane.handle_timeout(now)
        self._settle()

    def next_timeout(self) -> Instant | None:
        nexts = (self._switch.next_timeout(), self._due if self._is_attached else self.lane.next_timeout())
        return min((at for at in nexts if at is not None), default=None)

    def count_drop(self, reason: Drop, count: int) -> None:
        self._drops[reason] += count

    # The threads.

    def attach(self, tap: int, ipv4: int, ipv6: int, ask_event: int, news_event: int) -> None:
        """Starts them, between these non-blocking descriptors, -1 for a socket that there is not.

        They write to `ask_event` when `handle_asks` is to be called, to `news_event` when `take_traffic` has something.
        Raises `OSError`.
        """
        self.lane.attach(tap, ipv4, ipv6, ask_event, news_event)
        self._is_attached = True

    def detach(self) -> None:
        """Ends them; no frame is carried any more."""
        self.lane.detach()
        self._is_attached = False

    def check(self) -> None:
        """Raises the `OSError` that has ended a thread."""
        if (code := self.lane.failure()) != 0:
            raise OSError(code, f"the lane has stopped (errno {code})")

    # What C asks for.

    def _settle(self) -> None:
        for kind, number, target, payload in self.lane.take_asks():
            match kind:
                case _Ask.LEFTOVER if target is not None:
                    self._leftovers.append((payload, _target(target)))
                case _Ask.SEND if target is not None:
                    self._datagrams.append((payload, _target(target)))
                case _Ask.TOO_LONG if target is not None:
                    self._too_long.append((_target(target), number))
                case _Ask.CONTROL if target is not None:
                    self._handle_control(number, payload, target)
                case _Ask.RECORD:
                    self._hold(number, payload)
                case _Ask.FRAME:
                    self._judge(number, payload)
                case _Ask.UNADDRESSED:
                    self._handle_unaddressed(payload)
                case _Ask.SEGMENT:
                    self._segment(payload)

    def _take_leftovers(self) -> list[tuple[bytes, Target]]:
        """They wait for who takes them: also a promotion settles, and has no use for them."""
        leftovers, self._leftovers = self._leftovers, []
        return leftovers

    def _age_slices(self, now: Instant) -> None:
        """What is due leaves before what comes now. Threads see to that themselves."""
        due = None if self._is_attached else self.lane.next_timeout()
        if due is not None and due <= now:
            self.lane.handle_timeout(now)

    def _handle_control(self, local_index: int, message: bytes, source: Target) -> None:
        session = self._sessions.get(local_index)
        if session is not None:
            self._controls.append(Control(session.member.name, local_index, message, address_of(_target(source))))

    def _hold(self, local_index: int, plain: bytes) -> None:
        """A record that came before its session was promoted, or just then."""
        session = self._sessions.get(local_index)
        if session is None:
            return
        if not session.awaiting:
            self.lane.handle_record(local_index, plain, self._now)
        elif len(session.held) < MAX_HELD:
            session.held.append(plain)
        else:
            session.member.drops[Drop.HELD] += 1

    def _judge(self, number: int, item: bytes) -> None:
        """A frame that takes more than a glance: ARP, neighbour discovery, an unknown station behind a bridge."""
        member = self._by_number.get(number)
        if member is None:
            return
        frame = item[VNET_BYTES:]
        verdict = member.guard.check(frame)
        if verdict is None and member.port.bridge and not self._learn(frame[6:12], member):
            verdict = Drop.SOURCE_GUARD
        if verdict is not None:
            member.drops[verdict] += 1
            return
        self.lane.count_received(number, len(frame))
        self._frames.append(item)

    def _learn(self, mac: bytes, member: _Member) -> bool:
        if not self._switch.learn(mac, member, self._now):
            return False
        if self._switch.look_up(mac) is member and mac != member.port.mac:
            self._learned[mac] = member
            self.lane.map_mac(mac, member.number)
        return True

    def _is_takeable(self, item: bytes) -> bool:
        """No device gives what is none of a frame's lengths; it is counted as the reference lane counts it."""
        if VNET_BYTES <= len(item) <= _MOST_BYTES:
            return True
        if len(item) < VNET_BYTES:
            self._drops[Drop.MALFORMED] += 1
            return False
        member = self._switch.look_up(item[VNET_BYTES : VNET_BYTES + 6])
        for each in self._able() if member is None else (member,):
            each.drops[_unable(each) or Drop.OVERSIZE] += 1
        return False

    def _able(self) -> Iterable[_Member]:
        return [member for member in self._switch.flood() if _unable(member) is None]

    def _handle_unaddressed(self, item: bytes) -> None:
        """Broadcast, multicast, or a MAC that nobody is known to have: to every port, unless we know the answer."""
        try:
            item = _finished(item)
        except DecodeError:
            self._drops[Drop.MALFORMED] += 1
            return
        if item[:VNET_BYTES] == NO_VNET:
            frame = item[VNET_BYTES:]
            if len(frame) < MIN_FRAME_BYTES:
                self._drops[Drop.MALFORMED] += 1
                return
            answer = self._neighbours.answer(frame) if frame[0] & 1 else None
            if answer is not None:
                self._frames.append(NO_VNET + answer)
                return
        for member in self._able():
            self.lane.send_to(member.number, item, self._now)

    def _segment(self, item: bytes) -> None:
        """This host's kernel takes no super-frame of this kind."""
        try:
            self._frames += [NO_VNET + frame for frame in segment(item[:VNET_BYTES], item[VNET_BYTES:])]
        except DecodeError:
            self._drops[Drop.MALFORMED] += 1


def _unable(member: _Member) -> Drop | None:
    """Why nothing can be sent to it, or None."""
    if member.sealing is None:
        return Drop.NO_SESSION
    return None if member.to is not None else Drop.NO_PATH


def _finished(item: bytes) -> bytes:
    """Returns a frame with its checksum complete, behind its vnet header; a super-frame as it is, once it is one.

    Raises `DecodeError`.
    """
    if item[:VNET_BYTES] == NO_VNET:
        return item
    vnet = decode_vnet(item)
    frame = item[VNET_BYTES:]
    if vnet.gso_type != GSO_NONE:
        shape_of(item[:VNET_BYTES], frame)
        return item
    return NO_VNET + (complete_checksum(vnet, frame) if vnet.flags & NEEDS_CSUM else frame)


def _sum(own: Counter[Drop], counted: Sequence[int]) -> dict[Drop, int]:
    total = own + Counter(dict(zip(DROPS, counted, strict=True)))
    return {reason: count for reason, count in total.items() if count}


def _target(target: Target) -> Target:
    """C knows transports by their numbers only."""
    if len(target) == 2:
        return target
    ip, port, transport, via = target
    return ip, port, Transport(transport), via


def _address(target: Target | None) -> Address | None:
    return address_of(_target(target)) if target is not None else None
