"""Ethernet frames of the simulated LAN, each with a number by which the witness knows it again."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.wire.vnet import NO_VNET, VNET_BYTES

BROADCAST = b"\xff" * 6
EXPERIMENTAL = b"\x88\xb5"
"""The ethertype for local experiments (IEEE 802, section 9.2.4)."""

_NUMBER = slice(14, 22)


@dataclass(frozen=True, slots=True)
class Marked:
    """A frame with its `number`; `to` is None for everyone."""

    number: int
    sender: str
    to: str | None
    data: bytes


def make_frame(number: int, source_mac: bytes, destination_mac: bytes, length: int) -> bytes:
    """Returns a frame of `length` bytes in all, at least 22."""
    head = destination_mac + source_mac + EXPERIMENTAL + number.to_bytes(8)
    return head + bytes(max(0, length - len(head)))


def with_vnet(frame: bytes) -> bytes:
    """Returns what a TAP gives for a frame that its kernel has finished."""
    return NO_VNET + frame


def bare(item: bytes) -> bytes:
    """Returns the frame of what a lane delivers; nothing in the simulation is cut or summed by a kernel."""
    if item[:VNET_BYTES] != NO_VNET:
        raise ValueError(f"a vnet header where none belongs: {item[:VNET_BYTES].hex()}")
    return item[VNET_BYTES:]


def number_of(frame: bytes) -> int | None:
    """Returns the number in a frame of ours, or None."""
    if frame[12:14] != EXPERIMENTAL or len(frame) < _NUMBER.stop:
        return None
    return int.from_bytes(frame[_NUMBER])
