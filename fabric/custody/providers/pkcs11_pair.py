"""An Ed25519 key pair inside a token: how it is made, tried, told from another one and destroyed.

PKCS#11 3.0: CKM_EC_EDWARDS_KEY_PAIR_GEN, CKM_EDDSA. A pair is two objects of one label; a program that ends between the
two leaves half of one behind. What the token refuses is raised as the library has it, `pkcs11.PKCS11Error`.
"""

from __future__ import annotations

from dataclasses import dataclass

import pkcs11
from pkcs11 import Attribute, KeyType, Mechanism, MechanismFlag, ObjectClass

from fabric.crypto.signature import PUBLIC_KEY_BYTES, verify_raw
from fabric.errors import AuthenticationError, ConfigurationError

LOCKED = {Attribute.PRIVATE: True, Attribute.SENSITIVE: True, Attribute.EXTRACTABLE: False}
"""What every key of ours is made with."""

_CURVES = (bytes.fromhex("06032b6570"), b"\x13\x0cedwards25519")
"""The two ways to name the curve: by its OID (RFC 8410), as the standard's newest text has it, and by its name."""
_OTHER_CURVE = (pkcs11.AttributeValueInvalid, pkcs11.DomainParamsInvalid, pkcs11.TemplateInconsistent)
"""Libraries differ in what they call a curve that they know by its other name."""
_NO_SUCH_KEYS = (pkcs11.MechanismInvalid, pkcs11.FunctionNotSupported)
_TRIAL = b"fabric/1 trial of a token"


@dataclass(frozen=True, slots=True)
class Pair:
    """What a token has under one label: one of each where all is well."""

    private: tuple[pkcs11.PrivateKey, ...]
    public: tuple[pkcs11.PublicKey, ...]

    def __bool__(self) -> bool:
        return bool(self.private or self.public)

    def only(self, public_key: bytes) -> Pair:
        """Returns what of it belongs to this public key (32 bytes), by what it signs and by what it says."""
        private = tuple(each for each in self.private if _signs_as(each, public_key))
        return Pair(private, tuple(each for each in self.public if _says(each, public_key)))


def generate_pair(session: pkcs11.Session, label: str, where: str) -> Pair:
    """Makes a pair; `where` is the token in words. Raises `ConfigurationError` for a token that refuses: `session` is
    new, so it is not one that went away."""
    for curve in _CURVES:
        parameters = {Attribute.EC_PARAMS: curve}
        try:
            public, private = session.create_domain_parameters(
                KeyType.EC_EDWARDS, parameters, local=True
            ).generate_keypair(
                id=label.encode(),
                label=label,
                store=True,
                capabilities=MechanismFlag.SIGN | MechanismFlag.VERIFY,
                mechanism=Mechanism.EC_EDWARDS_KEY_PAIR_GEN,
                private_template=LOCKED,
            )
        except _OTHER_CURVE:
            continue
        except _NO_SUCH_KEYS:
            break
        except pkcs11.PKCS11Error as error:
            raise ConfigurationError(
                f"{where} makes no key ({type(error).__name__}): make room in it, and let its user make some"
            ) from None
        return Pair((private,), (public,))
    raise ConfigurationError(f"{where} can't make Ed25519 keys: take one that can, or another kind of custody")


def find_pair(session: pkcs11.Session, label: str) -> Pair:
    """Returns all that the token has under `label`."""
    private, public = (
        tuple(session.get_objects({Attribute.CLASS: kind, Attribute.LABEL: label}))
        for kind in (ObjectClass.PRIVATE_KEY, ObjectClass.PUBLIC_KEY)
    )
    return Pair(private, public)


def destroy_pair(pair: Pair) -> None:
    """What signs goes first: who is stopped in between has no key any more. Needs a session that may write."""
    for each in (*pair.private, *pair.public):
        each.destroy()


def require_sound(public: pkcs11.PublicKey, private: pkcs11.PrivateKey) -> bytes:
    """Returns the public half (32 bytes). Raises `AuthenticationError` and `ConfigurationError` where the two are no
    pair, or the token would give the key away."""
    require_locked(private)
    public_key = point_of(public)
    verify_raw(public_key, bytes(private.sign(_TRIAL, mechanism=Mechanism.EDDSA)), _TRIAL)
    return public_key


def require_locked(key: pkcs11.Key) -> None:
    """Raises `ConfigurationError` where the token would give the key away."""
    if key[Attribute.EXTRACTABLE] or not key[Attribute.SENSITIVE]:
        raise ConfigurationError("it would give the key away")


def point_of(public: pkcs11.PublicKey) -> bytes:
    """Returns the 32 bytes of CKA_EC_POINT: an OCTET STRING as the standard has it, or bare as some tokens do."""
    encoded = bytes(public[Attribute.EC_POINT])
    bare = encoded[2:] if len(encoded) == PUBLIC_KEY_BYTES + 2 and encoded[:2] == b"\x04\x20" else encoded
    if len(bare) != PUBLIC_KEY_BYTES:
        raise ConfigurationError(f"its public key has {len(encoded)} bytes")
    return bare


def _says(public: pkcs11.PublicKey, public_key: bytes) -> bool:
    try:
        return point_of(public) == public_key
    except ConfigurationError:
        return False


def _signs_as(private: pkcs11.PrivateKey, public_key: bytes) -> bool:
    try:
        verify_raw(public_key, bytes(private.sign(_TRIAL, mechanism=Mechanism.EDDSA)), _TRIAL)
    except AuthenticationError:
        return False
    return True
