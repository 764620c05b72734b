"""What is kept of a peer on stable storage: enough to meet it again without the discovery service."""

from __future__ import annotations

import msgspec

from fabric.errors import DecodeError


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic record. Bytes from other parties are kept as they were received, and verified again when read.

    `gate_index` and `gate_share` are what was drawn here for the peer; they stay the same until it is removed.
    `removed` marks a wish that ended while the service, which is still to be told, was out of reach.
    `offered_ms` (the date of the last offer or intent) and `bundle_serial` only grow.
    """

    name: str
    enabled: bool = True
    removed: bool = False
    fingerprint: str | None = None
    pinned_key: bytes | None = None
    gate_index: int | None = None
    gate_share: bytes | None = None
    certificate: bytes | None = None
    intent: bytes | None = None
    bundle: bytes | None = None
    bundle_serial: int = 0
    offer: bytes | None = None
    offered_ms: int = 0
    last_address: tuple[str, int] | None = None
    grant: bytes | None = None
    relays: tuple[tuple[str, int, int], ...] = ()

    def __repr__(self) -> str:
        return f"PeerRecord(name={self.name!r}, enabled={self.enabled})"


_decoder = msgspec.msgpack.Decoder(PeerRecord)


def encode_record(record: PeerRecord) -> bytes:
    return msgspec.msgpack.encode(record)


def decode_record(data: bytes) -> PeerRecord:
    """Raises `DecodeError`: the file is damaged, or from a later version."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None
