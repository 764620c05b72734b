"""What an identity key may be asked to sign: the statements of the protocol, in their own form, in the own name.

    label                       fields
    fabric/1 intent             a whole intent (`identity.intent`), the own name its sender
    fabric/1 bundle             a whole bundle (`identity.bundle`), the own name, and keys that the signer holds
    fabric/1 envelope           header (`wire.envelope`), the own key its sender's; sealed head
    fabric/1 handshake client   transcript hash 32, certificate hash 32
    fabric/1 handshake server   the same
    fabric/1 control client     network, two nonces 32, hashes 32 of both certificates
    fabric/1 relay              network, cookie 16, grant id 16

Never `fabric/1 grant` and `fabric/1 control server`: those are the service's, under the key of its own certificate.
Whoever takes over the daemon can say in these words what the daemon says, while he is there; and nothing else, ever.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from fabric.crypto.sealing import SEALING_OVERHEAD_BYTES
from fabric.crypto.signature import (
    LABEL_BUNDLE,
    LABEL_CONTROL_CLIENT,
    LABEL_ENVELOPE,
    LABEL_HANDSHAKE_CLIENT,
    LABEL_HANDSHAKE_SERVER,
    LABEL_INTENT,
    LABEL_RELAY,
    SIGNATURE_BYTES,
    Signer,
)
from fabric.errors import DecodeError, PolicyError
from fabric.identity.bundle import BundleSecrets, bundle_of, peek_bundle, sign_bundle
from fabric.identity.intent import peek_intent, sign_intent
from fabric.identity.name import network_of
from fabric.wire.envelope import MAX_SEALED_BYTES, decode_header

_HASH_BYTES = 32
_NONCE_BYTES = 32


@dataclass(frozen=True, slots=True)
class Speaker:
    """In whose name statements are: the full name, the identity key (32 bytes), the secrets of its bundles."""

    name: str
    public_key: bytes
    secrets: tuple[BundleSecrets, ...] = field(default=(), repr=False)

    @property
    def network(self) -> str:
        return network_of(self.name)


def check_statement(speaker: Speaker, label: bytes, fields: tuple[bytes, ...]) -> None:
    """Raises `PolicyError` for what is no statement of this speaker, `DecodeError` for what is none at all."""
    check = _CHECKS.get(label)
    if check is None:
        raise PolicyError("no statement of an endpoint has this label")
    check(speaker, fields)


def _check_intent(speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    (body,) = _counted(fields, 1)
    intent = peek_intent(bytes(SIGNATURE_BYTES) + body)
    if intent.sender != speaker.name:
        raise PolicyError("an intent of somebody else")
    _check_whole(body, lambda signer: sign_intent(signer, intent))


def _check_bundle(speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    (body,) = _counted(fields, 1)
    bundle = peek_bundle(bytes(SIGNATURE_BYTES) + body)
    if bundle not in [bundle_of(speaker.name, held) for held in speaker.secrets]:
        raise PolicyError("a key bundle of somebody else, or with other keys")
    _check_whole(body, lambda signer: sign_bundle(signer, bundle))


def _check_envelope(speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    header_bytes, sealed = _counted(fields, 2)
    header = decode_header(header_bytes)
    if header.sender_key != speaker.public_key or header.network != speaker.network:
        raise PolicyError("an envelope of somebody else")
    if not SEALING_OVERHEAD_BYTES <= len(sealed) <= MAX_SEALED_BYTES:
        raise PolicyError(f"an envelope with a sealed head of {len(sealed)} bytes")


def _check_handshake(_speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    _check_lengths(fields, _HASH_BYTES, _HASH_BYTES)


def _check_control(speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    _check_network(speaker, fields)
    _check_lengths(fields[1:], _NONCE_BYTES, _NONCE_BYTES, _HASH_BYTES, _HASH_BYTES)


def _check_relay(speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    from fabric.wire.relay import COOKIE_BYTES, GRANT_ID_BYTES  # here, because a start has no use for relays

    _check_network(speaker, fields)
    _check_lengths(fields[1:], COOKIE_BYTES, GRANT_ID_BYTES)


def _check_network(speaker: Speaker, fields: tuple[bytes, ...]) -> None:
    if not fields or fields[0] != speaker.network.encode():
        raise PolicyError("a statement for another network")


def _check_lengths(fields: tuple[bytes, ...], *lengths: int) -> None:
    if tuple(len(each) for each in fields) != lengths:
        raise PolicyError("fields of other lengths than this statement has")


def _counted(fields: tuple[bytes, ...], count: int) -> tuple[bytes, ...]:
    if len(fields) != count:
        raise PolicyError(f"a statement of {len(fields)} fields where it has {count}")
    return fields


def _check_whole(body: bytes, sign: Callable[[Signer], bytes]) -> None:
    """What stands behind a body is ignored by who reads it, so that more can come; what is unknown is not signed."""
    if sign(_NoSigner())[SIGNATURE_BYTES:] != body:
        raise DecodeError("a statement with more in it than is known of")


class _NoSigner:
    public_key = b""

    def sign(self, _label: bytes, *_fields: bytes) -> bytes:
        return bytes(SIGNATURE_BYTES)


_CHECKS: Mapping[bytes, Callable[[Speaker, tuple[bytes, ...]], None]] = {
    LABEL_INTENT: _check_intent,
    LABEL_BUNDLE: _check_bundle,
    LABEL_ENVELOPE: _check_envelope,
    LABEL_HANDSHAKE_CLIENT: _check_handshake,
    LABEL_HANDSHAKE_SERVER: _check_handshake,
    LABEL_CONTROL_CLIENT: _check_control,
    LABEL_RELAY: _check_relay,
}


def labels() -> Iterable[bytes]:
    """Returns every label that may be signed at all."""
    return _CHECKS.keys()
