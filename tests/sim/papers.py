"""What a node has made durable, and what it asks its host to sign: done before anything leaves that depends on it."""

from __future__ import annotations

from fabric.core.events import (
    BundleDue,
    CertificateReplaced,
    Event,
    ForgetRecord,
    RenewalDue,
    RevocationsReplaced,
    StoreRecord,
    StunNames,
)
from fabric.core.machine import Calendar, Draw
from fabric.core.node import Node
from fabric.crypto.signature import Ed25519Signer
from fabric.identity.bundle import BundleSecrets, make_bundle
from fabric.identity.certificate import decode_certificate
from fabric.identity.request import NONCE_BYTES, make_request
from fabric.wire.address import Address
from tests.sim.disk import Disk
from tests.sim.link import Socket
from tests.sim.schedule import Schedule


class Papers:
    """Stands between a node and the disk."""

    def __init__(self, disk: Disk, calendar: Calendar, schedule: Schedule, draw: Draw) -> None:
        self._disk = disk
        self._name = decode_certificate(disk.certificate).name
        self._calendar = calendar
        self._schedule = schedule
        self._draw = draw

    @property
    def servers(self) -> list[Socket]:
        """The STUN servers that were named last."""
        return [(ip, int(port)) for ip, _, port in (name.rpartition(":") for name in self._disk.stun)]

    def handle_event(self, node: Node, event: Event) -> bool:
        """Returns whether this was an event for it."""
        disk, now = self._disk, self._schedule.now
        match event:
            case StoreRecord(record=record):
                disk.store(record)
            case ForgetRecord(name=name):
                disk.forget(name)
            case CertificateReplaced(certificate=certificate):
                disk.certificate = certificate
            case RevocationsReplaced(crl=crl):
                disk.revocations = crl
            case StunNames(names=names):
                disk.stun = names
                node.handle_stun_servers([Address(*server) for server in self.servers], now)
            case RenewalDue():
                if disk.renewal[0] != disk.certificate:
                    disk.renewal = disk.certificate, self._draw(NONCE_BYTES)
                node.request_renewal(make_request(disk.seed, self._name, disk.renewal[1]), now)
            case BundleDue():
                self._renew_bundle(node)
            case _:
                return False
        return True

    def _renew_bundle(self, node: Node) -> None:
        """Makes the next bundle, and has its secrets on the disk before anyone can seal to it."""
        disk, now = self._disk, self._schedule.now
        newest = BundleSecrets.decode(disk.secrets[0]) if disk.secrets else None
        unix = self._calendar.unix(now)
        signer = Ed25519Signer(disk.seed)
        disk.bundle, secrets = make_bundle(signer, self._name, self._draw, unix, newest, above=int(unix))
        disk.secrets.insert(0, secrets.encode())
        node.replace_bundle(disk.bundle, now)
