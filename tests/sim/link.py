"""What a wire does to packets: it delays, loses, doubles, overtakes, and drops what is too long for it."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple, TypeAlias

from tests.sim.schedule import Schedule

Socket: TypeAlias = tuple[str, int]
"""IP in canonical text, and port."""

IPV4_UDP_HEADER_BYTES = 28
IPV6_UDP_HEADER_BYTES = 48
TCP_OVER_UDP_BYTES = 12
"""How much longer a TCP header is than a UDP header (RFC 9293 section 3.1, RFC 768)."""


class Segment(NamedTuple):
    """The part of a TCP header that this world needs. `number` counts messages, not bytes: one message a segment."""

    syn: bool = False
    ack: int | None = None
    number: int | None = None
    reset: bool = False
    fin: bool = False


class Packet(NamedTuple):
    """A UDP datagram, or a TCP segment, on its way. `hops` ends routing loops, as a TTL does."""

    source: Socket
    destination: Socket
    payload: bytes
    hops: int = 16
    segment: Segment | None = None

    @property
    def ip_bytes(self) -> int:
        header = IPV6_UDP_HEADER_BYTES if ":" in self.destination[0] else IPV4_UDP_HEADER_BYTES
        return header + len(self.payload) + (TCP_OVER_UDP_BYTES if self.segment is not None else 0)

    @property
    def is_tcp(self) -> bool:
        return self.segment is not None


@dataclass(frozen=True, slots=True)
class Quality:
    """Of one direction of a link. Probabilities are 0 to 1; an overtaken packet arrives `late_s` later."""

    latency_s: float = 0.005
    jitter_s: float = 0.0
    loss: float = 0.0
    duplication: float = 0.0
    reordering: float = 0.0
    late_s: float = 0.05
    mtu: int = 1500


WIRE = Quality(latency_s=0.0004)
"""A cable inside of a house, with all of its delay on the way to a host."""

WIRE_UP = Quality(latency_s=0.0)

UPLINK = Quality(latency_s=0.010, jitter_s=0.002)
"""A house's line to its provider."""


class Link:
    """Carries packets into `deliver`. `quality` may be changed at any time; `up` False is a pulled cable."""

    def __init__(self, schedule: Schedule, chance: random.Random, quality: Quality) -> None:
        self._schedule = schedule
        self._chance = chance
        self.quality = quality
        self.up = True
        self.lost = 0

    def carry(self, packet: Packet, deliver: Callable[[Packet], None]) -> None:
        quality = self.quality
        if not self.up or self._happens(quality.loss) or (packet.ip_bytes > quality.mtu and not packet.is_tcp):
            self.lost += 1  # TCP cuts its segments to the path by itself
            return
        self._deliver(packet, deliver, self._delay(quality))
        if self._happens(quality.duplication):
            self._deliver(packet, deliver, self._delay(quality))

    def _deliver(self, packet: Packet, deliver: Callable[[Packet], None], delay_s: float) -> None:
        """A link without any delay costs no step."""
        if delay_s > 0.0:
            self._schedule.after(delay_s, partial(deliver, packet))
        else:
            deliver(packet)

    def _delay(self, quality: Quality) -> float:
        jitter = self._chance.random() * quality.jitter_s if quality.jitter_s else 0.0
        late = quality.late_s if self._happens(quality.reordering) else 0.0
        return quality.latency_s + jitter + late

    def _happens(self, probability: float) -> bool:
        return probability > 0.0 and self._chance.random() < probability
