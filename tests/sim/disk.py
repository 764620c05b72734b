"""What an endpoint has on stable storage: all that `kill -9` leaves."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field

from fabric.core.identity import Identity
from fabric.core.records import PeerRecord, decode_record, encode_record
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.bundle import BundleSecrets
from fabric.identity.bundle_keys import open_with
from fabric.identity.certificate import decode_certificate
from fabric.identity.trust import Trust


@dataclass(slots=True)
class Disk:
    """Everything as bytes, so that nothing of a dead process can be shared with the next."""

    seed: bytes = field(repr=False)
    certificate: bytes
    authority: bytes
    revocations: bytes
    stun: tuple[str, ...]
    bundle: bytes | None = None
    secrets: list[bytes] = field(default_factory=list, repr=False)
    records: dict[str, bytes] = field(default_factory=dict, repr=False)
    renewal: tuple[bytes, bytes] = (b"", b"")
    """The certificate to be renewed, and the random value of the one request for that."""

    def store(self, record: PeerRecord) -> None:
        self.records[record.name] = encode_record(record)

    def forget(self, name: str) -> None:
        self.records.pop(name, None)

    def load_records(self) -> list[PeerRecord]:
        return [decode_record(data) for data in self.records.values()]

    def load_identity(self) -> Identity:
        certificate = decode_certificate(self.certificate)
        network = certificate.name.partition(".")[2]
        return Identity(
            name=certificate.name,
            network=network,
            certificate=certificate,
            trust=Trust(self.authority, network, self.revocations or None),
            signer=Ed25519Signer(self.seed),
            opener=_Opener(self.secrets),
            bundle=self.bundle,
        )


@dataclass(frozen=True, slots=True)
class _Opener:
    """Opens with what is on the disk at this moment."""

    secrets: list[bytes] = field(repr=False)

    def open(self, sealed: bytes, info: bytes) -> bytes:
        return open_with(map(_decoded, self.secrets), sealed, info)


_decoded = functools.lru_cache(20_000)(BundleSecrets.decode)
"""Making the key pairs anew from their seeds is the most of it, and a disk is read again and again."""
