"""What a line does to packets: loses, delays, doubles, damages, slows. Kernels without netem need it done by hand.

Pure: time and chance come in, so that it can be tested without a network. `fabric.lab.forwarder` is the program that
lets it loose on real frames.

    frame -> too long? -> lost? -> damaged? -> the line is busy until ... -> delay + jitter -> heap of due frames
                                                                                      (twice, if doubled)

Only IP packets have weather; ARP and IPv6 neighbour discovery, which real lines of this kind do not have at all, pass.
"""

from __future__ import annotations

import heapq
import itertools
import struct
from dataclasses import dataclass
from random import Random

ETHERNET_BYTES = 14
ETHERTYPE_IPV4, ETHERTYPE_IPV6 = 0x0800, 0x86DD
IPV6_HEADER_BYTES = 40
PROTOCOL_TCP, PROTOCOL_UDP, PROTOCOL_ICMP_6 = 6, 17, 58
NEIGHBOUR_DISCOVERY = range(133, 138)
CHECKSUM_AT = {PROTOCOL_TCP: 16, PROTOCOL_UDP: 6}
FRAGMENT_OFFSET = 0x1FFF


@dataclass(frozen=True, slots=True)
class Weather:
    """What one direction of a line does. Shares are 0 to 1, of packets.

    `jitter_s` is added to `delay_s`, even between minus and plus that much; packets overtake each other by it only
    with `reorders`. `repairs_checksum` makes damage that no checksum finds. Beyond `rate_mbit_s` packets wait, but
    never longer than `queue_s`, then they are lost. IP packets beyond `mtu` vanish without a word.
    """

    loss: float = 0.0
    delay_s: float = 0.0
    jitter_s: float = 0.0
    reorders: bool = False
    duplication: float = 0.0
    corruption: float = 0.0
    repairs_checksum: bool = False
    rate_mbit_s: float | None = None
    queue_s: float = 0.1
    mtu: int | None = None


CALM = Weather()


@dataclass(slots=True)
class Tally:
    """What became of the packets of one direction so far."""

    came: int = 0
    went: int = 0
    lost: int = 0
    doubled: int = 0
    damaged: int = 0
    overflowed: int = 0
    too_long: int = 0
    latest_s: float = 0.0
    """The furthest that a packet left behind the time it was due."""


class Way:
    """One direction of a line: frames go in as they come, and come out when they are due."""

    def __init__(self, seed: str) -> None:
        self.weather = CALM
        self.tally = Tally()
        self._chance = Random(seed)  # noqa: S311  weather, not a secret
        self._heap: list[tuple[float, int, bytes]] = []
        self._ordinals = itertools.count()
        self._busy_until = 0.0
        self._last_due = 0.0

    def put(self, frame: bytes, now: float) -> None:
        self.tally.came += 1
        weather = self.weather
        if not has_weather(frame):
            self._schedule(frame, now)
        elif weather.mtu is not None and len(frame) - ETHERNET_BYTES > weather.mtu:
            self.tally.too_long += 1
        elif self._happens(weather.loss):
            self.tally.lost += 1
        else:
            self._delay(self._damage(frame), now)

    def take_due(self, now: float) -> list[bytes]:
        """The frames whose time has come, in the order in which it came."""
        due: list[bytes] = []
        while self._heap and self._heap[0][0] <= now:
            when, _, frame = heapq.heappop(self._heap)
            self.tally.latest_s = max(self.tally.latest_s, now - when)
            due.append(frame)
        self.tally.went += len(due)
        return due

    def next_due(self) -> float | None:
        return self._heap[0][0] if self._heap else None

    def _delay(self, frame: bytes, now: float) -> None:
        weather = self.weather
        leaves = now
        if weather.rate_mbit_s is not None:
            if self._busy_until - now > weather.queue_s:
                self.tally.overflowed += 1
                return
            leaves = self._busy_until = max(now, self._busy_until) + len(frame) * 8 / (weather.rate_mbit_s * 1e6)
        self._schedule(frame, self._arrival(leaves))
        if self._happens(weather.duplication):
            self.tally.doubled += 1
            self._schedule(frame, self._arrival(leaves))

    def _arrival(self, leaves: float) -> float:
        weather = self.weather
        due = leaves + weather.delay_s
        if weather.jitter_s:
            due = max(leaves, due + self._chance.uniform(-weather.jitter_s, weather.jitter_s))
        if not weather.reorders:
            due = self._last_due = max(due, self._last_due)
        return due

    def _schedule(self, frame: bytes, due: float) -> None:
        heapq.heappush(self._heap, (due, next(self._ordinals), frame))

    def _damage(self, frame: bytes) -> bytes:
        if not self._happens(self.weather.corruption):
            return frame
        damaged = corrupt(frame, self._chance, repair=self.weather.repairs_checksum)
        self.tally.damaged += damaged != frame
        return damaged

    def _happens(self, share: float) -> bool:
        return share > 0 and self._chance.random() < share


def has_weather(frame: bytes) -> bool:
    """Whether this is an IP packet and not neighbour discovery (RFC 4861)."""
    match int.from_bytes(frame[12:14]):
        case 0x0800:  # IPv4
            return True
        case 0x86DD:  # IPv6
            payload = ETHERNET_BYTES + IPV6_HEADER_BYTES
            is_icmp = frame[ETHERNET_BYTES + 6] == PROTOCOL_ICMP_6 and len(frame) > payload
            return not (is_icmp and frame[payload] in NEIGHBOUR_DISCOVERY)
        case _:
            return False


def corrupt(frame: bytes, chance: Random, *, repair: bool) -> bytes:
    """The frame with one bit of its UDP or TCP payload turned over, where it has one; else the frame itself."""
    found = _payload(frame)
    if found is None:
        return frame
    checksum_at, start, end = found
    damaged = bytearray(frame)
    at = chance.randrange(start, end)
    word = at - (at - checksum_at) % 2
    before = _word(damaged, word, end)
    damaged[at] ^= 1 << chance.randrange(8)
    if repair:
        _repair(damaged, checksum_at, before, _word(damaged, word, end))
    return bytes(damaged)


def _payload(frame: bytes) -> tuple[int, int, int] | None:
    """Where checksum, payload and end are in an unfragmented UDP or TCP packet that has a payload."""
    ip = ETHERNET_BYTES
    if int.from_bytes(frame[12:14]) == ETHERTYPE_IPV6:
        protocol, transport, end = frame[ip + 6], ip + 40, ip + 40 + int.from_bytes(frame[ip + 4 : ip + 6])
    elif (
        int.from_bytes(frame[12:14]) == ETHERTYPE_IPV4 and not int.from_bytes(frame[ip + 6 : ip + 8]) & FRAGMENT_OFFSET
    ):
        protocol, transport = frame[ip + 9], ip + (frame[ip] & 15) * 4
        end = ip + int.from_bytes(frame[ip + 2 : ip + 4])
    else:
        return None
    if protocol not in CHECKSUM_AT:
        return None
    start = transport + (8 if protocol == PROTOCOL_UDP else (frame[transport + 12] >> 4) * 4)
    return (transport + CHECKSUM_AT[protocol], start, end) if start < end <= len(frame) else None


def _word(frame: bytearray, at: int, end: int) -> int:
    """The 16-bit word at `at`, as a checksum counts it: beyond the end there are zeros."""
    return frame[at] << 8 | (frame[at + 1] if at + 1 < end else 0)


def _repair(frame: bytearray, checksum_at: int, before: int, after: int) -> None:
    """Follows the change of one word in the checksum (RFC 1624, equation 3). A UDP checksum of zero stays: none."""
    (old,) = struct.unpack_from("!H", frame, checksum_at)
    if old == 0:
        return
    total = (old ^ 0xFFFF) + (before ^ 0xFFFF) + after
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    struct.pack_into("!H", frame, checksum_at, (total ^ 0xFFFF) or 0xFFFF)
