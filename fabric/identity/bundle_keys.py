"""The secrets of the own key bundles, the newest first: what is made, opened with, and deleted at its time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from fabric.crypto.signature import Signer
from fabric.errors import AuthenticationError
from fabric.identity.bundle import BundleSecrets, make_bundle
from fabric.wire.envelope import decode_header


class BundleKeys:
    """An `Opener` over every key that may still open something. `draw` returns as many random bytes as it is asked
    for."""

    __slots__ = ("_draw", "_held")

    def __init__(self, secrets: Iterable[BundleSecrets], draw: Callable[[int], bytes]) -> None:
        self._held = tuple(sorted(secrets, key=lambda held: held.serial, reverse=True))
        self._draw = draw

    def __repr__(self) -> str:
        return f"BundleKeys(serials={[held.serial for held in self._held]})"

    @property
    def held(self) -> tuple[BundleSecrets, ...]:
        return self._held

    def open(self, sealed: bytes, info: bytes) -> bytes:
        return open_with(self._held, sealed, info)

    def next_bundle(self, signer: Signer, name: str, unix: float, above: int) -> bytes:
        """Returns the next bundle, signed; its serial is higher than every other's, and than `above`."""
        previous = self._held[0] if self._held else None
        bundle, secrets = make_bundle(signer, name, self._draw, unix, previous, above)
        self._held = (secrets, *self._held)
        return bundle

    def forget(self, unix: float) -> bool:
        """Deletes every key whose time is over at this wall time; returns whether there was one."""
        kept = tuple(self._kept(unix))
        is_changed = kept != self._held
        self._held = kept
        return is_changed

    def _kept(self, unix: float) -> Iterator[BundleSecrets]:
        newer: BundleSecrets | None = None
        for held in self._held:
            # the newest always stays: the next serial follows from it
            is_mail_needed = newer is None or (held.mail.public != newer.mail.public and unix < held.mail_deletion)
            if unix < held.offer_deletion:
                yield held
            elif is_mail_needed:
                yield held if held.has_no_offer else held.without_offer(self._draw)
            newer = held


def open_with(secrets: Iterable[BundleSecrets], sealed: bytes, info: bytes) -> bytes:
    """Opens what is sealed to one of these bundles, with the key that the envelope's header `info` names.

    Raises `AuthenticationError`, also where that key is gone, and `DecodeError` for what is no header.
    """
    header = decode_header(info)
    held = next((held for held in secrets if held.serial == header.bundle_serial), None)
    if held is None:
        raise AuthenticationError("an envelope to a key that is gone")
    return (held.mail if header.kind.is_mail else held.offer).open(sealed, info)
