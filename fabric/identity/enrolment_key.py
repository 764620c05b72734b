"""The one string that a person pastes to enrol a host, and the proof that its secret makes.

    fabric-key-<base64url (RFC 4648 section 5), no padding>, of

     0         1                33           65
    +---------+----------------+------------+-----------------+-------+---------------------------+------------+
    | version | authority's    | secret 32  | key id          | count | each address              | checksum 4 |
    | 1       | fingerprint 32 |            | u16 length + id | u8    | u16 length + "host:port"  |            |
    +---------+----------------+------------+-----------------+-------+---------------------------+------------+

The checksum catches a slip of the hand, nothing more.
"""

from __future__ import annotations

import base64
import binascii
import re
from dataclasses import dataclass, field

from fabric.crypto.digest import blake2b_256
from fabric.errors import DecodeError
from fabric.wire.codec import Reader, block

PREFIX = "fabric-key-"
VERSION = 1
FINGERPRINT_BYTES = 32
SECRET_BYTES = 32
MAX_KEY_ID_CHARS = 32
MAX_ADDRESSES = 8
MAX_ADDRESS_CHARS = 259
"""A DNS name (253), a colon and a port."""

_CHECKSUM_BYTES = 4
_MAX_TEXT_CHARS = 4096
_KEY_ID = re.compile(r"[A-Za-z0-9_.-]{1,32}")
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class EnrolmentKey:
    """`addresses` are "host:port" ("[ipv6]:port") of the service; `authority_fingerprint` pins its root."""

    addresses: tuple[str, ...]
    authority_fingerprint: bytes
    key_id: str
    secret: bytes = field(repr=False)

    def encode(self) -> str:
        """Returns one line. Raises `DecodeError` where `parse` would refuse it."""
        _check(self)
        body = b"".join(
            (
                bytes((VERSION,)),
                self.authority_fingerprint,
                self.secret,
                block(self.key_id.encode()),
                bytes((len(self.addresses),)),
                *(block(address.encode()) for address in self.addresses),
            )
        )
        return PREFIX + base64.urlsafe_b64encode(body + _checksum(body)).decode().rstrip("=")

    @classmethod
    def parse(cls, text: str) -> EnrolmentKey:
        """Returns the key that was pasted; white space anywhere doesn't matter. Raises `DecodeError`."""
        body = _checked_body(re.sub(r"\s", "", text[:_MAX_TEXT_CHARS]))
        reader = Reader(body)
        if (version := reader.take_u8()) != VERSION:
            raise DecodeError(f"an enrolment key of version {version}: this program is older than the key")
        fingerprint, secret = reader.take(FINGERPRINT_BYTES), reader.take(SECRET_BYTES)
        key_id = _text(reader, MAX_KEY_ID_CHARS)
        addresses = tuple(_text(reader, MAX_ADDRESS_CHARS) for _ in range(reader.take_u8()))
        key = cls(addresses, fingerprint, key_id, secret)
        _check(key)
        return key


def enrolment_proof(secret: bytes, request_der: bytes, tls_certificate_der: bytes) -> bytes:
    """Returns the 32 bytes that show the service that the secret is known, for this request on this connection only."""
    return blake2b_256(request_der, blake2b_256(tls_certificate_der), key=secret)


def _check(key: EnrolmentKey) -> None:
    if len(key.authority_fingerprint) != FINGERPRINT_BYTES or len(key.secret) != SECRET_BYTES:
        raise DecodeError("an enrolment key with a fingerprint or secret of a wrong length")
    if not _KEY_ID.fullmatch(key.key_id):
        raise DecodeError("an enrolment key whose id is none")
    if not 1 <= len(key.addresses) <= MAX_ADDRESSES:
        raise DecodeError(f"an enrolment key with {len(key.addresses)} service addresses")
    for address in key.addresses:
        parsed = _ADDRESS.fullmatch(address)
        if parsed is None or len(address) > MAX_ADDRESS_CHARS or not 1 <= int(parsed[2]) <= 65_535:
            raise DecodeError(f"an enrolment key with the service address {address[:80]!r}")


def _checked_body(line: str) -> bytes:
    if not line.startswith(PREFIX):
        raise DecodeError(f'an enrolment key begins with "{PREFIX}"')
    encoded = line.removeprefix(PREFIX)
    try:
        packed = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise DecodeError("the enrolment key is not complete: copy the whole line") from None
    body, checksum = packed[:-_CHECKSUM_BYTES], packed[-_CHECKSUM_BYTES:]
    if checksum != _checksum(body):
        raise DecodeError("the enrolment key is not complete or was altered: copy the whole line")
    return body


def _checksum(body: bytes) -> bytes:
    return blake2b_256(b"fabric/1 enrolment key", body)[:_CHECKSUM_BYTES]


def _text(reader: Reader, limit: int) -> str:
    try:
        return reader.take_block(limit).decode("ascii")
    except UnicodeDecodeError:
        raise DecodeError("an enrolment key with a text that is not ASCII") from None
