"""What a thief takes from an endpoint, and what he makes of it on a host of his own.

A thief's endpoint has a witness of its own: to that of the world it does not exist.
"""

from __future__ import annotations

from dataclasses import replace

from fabric.core.events import RelayContested, TrustAlarm
from fabric.core.records import PeerRecord
from fabric.crypto.signature import LABEL_RELAY, Ed25519Signer
from fabric.identity.bundle import make_bundle, peek_bundle
from fabric.wire.relay import (
    NO_COOKIE,
    NO_SIGNATURE,
    RELAY_CONTROL_TYPE,
    Bind,
    Bound,
    Challenge,
    decode_relay_message,
    encode_relay_message,
)
from tests.sim.disk import Disk
from tests.sim.endpoint import Endpoint
from tests.sim.link import Socket
from tests.sim.office import NETWORK
from tests.sim.place import Access
from tests.sim.relay_host import RELAY_PORT, RelayHost
from tests.sim.witness import Witness
from tests.sim.world import World


def copy_of(disk: Disk) -> Disk:
    """Returns all that is on the disk now: a stolen state directory, a cloned image, a backup."""
    return replace(disk, secrets=list(disk.secrets), records=dict(disk.records))


def restore(endpoint: Endpoint, backup: Disk) -> None:
    """Puts an endpoint that is off back to what it was."""
    backup = copy_of(backup)
    disk = endpoint.disk
    disk.certificate, disk.revocations = backup.certificate, backup.revocations
    disk.bundle, disk.secrets, disk.records = backup.bundle, backup.secrets, backup.records
    disk.renewal = backup.renewal


def clone(world: World, endpoint: Endpoint, access: Access = Access.PUBLIC, disk: Disk | None = None) -> Endpoint:
    """Returns an endpoint, not started yet, that has all of another's disk."""
    return _set_up(world, copy_of(disk or endpoint.disk), access)


def key_thief(world: World, endpoint: Endpoint, access: Access = Access.PUBLIC, ahead: int = 1) -> Endpoint:
    """Returns an endpoint, not started yet, that has nothing of another but its identity key and what is public.

    Its key bundle is `ahead` of the owner's: peers take none that is lower than the last one.
    """
    stolen = endpoint.disk
    disk = Disk(stolen.seed, stolen.certificate, stolen.authority, stolen.revocations, stolen.stun)
    above = ahead - 1 + (0 if stolen.bundle is None else peek_bundle(stolen.bundle).serial)
    signer = Ed25519Signer(stolen.seed)
    disk.bundle, secrets = make_bundle(signer, endpoint.name, world.draw, world.unix, None, above)
    disk.secrets = [secrets.encode()]
    for record in stolen.load_records():
        disk.store(PeerRecord(name=record.name))
    return _set_up(world, disk, access)


def alarms_of(endpoint: Endpoint) -> list[tuple[float, TrustAlarm]]:
    """When the endpoint was alarmed, and why; in virtual time."""
    return [(at, event) for at, event in endpoint.events if isinstance(event, TrustAlarm)]


def hints_of(endpoint: Endpoint) -> list[float]:
    """When the endpoint was told that somebody else may use its key at a relay; in virtual time."""
    return [at for at, event in endpoint.events if isinstance(event, RelayContested)]


def _set_up(world: World, disk: Disk, access: Access) -> Endpoint:
    witness = Witness()
    name = disk.load_identity().name
    for record in disk.load_records():
        if record.is_wanted and record.enabled:
            witness.wish(name, record.name)
    host = world.network.make_host(f"thief of {name}")
    endpoint = Endpoint(host, disk, world.site, witness, world.schedule, world.draw)
    endpoint.sit(world.atlas.make(access))
    return endpoint


class Squatter:
    """Has an endpoint's key and grants, and does nothing but bind its channel at a relay, from ever new ports.

    `taken` counts how often it had one.
    """

    def __init__(self, world: World, endpoint: Endpoint, peer: Endpoint, relay: RelayHost, pace_s: float) -> None:
        (record,) = (record for record in endpoint.disk.load_records() if record.name == peer.name)
        assert record.grant is not None
        self.taken = 0
        self._grant = record.grant
        self._signer = Ed25519Signer(endpoint.disk.seed)
        self._world, self._relay, self._pace_s = world, relay, pace_s
        self._host = world.network.make_host(f"squatter of {endpoint.name}")
        world.atlas.make(Access.PUBLIC).seat(self._host)
        self._port = 20_000
        self._is_on = True
        self._begin()

    def stop(self) -> None:
        self._is_on = False

    def _begin(self) -> None:
        if not self._is_on:
            return
        self._port += 1
        self._host.bind(self._port, self._hear)
        self._say(Bind(NO_COOKIE, NO_SIGNATURE, self._grant))
        self._world.schedule.after(self._pace_s, self._begin)

    def _hear(self, _source: Socket, payload: bytes) -> None:
        if payload[0] != RELAY_CONTROL_TYPE:
            return
        match decode_relay_message(payload):
            case Challenge(grant_id=identifier, cookie=cookie):
                signature = self._signer.sign(LABEL_RELAY, NETWORK.encode(), cookie, identifier)
                self._say(Bind(cookie, signature, self._grant))
            case Bound():
                self.taken += 1

    def _say(self, message: Bind) -> None:
        self._host.send(self._port, (self._relay.ip, RELAY_PORT), encode_relay_message(message))
