"""What the daemon knows of the network around it: a snapshot for the doctor, who measures the rest."""

from __future__ import annotations

from dataclasses import dataclass

from fabric.core.explain import Here
from fabric.core.mapping import MappingReport
from fabric.shell.links import Interface
from fabric.shell.proxy import DIRECT, Outlet
from fabric.wire.address import Address, Candidate, Transport
from fabric.wire.nat import NatBehaviour
from fabric.wire.rendezvous import RelayPlace


@dataclass(frozen=True, slots=True)
class ServiceLinkView:
    """One address of the discovery service, "host:port", and the daemon's own channel to it."""

    address: str
    is_up: bool
    rtt_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class RelayView:
    """One relay that the service has named, over one transport; `channels` are bound there."""

    place: RelayPlace
    transport: Transport
    channels: int = 0
    rtt_s: float | None = None
    why: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    """`here` is what the sentences in `why` are made from. `interfaces` are the own addresses, the overlay's not among
    them; `candidates` what offers tell of them.

    `lifetime_s` is how long a silent mapping is known to have lasted. `stun` are the servers' addresses, `stun_names`
    what they were resolved from. `clock_offset_s` is the service's clock less the own, None before the first `Welcome`.
    `outlet` is the way out to hosts over TCP.
    """

    here: Here
    interfaces: tuple[Interface, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    lifetime_s: float | None = None
    port_mapping: MappingReport | None = None
    services: tuple[ServiceLinkView, ...] = ()
    relays: tuple[RelayView, ...] = ()
    stun: tuple[Address, ...] = ()
    stun_names: tuple[str, ...] = ()
    clock_offset_s: float | None = None
    outlet: Outlet = DIRECT

    @property
    def nat(self) -> NatBehaviour:
        return self.here.nat

    @property
    def ips(self) -> tuple[str, ...]:
        return tuple(str(interface.ip) for interface in self.interfaces)
