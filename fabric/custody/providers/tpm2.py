"""Secrets sealed to this machine's TPM 2.0: of no use on any other machine.

A key that the TPM seals opens the secret: see `tpm2_primary` for what is in the TPM, and `fabric.custody.wrapped` for
the blob.

No PCR takes part: an update of the firmware or of the kernel locks nobody out, and whoever is root on this very machine
can unseal. What it keeps off is the copy: of the disk, of a backup, of an image.
"""

from __future__ import annotations

import importlib.util
import os
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fabric.custody.provider import Rank
from fabric.custody.wrapped import open_wrapped, seal_wrapped
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError

if TYPE_CHECKING:
    from fabric.custody.providers.tpm2_primary import Primary

NAME = "tpm2"
DEVICE = Path("/dev/tpmrm0")
"""The kernel's resource manager: several programs may use the TPM side by side."""

_LIBRARY = "tpm2_pytss"
_KIND = b"TPM2"


@dataclass(frozen=True, slots=True)
class Tpm2:
    """A `Provider`. `place` is a TCTI of tpm2-tss, such as `swtpm:path=/run/swtpm`; empty for `DEVICE`."""

    place: str = ""

    @property
    def name(self) -> str:
        return NAME

    @property
    def rank(self) -> Rank:
        return Rank.TPM2

    def is_available(self) -> bool:
        if importlib.util.find_spec(_LIBRARY) is None or not (self.place or os.access(DEVICE, os.R_OK | os.W_OK)):
            return False
        try:
            with self._opened():
                return True
        except ConfigurationError:
            return False

    def seal(self, secret: bytes) -> bytes:
        with self._opened() as primary:
            return seal_wrapped(_KIND, secret, primary.wrap)

    def unseal(self, blob: bytes) -> bytes:
        try:
            with self._opened() as primary:
                return open_wrapped(_KIND, blob, primary.unwrap)
        except (AuthenticationError, DecodeError):
            raise ConfigurationError("it is damaged: restore it from a backup, or remove it and enrol again") from None

    def _opened(self) -> AbstractContextManager[Primary]:
        # the library writes each refusal to stderr, and reads once whether it should
        os.environ.setdefault("TSS2_LOG", "all+NONE")
        try:
            from fabric.custody.providers.tpm2_primary import opened_primary
        except ImportError as error:
            raise ConfigurationError(f"{NAME} needs tpm2-pytss and the libraries of tpm2-tss: {error}") from None
        return opened_primary(self.place or f"device:{DEVICE}")


def open_provider(place: str, directory: Path) -> Tpm2:  # noqa: ARG001 each provider is asked the same way
    """Returns the provider; the TPM is opened when it is asked for something."""
    return Tpm2(place)
