"""What an endpoint and the discovery service say to each other over the control channel, and at enrolment.

The channel is a WebSocket (RFC 6455) with binary messages, each one value below in MessagePack, tagged by its
class name. Opening it:

    service  -> endpoint  Challenge(nonce)
    endpoint -> service   Authenticate(certificate, nonce, signature)   "fabric/1 control client", network,
                                                                        both nonces, H(TLS certificate), H(certificate)
    service  -> endpoint  Welcome(signature, ...)                       "fabric/1 control server", the same fields

Everything that concerns another endpoint travels as bytes signed (and, for offers, sealed) by the two ends: the
service can carry or drop it, and nothing else. Decoders raise `DecodeError` only.
"""

from __future__ import annotations

from typing import Annotated, TypeVar

import msgspec

from fabric.errors import DecodeError

T = TypeVar("T")

MAX_MESSAGE_BYTES = 65_536
"""Longest message of the channel: a revocation list of some thousand entries is the largest thing that travels."""

ServiceText = Annotated[str, msgspec.Meta(max_length=255)]
Blob = Annotated[bytes, msgspec.Meta(max_length=16_384)]
Nonce = Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, msgspec.Meta(min_length=64, max_length=64)]


class RelayPlace(msgspec.Struct, frozen=True, array_like=True):
    """A relay: `host` is a name or an IP address; a port of 0 says that it is not served there."""

    host: ServiceText
    udp_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)]
    tls_port: Annotated[int, msgspec.Meta(ge=0, le=65_535)]


class Message(msgspec.Struct, frozen=True, tag=True, tag_field="t"):
    """Base of everything on the channel."""


# endpoint -> service


class Authenticate(Message, frozen=True):
    """`certificate` is the endpoint's in DER; `nonce` its own 32 random bytes."""

    certificate: Blob
    nonce: Nonce
    signature: Signature


class PublishBundle(Message, frozen=True):
    """The endpoint's signed key bundle, to hand out with introductions."""

    bundle: Blob


class StateIntent(Message, frozen=True):
    """The endpoint's signed intent to meet somebody. Answered by `IntentNoted` in every case."""

    intent: Blob


class WithdrawIntent(Message, frozen=True):
    """The endpoint wishes no longer to meet `peer` (a full name). Answered by `IntentNoted` in every case."""

    peer: ServiceText


class SendOffer(Message, frozen=True):
    """A sealed envelope for `to`, forwarded only where both intents stand."""

    to: ServiceText
    envelope: Blob


class Renew(Message, frozen=True):
    """A PKCS#10 request for the next certificate, over the same key; or over another one, that the key before names in
    `rotation` (`fabric.identity.rotation`)."""

    request: Blob
    rotation: Blob = b""


# service -> endpoint


class Challenge(Message, frozen=True):
    nonce: Nonce


class Welcome(Message, frozen=True):
    """The service has proven itself. `stun` are `host:port` strings; `unix_time` is the service's clock in seconds."""

    signature: Signature
    stun: tuple[ServiceText, ...]
    revocations: bytes
    unix_time: float


class IntentNoted(Message, frozen=True):
    """The wish, or its end, is stored. Says nothing about whether `peer` exists."""

    peer: ServiceText


class Introduction(Message, frozen=True):
    """Both intents stand: the other's certificate, signed intent and signed key bundle."""

    peer: ServiceText
    certificate: Blob
    intent: Blob
    bundle: Blob


class Granted(Message, frozen=True):
    """Follows an `Introduction`: the pair may use these relays (the best first) with `grant`, a signed
    `fabric.identity.grant`, which a relay can check by itself. Sent again well before it ends."""

    peer: ServiceText
    grant: Blob
    relays: Annotated[tuple[RelayPlace, ...], msgspec.Meta(max_length=8)]


class Withdrawn(Message, frozen=True):
    """The introduction to `peer` no longer stands."""

    peer: ServiceText


class DeliverOffer(Message, frozen=True):
    """An envelope from `sender`, which only its seal and signature prove."""

    sender: ServiceText
    envelope: Blob


class Revocations(Message, frozen=True):
    """The authority's newest X.509 CRL in DER."""

    crl: bytes


class Renewed(Message, frozen=True):
    """The next certificate in DER."""

    certificate: Blob


class Refused(Message, frozen=True):
    """The last message of kind `regarding` was not acted on; `why` is one sentence for a person."""

    regarding: ServiceText
    why: ServiceText


ToService = Authenticate | PublishBundle | StateIntent | WithdrawIntent | SendOffer | Renew
ToEndpoint = (
    Challenge
    | Welcome
    | IntentNoted
    | Introduction
    | Granted
    | Withdrawn
    | DeliverOffer
    | Revocations
    | Renewed
    | Refused
)


# enrolment, over HTTPS: POST /v1/enrol with an EnrolmentRequest in MessagePack; 200 with an EnrolmentAnswer, or the
# refusal's own status with an EnrolmentRefusal


class EnrolmentRequest(msgspec.Struct, frozen=True):
    """`request` is PKCS#10 in DER; `proof` is BLAKE2b-256(key=secret, request || H(TLS certificate))."""

    key_id: Annotated[str, msgspec.Meta(max_length=32)]
    request: Annotated[bytes, msgspec.Meta(max_length=4096)]
    proof: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]


class EnrolmentAnswer(msgspec.Struct, frozen=True):
    """All that an endpoint needs to begin: `certificate`, `authority` (the root) and `revocations` in DER.

    `service` lists `host:port` of the discovery service; `overlay` the CIDR ranges of the LAN, IPv4 then IPv6.
    """

    certificate: bytes
    authority: bytes
    revocations: bytes
    service: tuple[str, ...]
    stun: tuple[str, ...]
    overlay: tuple[str, ...]


class EnrolmentRefusal(msgspec.Struct, frozen=True):
    """`code` is `key` (unknown, used up, expired, revoked or wrong proof), `name`, `request`, `limit` or `full`;
    `waiting`: a person has to sign first, and the identical request later gets the certificate; `authority`: that
    person refused.
    """

    code: str
    why: str


REFUSAL_STATUS = {
    "key": 403,
    "name": 409,
    "request": 400,
    "limit": 429,
    "full": 507,
    "waiting": 202,
    "authority": 403,
}
"""HTTP status (RFC 9110, RFC 6585, RFC 4918) of each code of a refusal."""

_to_service = msgspec.msgpack.Decoder(ToService)
_to_endpoint = msgspec.msgpack.Decoder(ToEndpoint)
_enrolment_request = msgspec.msgpack.Decoder(EnrolmentRequest)
_enrolment_answer = msgspec.msgpack.Decoder(EnrolmentAnswer)
_enrolment_refusal = msgspec.msgpack.Decoder(EnrolmentRefusal)
_encoder = msgspec.msgpack.Encoder()


def encode_message(message: ToService | ToEndpoint) -> bytes:
    return _encoder.encode(message)


def decode_to_service(data: bytes) -> ToService:
    message: ToService = _decode(_to_service, data)
    return message


def decode_to_endpoint(data: bytes) -> ToEndpoint:
    message: ToEndpoint = _decode(_to_endpoint, data)
    return message


def encode_enrolment(message: EnrolmentRequest | EnrolmentAnswer | EnrolmentRefusal) -> bytes:
    return _encoder.encode(message)


def decode_enrolment_request(data: bytes) -> EnrolmentRequest:
    message: EnrolmentRequest = _decode(_enrolment_request, data)
    return message


def decode_enrolment_outcome(status: int, data: bytes) -> EnrolmentAnswer | EnrolmentRefusal:
    """Returns what the body of a response with this HTTP status says."""
    if status == 200:
        answer: EnrolmentAnswer = _decode(_enrolment_answer, data)
        return answer
    refusal: EnrolmentRefusal = _decode(_enrolment_refusal, data)
    return refusal


def _decode(decoder: msgspec.msgpack.Decoder[T], data: bytes) -> T:
    if len(data) > MAX_MESSAGE_BYTES:
        raise DecodeError(f"a message of {len(data)} bytes")
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DecodeError(str(error)) from None
