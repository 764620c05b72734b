"""Sealing and opening what third parties carry. The layout is `fabric.wire.envelope`'s.

Opening goes from the outside in, and each step needs the one before: the sender's key is known, the signature over
header and sealed part holds, it is for this network and this recipient, HPKE opens under exactly this header, the
stream opens to its last chunk and is as long as the header said.

A payload that doesn't fit in memory goes the same way in two steps: `seal_head` then `crypto.stream.seal_stream`,
`open_head` then `open_stream`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol

from fabric.crypto.sealing import seal_to
from fabric.crypto.signature import LABEL_ENVELOPE, Signer, verify
from fabric.crypto.stream import STREAM_KEY_BYTES, new_stream_key, open_stream, seal_stream
from fabric.errors import AuthenticationError, DecodeError
from fabric.wire.envelope import (
    EnvelopeHead,
    EnvelopeHeader,
    EnvelopeKind,
    decode_head,
    encode_head,
    encode_header,
)

__all__ = [
    "Envelope",
    "EnvelopeHeader",
    "EnvelopeKind",
    "OpenedHead",
    "Opener",
    "open_envelope",
    "open_head",
    "peek_envelope",
    "seal_envelope",
    "seal_head",
]


class Opener(Protocol):
    """Opens with a key that it need not show: in this process, in the custodian's, or in hardware."""

    def open(self, sealed: bytes, info: bytes) -> bytes:
        """Returns what was sealed to a key of its own, bound to `info`: an envelope's whole header, in bytes.

        Raises `AuthenticationError`, also where the key is gone, and `DecodeError`.
        """
        ...


@dataclass(frozen=True, slots=True)
class Envelope:
    """An opened envelope. `id` is 16 bytes, `created` unix seconds, `life_s` seconds from then."""

    kind: EnvelopeKind
    id: bytes
    created: float
    life_s: int
    payload: bytes = field(repr=False)
    metadata: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class OpenedHead:
    """A head that holds, with the key of the payload's stream."""

    header: EnvelopeHeader
    content_key: bytes = field(repr=False)
    metadata: bytes = field(repr=False)


def seal_envelope(
    signer: Signer,
    *,
    network: str,
    recipient: str,
    kind: EnvelopeKind,
    id16: bytes,
    created: float,
    life_s: int,
    bundle_serial: int,
    recipient_key: bytes,
    payload: bytes,
    metadata: bytes = b"",
) -> bytes:
    """Returns the whole envelope. `recipient_key` is the bundle's offer or mail key, by `kind`; raises `DecodeError`
    where it is none."""
    header = EnvelopeHeader(
        kind=kind,
        network=network,
        sender_key=signer.public_key,
        recipient=recipient,
        id=id16,
        bundle_serial=bundle_serial,
        created=created,
        life_s=life_s,
        length=len(payload),
    )
    head, content_key = seal_head(signer, header, recipient_key, metadata)
    return b"".join((head, *seal_stream(content_key, (payload,))))


def seal_head(signer: Signer, header: EnvelopeHeader, recipient_key: bytes, metadata: bytes) -> tuple[bytes, bytes]:
    """Returns (everything before the payload, the key to seal the payload's stream with)."""
    header_bytes = encode_header(header)
    content_key = new_stream_key()
    sealed = seal_to(recipient_key, header_bytes, content_key + metadata)
    return encode_head(header_bytes, sealed, signer.sign(LABEL_ENVELOPE, header_bytes, sealed)), content_key


def peek_envelope(data: bytes) -> EnvelopeHeader:
    """Returns what the header says, proving nothing: whom to ask for a key, and which of the own keys to take.

    Raises `DecodeError`.
    """
    return decode_head(data)[0].header


def open_envelope(data: bytes, *, sender_key: bytes, network: str, recipient: str, opener: Opener) -> Envelope:
    """Returns what `sender_key`'s holder sealed for `recipient`. Raises `DecodeError`, `AuthenticationError`.

    Its age, its id's being new, and whether this sender may send this kind, are for the caller to check.
    """
    head, stream = decode_head(data)
    opened = open_head(head, sender_key=sender_key, network=network, recipient=recipient, opener=opener)
    payload = b"".join(open_stream(opened.content_key, (stream,)))
    header = opened.header
    if len(payload) != header.length:
        raise AuthenticationError("the envelope's payload is not as long as its header says")
    return Envelope(header.kind, header.id, header.created, header.life_s, payload, opened.metadata)


def open_head(head: EnvelopeHead, *, sender_key: bytes, network: str, recipient: str, opener: Opener) -> OpenedHead:
    """Raises `AuthenticationError` unless this sender made it for this recipient in this network."""
    header = head.header
    if header.sender_key != sender_key:
        raise AuthenticationError("the envelope is from another sender")
    verify(sender_key, LABEL_ENVELOPE, head.signature, head.header_bytes, head.sealed)
    if header.network != network or header.recipient != recipient:
        raise AuthenticationError("the envelope is for another recipient")
    opened = opener.open(head.sealed, head.header_bytes)
    if len(opened) < STREAM_KEY_BYTES:
        raise DecodeError("the envelope has no content key")
    return OpenedHead(header, opened[:STREAM_KEY_BYTES], opened[STREAM_KEY_BYTES:])
