"""What is done inside a TPM 2.0, by tpm2-pytss, which this module needs: 32 bytes are sealed to it.

    owner hierarchy's seed, never leaves the TPM
     `- primary, ECC P-256, made anew each time from the fixed template below: the same key as long as the seed is
         `- sealed object: 32 bytes

A wrapped key is the primary's name (a hash of its public part), the object's public and its private part, each with
two bytes of length before it as the TPM has it (TPM2B). What travels to the TPM and back is encrypted under a salt for
the primary: who listens on the bus gets nothing, and who answers in the TPM's place is told apart by the name.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from tpm2_pytss import (
    ESAPI,
    ESYS_TR,
    TPM2_ALG,
    TPM2_RC,
    TPM2_SE,
    TPM2B_PRIVATE,
    TPM2B_PUBLIC,
    TPM2B_SENSITIVE_CREATE,
    TPMA_SESSION,
    TPMS_SENSITIVE_CREATE,
    TPMT_PUBLIC,
    TPMT_SYM_DEF,
    TSS2_RC,
    TSS2_Exception,
)

from fabric.errors import AuthenticationError, ConfigurationError, DecodeError

_PRIMARY = ("ecc256:aes128cfb", "fixedtpm|fixedparent|sensitivedataorigin|userwithauth|noda|restricted|decrypt")
"""TCG's template of a storage root key, but that its `unique` is empty, as the library leaves it."""
_SEALED = ("keyedhash", "fixedtpm|fixedparent|userwithauth|noda")
"""`fixedtpm`: nobody, its owner included, can have the TPM hand it over to another TPM."""
_BUS_CIPHER = "aes128cfb"


@dataclass(frozen=True, slots=True)
class Primary:
    """The primary while it is loaded, and a session whose traffic only it can read."""

    tpm: ESAPI
    handle: ESYS_TR
    session: ESYS_TR
    name: bytes

    def wrap(self, key: bytes) -> bytes:
        """Returns `key` (at most 128 bytes) sealed."""
        sensitive = TPM2B_SENSITIVE_CREATE(TPMS_SENSITIVE_CREATE(data=key))
        private, public, *_ = self.tpm.create(self.handle, sensitive, _template(*_SEALED), session1=self.session)
        return _joined(self.name) + bytes(public.marshal()) + bytes(private.marshal())

    def unwrap(self, wrapped: bytes) -> bytes:
        """Raises `ConfigurationError` for what another TPM sealed, `DecodeError` and `AuthenticationError` for what
        none did."""
        name, public, private = _split(wrapped)
        if name != self.name:
            raise ConfigurationError(
                "it is sealed to another TPM, or this one was cleared since: bring it back to the machine that it is"
                " from, or enrol anew"
            )
        loaded = self._load(_joined(private), _joined(public))
        try:
            return bytes(self.tpm.unseal(loaded, session1=self.session))
        finally:
            _flush(self.tpm, loaded)

    def _load(self, private: bytes, public: bytes) -> ESYS_TR:
        try:
            parts = TPM2B_PRIVATE.unmarshal(private)[0], TPM2B_PUBLIC.unmarshal(public)[0]
            return self.tpm.load(self.handle, *parts, session1=self.session)
        except TSS2_Exception as error:
            if error.rc & TSS2_RC.RC_LAYER_MASK == TSS2_RC.TCTI_RC_LAYER:
                raise
            raise AuthenticationError("the TPM did not make it") from None


@contextmanager
def opened_primary(tcti: str) -> Iterator[Primary]:
    """Opens the TPM, makes the primary in it, and leaves nothing there. Raises `ConfigurationError`, also for what the
    TPM refuses later on."""
    try:
        tpm = ESAPI(tcti)
    except TSS2_Exception as error:
        raise ConfigurationError(
            f"no TPM answers at {tcti} ({error}): switch it on in the firmware's setup, and let this user use it"
            " (group tss)"
        ) from None
    with tpm:
        loaded: list[ESYS_TR] = []
        try:
            handle, public, *_ = tpm.create_primary(None, _template(*_PRIMARY), ESYS_TR.OWNER)
            loaded.append(handle)
            cipher = TPMT_SYM_DEF.parse(_BUS_CIPHER)
            session = tpm.start_auth_session(handle, ESYS_TR.NONE, TPM2_SE.HMAC, cipher, TPM2_ALG.SHA256)
            loaded.append(session)
            tpm.trsess_set_attributes(
                session, TPMA_SESSION.CONTINUESESSION | TPMA_SESSION.DECRYPT | TPMA_SESSION.ENCRYPT
            )
            yield Primary(tpm, handle, session, bytes(public.get_name()))
        except TSS2_Exception as error:
            raise ConfigurationError(f"the TPM at {tcti} refuses: {_reason(error)}") from None
        finally:
            for each in reversed(loaded):
                _flush(tpm, each)


def _reason(error: TSS2_Exception) -> str:
    if error.error == TPM2_RC.BAD_AUTH:
        return "a password was set for its owner hierarchy; take that away (tpm2_changeauth) or another custody"
    return str(error)


def _flush(tpm: ESAPI, handle: ESYS_TR) -> None:
    """A TPM that went away has nothing loaded any more."""
    with suppress(TSS2_Exception):
        tpm.flush_context(handle)


def _template(algorithm: str, attributes: str) -> TPM2B_PUBLIC:
    return TPM2B_PUBLIC(TPMT_PUBLIC.parse(algorithm, objectAttributes=attributes))


def _joined(part: bytes) -> bytes:
    return struct.pack("!H", len(part)) + part


def _split(wrapped: bytes) -> tuple[bytes, bytes, bytes]:
    """Returns its name, public and private part. Raises `DecodeError`."""
    parts: list[bytes] = []
    rest = wrapped
    while len(rest) >= 2 and len(parts) < 3:
        end = 2 + int.from_bytes(rest[:2])
        if end > len(rest):
            break
        parts.append(rest[2:end])
        rest = rest[end:]
    if rest or len(parts) != 3:
        raise DecodeError("a wrapped key that is no TPM's")
    return parts[0], parts[1], parts[2]
