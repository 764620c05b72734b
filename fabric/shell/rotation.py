"""The change of the identity key: from a person's wish to the certificate of the next key, over any crash.

    wish --> the custodian makes the next key --> the authority is asked --> certificate.pem --> it takes over

What was asked for a certificate is asked for until there is an answer, since a second and different renewal of it would
count as a theft. Statements that handed over are kept, for peers that were away.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from fabric.core.identity import Identity
from fabric.custody.contract import Custodian
from fabric.errors import ConfigurationError, PolicyError
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.rotation import MAX_ROTATIONS, peek_rotation
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.keystore import Keystore
from fabric.shell.log import Log
from fabric.shell.papers import store_certificate
from fabric.shell.renewal import forget_renewal, is_renewing, renewal_nonce

_log = Log("fabric.rotation")

_STATEMENTS = "rotations"
_ASKED = "rotating"


class Rotation:
    """`identity` is changed in place once the next key has taken over."""

    def __init__(self, directory: Path, identity: Identity, keystore: Keystore, custodian: Custodian) -> None:
        self._directory = directory
        self._identity = identity
        self._keystore = keystore
        self._custodian = custodian
        if self.is_asked:
            identity.next_key = peek_rotation(self._statement(0.0)).new_key

    @property
    def is_asked(self) -> bool:
        """Whether the authority may have got a request for the next key, with the present certificate."""
        return self._keystore.fact(_ASKED) == self._serial

    def begin(self, unix: float) -> None:
        """Takes up the wish. Raises `CommandError`, `FabricError` for what the custodian can't do."""
        if not self.is_asked and is_renewing(self._keystore, self._identity.certificate.serial):
            why = "the certificate is being renewed just now: try again in a minute"
            raise CommandError(ExitCode.NOT_SO, why)
        self._identity.next_key = peek_rotation(self._statement(unix)).new_key
        self._keystore.note_fact(_ASKED, self._serial)

    def request(self, unix: float) -> tuple[bytes, bytes]:
        """Returns the certificate request for the next key, always the same, and the statement that hands over."""
        nonce = renewal_nonce(self._keystore, self._identity.certificate.serial, os.urandom)
        request = self._custodian.make_request(self._identity.name, nonce, by_next=True)
        return request, self._statement(unix)

    def give_up(self) -> None:
        """The authority has refused: the certificate may be renewed as ever."""
        self._keystore.note_fact(_ASKED, "")
        forget_renewal(self._keystore)
        self._identity.next_key = None

    def complete(self, der: bytes) -> None:
        """The authority has certified the next key."""
        statements = [*load_statements(self._keystore), self._statement(0.0)][-MAX_ROTATIONS:]
        self._keystore.note_fact(_STATEMENTS, " ".join(statement.hex() for statement in statements))
        store_certificate(self._directory, der)
        certificate = decode_certificate(der)
        _take_over(self._custodian, certificate)
        self._identity.certificate = certificate
        self._identity.rotations = tuple(statements)

    @property
    def _serial(self) -> str:
        return f"{self._identity.certificate.serial:x}"

    def _statement(self, unix: float) -> bytes:
        return self._custodian.rotate(self._identity.name, unix)


def load_statements(keystore: Keystore) -> Sequence[bytes]:
    """Returns the rotations that led to the present key, the oldest first."""
    return [bytes.fromhex(text) for text in (keystore.fact(_STATEMENTS) or "").split()]


def take_over_if_due(custodian: Custodian, certificate: Certificate) -> None:
    """A crash may have come between the certificate of the next key and the custodian, or while that changed from one
    to the other: then the key before is not gone yet. Raises `ConfigurationError`."""
    try:
        _take_over(custodian, certificate)
    except PolicyError:
        raise ConfigurationError("certificate.pem is not for the identity key: enrol again") from None


def _take_over(custodian: Custodian, certificate: Certificate) -> None:
    if left := custodian.take_over(certificate.public_key):
        _log.warning(left)
