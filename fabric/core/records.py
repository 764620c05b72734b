"""What is kept of a peer on stable storage: enough to meet it again without the discovery service."""

from __future__ import annotations

import msgspec

from fabric.core.entanglement import UNMET, Entangled
from fabric.errors import DecodeError


class PeerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One atomic record. Bytes from other parties are kept as they were received, and verified again when read.

    `gate_index` and `gate_share` are what was drawn here for the peer; they stay the same until it is removed.
    `removed` marks a wish that ended while the service, which is still to be told, was out of reach; `past` one that
    has ended for good. Key and root are remembered all the same: nobody else may take the peer's place later.
    `shown_key` is the own identity key that the peer knows; `pinned_serial` is of the newest certificate that was seen
    for `pinned_key`, and stays known when the papers go: a key that was revoked names no other.
    `offered_ms` (the date of the last offer or intent) and `bundle_serial` only grow.
    """

    name: str
    enabled: bool = True
    removed: bool = False
    past: bool = False
    fingerprint: str | None = None
    pinned_key: bytes | None = None
    pinned_serial: bytes | None = None
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
    entangled: Entangled = UNMET
    shown_key: bytes | None = None

    @property
    def is_wanted(self) -> bool:
        return not (self.removed or self.past)

    @property
    def is_met(self) -> bool:
        """Whether there is anything to remember."""
        return self.pinned_key is not None or self.entangled != UNMET

    def farewell(self, *, is_told: bool) -> PeerRecord:
        """Returns what stays when the peer is removed."""
        return PeerRecord(
            name=self.name,
            enabled=False,
            removed=not is_told,
            past=is_told,
            pinned_key=self.pinned_key,
            pinned_serial=self.pinned_serial,
            entangled=self.entangled,
            shown_key=self.shown_key,
        )

    def __repr__(self) -> str:
        return f"PeerRecord(name={self.name!r}, enabled={self.enabled})"


_decoder = msgspec.msgpack.Decoder(PeerRecord)


def encode_record(record: PeerRecord) -> bytes:
    return msgspec.msgpack.encode(record)


def decode_record(data: bytes) -> PeerRecord:
    """Raises `DecodeError`: the file is damaged, or from a later version."""
    try:
        return _decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None
