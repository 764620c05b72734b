"""A key bundle: the keys that others may seal to, signed by the identity, and the secrets that stay at home.

The body, under the signature (see `signed`):

    +------+------------+-----------------+---------------+-----------------+--------------+
    | name | serial u64 | offer key 1,216 | offer expires | mail key 1,216  | mail expires |
    | text |            |                 | time          |                 | time         |
    +------+------------+-----------------+---------------+-----------------+--------------+

The secrets, as they are encrypted at rest: version u8, serial u64, 96 + time for the offer key, the same for mail.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from fabric.crypto.sealing import SEALING_PUBLIC_BYTES, SEALING_SECRET_BYTES, SealingPair
from fabric.crypto.signature import LABEL_BUNDLE, Signer
from fabric.errors import DecodeError
from fabric.identity.name import parse_name
from fabric.identity.signed import encode_text, encode_time, open_body, peek_body, sign_body, take_text, take_time
from fabric.wire.codec import Reader

DAY_S = 86_400
OFFER_LIFE_S = 7 * DAY_S
OFFER_KEPT_S = 7 * DAY_S
"""How long an offer key serves stragglers behind its end before it is deleted."""
MAIL_LIFE_S = 400 * DAY_S
MAIL_KEPT_S = 366 * DAY_S
"""The longest life of an envelope: mail sealed on the key's last day opens that long."""

_MAX_NAME_BYTES = 255
_SECRETS_VERSION = 1
_DELETED = 0.0


@dataclass(frozen=True, slots=True)
class KeyBundle:
    """Public keys of `name`. A peer takes no bundle whose `serial` is lower than one seen; times are unix seconds."""

    name: str
    serial: int
    offer_key: bytes = field(repr=False)
    offer_expires: float
    mail_key: bytes = field(repr=False)
    mail_expires: float


@dataclass(frozen=True, slots=True)
class BundleSecrets:
    """The private halves of one bundle. Times are unix seconds, when others should stop to seal to each."""

    serial: int
    offer: SealingPair = field(repr=False)
    offer_expires: float
    mail: SealingPair = field(repr=False)
    mail_expires: float

    @property
    def offer_deletion(self) -> float:
        """When the offer key must be gone."""
        return self.offer_expires + OFFER_KEPT_S

    @property
    def mail_deletion(self) -> float:
        """When the mail key must be gone."""
        return self.mail_expires + MAIL_KEPT_S

    @property
    def has_no_offer(self) -> bool:
        return self.offer_expires == _DELETED

    def without_offer(self, draw: Callable[[int], bytes]) -> BundleSecrets:
        """Returns the same with the offer key deleted: a fresh one that nobody can have sealed to stands for it."""
        return replace(self, offer=SealingPair.generate(draw), offer_expires=_DELETED)

    def encode(self) -> bytes:
        """Returns secret bytes: to be encrypted before they are stored."""
        return b"".join(
            (
                bytes((_SECRETS_VERSION,)),
                self.serial.to_bytes(8),
                self.offer.secret_bytes,
                encode_time(self.offer_expires),
                self.mail.secret_bytes,
                encode_time(self.mail_expires),
            )
        )

    @classmethod
    def decode(cls, data: bytes) -> BundleSecrets:
        """Raises `DecodeError`."""
        reader = Reader(data)
        if (version := reader.take_u8()) != _SECRETS_VERSION:
            raise DecodeError(f"bundle secrets of version {version}")
        return cls(
            serial=reader.take_u64(),
            offer=SealingPair(reader.take(SEALING_SECRET_BYTES)),
            offer_expires=take_time(reader),
            mail=SealingPair(reader.take(SEALING_SECRET_BYTES)),
            mail_expires=take_time(reader),
        )


def make_bundle(
    signer: Signer,
    name: str,
    draw: Callable[[int], bytes],
    unix: float,
    previous: BundleSecrets | None,
    above: int = 0,
) -> tuple[bytes, BundleSecrets]:
    """Returns the next bundle, signed, and its secrets; `previous` are those of the bundle before, if any.

    The offer key is new each time. The mail key stays until half of its life is over, so that mail which waits in
    a queue doesn't need a key for each week. The serial is higher than `above` too, for where the previous secrets are
    lost. `draw` returns as many random bytes as it is asked for.
    """
    offer = SealingPair.generate(draw)
    if previous is not None and previous.mail_expires - unix > MAIL_LIFE_S / 2:
        mail, mail_expires = previous.mail, previous.mail_expires
    else:
        mail, mail_expires = SealingPair.generate(draw), unix + MAIL_LIFE_S
    serial = max(previous.serial if previous else 0, above) + 1
    secrets = BundleSecrets(serial, offer, unix + OFFER_LIFE_S, mail, mail_expires)
    return sign_bundle(signer, bundle_of(name, secrets)), secrets


def bundle_of(name: str, secrets: BundleSecrets) -> KeyBundle:
    """Returns what of the secrets is public."""
    return KeyBundle(
        name=name,
        serial=secrets.serial,
        offer_key=secrets.offer.public,
        offer_expires=secrets.offer_expires,
        mail_key=secrets.mail.public,
        mail_expires=secrets.mail_expires,
    )


def sign_bundle(signer: Signer, bundle: KeyBundle) -> bytes:
    """Raises `DecodeError` for a bundle that `open_bundle` would refuse."""
    _check(bundle)
    offer = bundle.offer_key + encode_time(bundle.offer_expires)
    mail = bundle.mail_key + encode_time(bundle.mail_expires)
    return sign_body(signer, LABEL_BUNDLE, encode_text(bundle.name) + bundle.serial.to_bytes(8) + offer + mail)


def open_bundle(data: bytes, public_key: bytes) -> KeyBundle:
    """Returns the bundle that the key's holder signed. Raises `AuthenticationError`, `DecodeError`.

    That `name` is this key's, and `serial` not below the last, is for the caller to check.
    """
    return _decode(open_body(data, LABEL_BUNDLE, public_key))


def peek_bundle(data: bytes) -> KeyBundle:
    """Returns what the bundle says, proving nothing. Raises `DecodeError`."""
    return _decode(peek_body(data))


def _decode(reader: Reader) -> KeyBundle:
    bundle = KeyBundle(
        name=take_text(reader, _MAX_NAME_BYTES),
        serial=reader.take_u64(),
        offer_key=reader.take(SEALING_PUBLIC_BYTES),
        offer_expires=take_time(reader),
        mail_key=reader.take(SEALING_PUBLIC_BYTES),
        mail_expires=take_time(reader),
    )
    _check(bundle)
    return bundle


def _check(bundle: KeyBundle) -> None:
    parse_name(bundle.name, None)
    if {len(bundle.offer_key), len(bundle.mail_key)} != {SEALING_PUBLIC_BYTES}:
        raise DecodeError("a bundle with a key of a wrong length")
