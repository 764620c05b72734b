"""A super-frame cut into plain frames, as a kernel cuts it that sends it to a device without offloads.

    | headers | payload ...              |   ->   | headers 0 | gso_size |   | headers 1 | gso_size |  ...

A TAP whose kernel lacks an offload gets these instead (docs/dataplane.md), and tests have something to compare with.
"""

from __future__ import annotations

from fabric.dataplane.superframe import complete_checksum, mended_headers, shape_of
from fabric.wire.vnet import GSO_NONE, NEEDS_CSUM, NO_VNET, decode_vnet


def segment(vnet_header: bytes, frame: bytes) -> list[bytes]:
    """Returns plain frames with complete checksums: one for a frame that was none, gso_size bytes in each otherwise.

    Raises `DecodeError` for a vnet header that does not fit the frame.
    """
    if vnet_header == NO_VNET:
        return [frame]
    vnet = decode_vnet(vnet_header)
    if vnet.gso_type == GSO_NONE:
        return [complete_checksum(vnet, frame)] if vnet.flags & NEEDS_CSUM else [frame]
    shape = shape_of(vnet_header, frame)
    payload = frame[shape.headers :]
    plain = []
    for start in range(0, len(payload), shape.gso_size):
        part = payload[start : start + shape.gso_size]
        is_last = start + len(part) == len(payload)
        headers = mended_headers(shape, frame, start, len(part), is_last=is_last)
        plain.append(complete_checksum(vnet, bytes(headers) + part))
    return plain
