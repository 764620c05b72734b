"""Which lane carries the frames: the native one where it was built and finds its ciphers, else the one in Python.

A library counts only when it gives known answers. The order is that of speed, as measured (docs/performance.md).
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from types import ModuleType
from typing import TYPE_CHECKING

import cryptography
import nacl._sodium  # type: ignore[import-not-found]

from fabric.crypto.aead import Suite
from fabric.dataplane.native import NativeLane
from fabric.errors import ConfigurationError
from fabric.shell.log import Log

if TYPE_CHECKING:
    from fabric.dataplane.reference import ReferenceLane

_log = Log("fabric.lanes")

_OPENSSL_3_5 = (3, 5)


class _Library(enum.IntEnum):
    """As `enum library` of aead.h has them."""

    OPENSSL = 0
    SODIUM = 1
    NONE = 2


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A place to look for ciphers. `needs` is the least version that is worth it, where that matters."""

    library: _Library
    path: str
    label: str = ""
    needs: tuple[int, int] | None = None


CANDIDATES = {
    "openssl-3.5": _Candidate(_Library.OPENSSL, "libcrypto.so.3", needs=_OPENSSL_3_5),
    "pynacl": _Candidate(_Library.SODIUM, nacl._sodium.__file__, label=f"libsodium of PyNaCl {nacl.__version__}"),
    "libsodium": _Candidate(_Library.SODIUM, "libsodium.so.26"),
    "libsodium-old": _Candidate(_Library.SODIUM, "libsodium.so.23"),
    "openssl": _Candidate(_Library.OPENSSL, "libcrypto.so.3"),
}
"""Debian 12's libsodium and OpenSSL come last: they carry less (docs/performance.md, the ladder)."""


@dataclass(frozen=True, slots=True)
class ChosenLane:
    """`name` and `provider` as `status` shows them."""

    lane: NativeLane | ReferenceLane
    name: str
    provider: str


def choose_lane(
    wanted: str,
    mac: bytes,
    addresses: Sequence[IPv4Address | IPv6Address],
    segments: int = 1,
    library: str = "auto",
) -> ChosenLane:
    """Returns a lane of the kind `wanted`: "native", "reference", or "auto" for the better one that works here.

    `segments` is how many datagrams a send may hold, `library` the only place to take ciphers from. Raises
    `ConfigurationError` where "native" can't be had.
    """
    why = ""
    if wanted != "reference":
        try:
            return _native(mac, addresses, segments, library)
        except (ImportError, OSError) as error:
            why = str(error)
        if wanted == "native":
            raise ConfigurationError(f'lane = "native": {why}; say "auto" to do without it')
        _log.info(
            "the native lane can't be had: the one in Python carries the frames, at a third of the speed", why=why
        )
    from fabric.dataplane.reference import ReferenceLane  # here, because it is seldom needed and a start is short

    return ChosenLane(ReferenceLane(mac, addresses), "reference", f"cryptography {cryptography.__version__}")


def _native(mac: bytes, addresses: Sequence[IPv4Address | IPv6Address], segments: int, library: str) -> ChosenLane:
    """Raises `ImportError` where it was not built, `OSError` where there is no cipher for it."""
    from fabric.dataplane import _native

    aes, aes_label = _load(_native, Suite.AES_256_GCM, library)
    chacha, chacha_label = _load(_native, Suite.CHACHA20_POLY1305, library)
    lane = NativeLane(_native.Lane(mac, aes, chacha, segments), mac, addresses)
    provider = aes_label if aes_label == chacha_label else f"{aes_label}, {chacha_label}"
    return ChosenLane(lane, "native", provider)


def _load(native: ModuleType, suite: Suite, library: str) -> tuple[int, str]:
    """Returns the number and name of the first provider that is good enough. Raises `OSError`."""
    refused = []
    for candidate in _candidates(library):
        try:
            number, version = _provider(native, candidate.library, candidate.path, suite)
        except OSError as error:
            refused.append(str(error))
            continue
        if candidate.needs is None or _version(version) >= candidate.needs:
            return number, candidate.label or version
        refused.append(f"{version} is too old")
    raise OSError(f"no library here has {suite.label} for it ({'; '.join(refused)})")


@functools.cache
def _provider(native: ModuleType, library: _Library, path: str, suite: Suite) -> tuple[int, str]:
    """Each is loaded once: it stays for as long as the process."""
    number, version = native.load_provider(library, path, suite)
    return number, version


def _candidates(library: str) -> Iterator[_Candidate]:
    if library == "none":  # only a build for measuring takes it
        yield _Candidate(_Library.NONE, "")
    elif library == "auto":
        yield from CANDIDATES.values()
    else:
        yield from (candidate for name, candidate in CANDIDATES.items() if name.startswith(library))


def _version(text: str) -> tuple[int, ...]:
    """The first two numbers of "OpenSSL 3.5.1"; nothing where there are none."""
    words = text.rpartition(" ")[2].split(".")
    return tuple(int(word) for word in words[:2] if word.isdigit())
