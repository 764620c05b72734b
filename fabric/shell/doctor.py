"""`fabric doctor`: what the network around here allows, measured now; and why a peer is reached as it is.

Everything is measured at once, from sockets of the doctor's own, so that neither the person nor a frame waits.
"""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

import trio

from fabric.core.explain import Case, ways_to_better
from fabric.core.mapping import Outcome
from fabric.core.status import PathKind, PeerState, PeerStatus
from fabric.errors import FabricError
from fabric.shell.checks.discovery import check_discovery, check_dns
from fabric.shell.checks.finding import Finding, Verdict
from fabric.shell.checks.hairpin import check_hairpin
from fabric.shell.checks.mtu import check_mtu
from fabric.shell.checks.network import NetworkView, RelayView
from fabric.shell.checks.relay import check_relays
from fabric.shell.checks.tcp import check_tcp
from fabric.shell.checks.told import check_clock, check_nat, check_port_mapping, check_proxy
from fabric.shell.checks.udp import check_ipv6, check_udp
from fabric.shell.control_wire import CandidateReport, CheckReport, HereReport, PeerExamination, RelayReport
from fabric.shell.report import enum_words, milliseconds, report_attempt, report_nat, report_peer
from fabric.wire.address import CandidateKind, Transport
from fabric.wire.nat import UNKNOWN_NAT

LIMIT_S = 8.0
"""No check may take longer: the slowest, of a name, a connection and TLS that all hang, gives up before."""

Check = Callable[[NetworkView], Awaitable[Finding]]


class Doctor:
    """`look` tells what the daemon knows at this moment, `peers` how they stand; `context` is for TLS to the service
    and its relays."""

    def __init__(
        self, look: Callable[[], NetworkView], peers: Callable[[], Sequence[PeerStatus]], context: ssl.SSLContext
    ) -> None:
        self._look = look
        self._peers = peers
        self._context = context
        self._turn = trio.Lock()

    async def examine(self) -> tuple[CheckReport, ...]:
        """Returns what each check has found, in the order in which a person reads it. One examination at a time."""
        checks = self._checks()
        found: dict[str, Finding] = {}

        async def run(name: str, check: Check, network: NetworkView) -> None:
            found[name] = await _found(check, network)

        async with self._turn, trio.open_nursery() as nursery:
            network = self._look()
            for name, check in checks.items():
                nursery.start_soon(run, name, check, network)
        return tuple(_report(name, found[name]) for name in checks)

    def examine_peer(self, peer: PeerStatus) -> PeerExamination:
        """Returns every address of `peer` that was tried, and what would have to change."""
        network = self._look()
        return PeerExamination(
            peer=report_peer(peer),
            why=peer.why,
            fixes=fixes(peer, network),
            attempts=tuple(report_attempt(attempt) for attempt in peer.attempts),
            here=_report_here(network),
            their_nat=None if peer.nat is None else report_nat(peer.nat),
            guesses=peer.guesses,
        )

    def _checks(self) -> dict[str, Check]:
        return {
            "udp": check_udp,
            "tcp": check_tcp,
            "ipv6": check_ipv6,
            "nat": _at_once(check_nat),
            "hairpin": check_hairpin,
            "port-mapping": _at_once(check_port_mapping),
            "proxy": _at_once(check_proxy),
            "mtu": lambda network: check_mtu(network, _confirmed_mtu(self._peers())),
            "dns": check_dns,
            "clock": _at_once(check_clock),
            "discovery": lambda network: check_discovery(network, self._context),
            "relay": lambda network: check_relays(network, self._context),
        }


def fixes(peer: PeerStatus, network: NetworkView) -> tuple[str, ...]:
    """Returns what a person can do for `peer` to be reached, or reached better."""
    match peer.state:
        case PeerState.DISABLED:
            return (f"`fabric enable {peer.name}` here",)
        case PeerState.PENDING if not network.here.is_service_up:
            return ("see why the discovery service is not reached: `fabric doctor`",)
        case PeerState.PENDING:
            return (f"`fabric add` this endpoint at {peer.name}",)
        case PeerState.INTRODUCED:
            return (f"see that the daemon of {peer.name} runs",)
        case PeerState.QUARANTINED:
            return (f"find out which of the two was copied, then `fabric trust reset` on both, here for {peer.name}",)
        case PeerState.CONNECTING | PeerState.CONNECTED:
            return ways_to_better(_case(peer, network))


def _case(peer: PeerStatus, network: NetworkView) -> Case:
    mapping = network.port_mapping
    is_hidden = mapping is not None and mapping.outcome is Outcome.BEHIND_NAT
    return Case(
        peer=peer.name,
        here=replace(network.here, can_forward=not is_hidden),
        theirs=peer.nat or UNKNOWN_NAT,
        path=peer.path.kind if peer.path else None,
        remote=peer.path.remote if peer.path else None,
        attempts=peer.attempts,
        guesses=peer.guesses,
        relays_granted=len(network.relays),
        relays_bound=sum(attempt.candidate is CandidateKind.RELAYED for attempt in peer.attempts),
    )


def _confirmed_mtu(peers: Sequence[PeerStatus]) -> int | None:
    """Returns the longest outer packet that any peer has answered for, by UDP and not through a relay."""
    direct = (PathKind.LAN, PathKind.DIRECT_UDP)
    known = (a.mtu for peer in peers for a in peer.attempts if a.kind in direct and a.mtu is not None)
    return max(known, default=None)


def _at_once(look: Callable[[NetworkView], Finding]) -> Check:
    async def check(network: NetworkView) -> Finding:
        return look(network)

    return check


async def _found(check: Check, network: NetworkView) -> Finding:
    """A check that fails is a finding, and takes nothing else with it."""
    with trio.move_on_after(LIMIT_S):
        try:
            return await check(network)
        except* (OSError, FabricError) as errors:
            why = "; ".join(str(error) for error in errors.exceptions)
        return Finding(Verdict.UNKNOWN, f"could not be looked at: {why}")
    return Finding(Verdict.UNKNOWN, f"took longer than {LIMIT_S:.0f} s")


def _report(name: str, finding: Finding) -> CheckReport:
    return CheckReport(name, finding.verdict.value, finding.text, dict(finding.figures))


def _report_here(network: NetworkView) -> HereReport:
    return HereReport(
        port=network.here.port,
        nat=report_nat(network.nat),
        candidates=tuple(
            CandidateReport(str(c.address), enum_words(c.address.transport), enum_words(c.kind))
            for c in network.candidates
        ),
        relays=tuple(_report_relay(relay) for relay in network.relays),
    )


def _report_relay(relay: RelayView) -> RelayReport:
    place = relay.place
    port = place.tls_port if relay.transport is Transport.RELAY_TLS else place.udp_port
    rtt_ms = None if relay.rtt_s is None else milliseconds(relay.rtt_s)
    return RelayReport(f"{place.host}:{port}", enum_words(relay.transport), relay.channels, rtt_ms, relay.why)
