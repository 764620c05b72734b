"""What the daemon has found out by itself, in words: NAT, port mapping, proxy, clock."""

from __future__ import annotations

from fabric.core.mapping import Outcome
from fabric.shell.checks.finding import Finding, Scalar, Verdict
from fabric.shell.checks.network import NetworkView
from fabric.shell.report import enum_words
from fabric.wire.nat import Filtering, Mapping

SUSPICIOUS_CLOCK_S = 60.0
"""No network delays an answer by this: the clock is wrong, though peers will bear it yet."""
WRONG_CLOCK_S = 300.0
"""Peers refuse what is dated further from their own clock (protocol.md section 4)."""

_MAPPINGS = {
    Mapping.NONE: "no NAT: servers see this host's own address",
    Mapping.ENDPOINT_INDEPENDENT: "the NAT keeps one port for all destinations",
    Mapping.ADDRESS_DEPENDENT: "the NAT gives every destination host its own port",
    Mapping.ADDRESS_AND_PORT_DEPENDENT: "the NAT gives every destination its own port",
}
_FILTERINGS = {
    Filtering.ENDPOINT_INDEPENDENT: "everybody may send to it",
    Filtering.ADDRESS_DEPENDENT: "whoever it was sent from to may send back, from any port",
    Filtering.ADDRESS_AND_PORT_DEPENDENT: "nothing comes in but answers",
}


def check_nat(network: NetworkView) -> Finding:
    """A direct path needs a port that others can know, on one of the two sides."""
    nat = network.nat
    figures: dict[str, Scalar] = {
        "mapping": enum_words(nat.mapping),
        "filtering": enum_words(nat.filtering),
        "stride": nat.stride,
        "lifetime_s": network.lifetime_s,
    }
    if not nat.carries_udp:
        return Finding(Verdict.FAILED, "no UDP comes back, so nobody can tell what NAT is here", figures)
    if nat.mapping is Mapping.UNKNOWN:
        return Finding(Verdict.UNKNOWN, "too few servers have answered to tell what NAT is here", figures)
    parts = [_MAPPINGS[nat.mapping], *([_FILTERINGS[nat.filtering]] if nat.filtering in _FILTERINGS else [])]
    if nat.stride:
        parts.append(f"ports follow each other by {nat.stride}")
    if network.lifetime_s is not None:
        parts.append(f"a silent port stays open for {network.lifetime_s:.0f} s at least")
    if nat.mapping.is_dependent:
        parts.append(f"forward UDP {network.here.port} to this host to be reached by everybody")
    return Finding(Verdict.LIMITED if nat.mapping.is_dependent else Verdict.OK, ", ".join(parts), figures)


def check_port_mapping(network: NetworkView) -> Finding:
    report = network.port_mapping
    if report is None:
        return Finding(Verdict.UNKNOWN, "the router was not asked")
    figures: dict[str, Scalar] = {
        "outcome": report.outcome.value,
        "by": report.protocol.value if report.protocol else None,
        "outside": ", ".join(map(str, report.addresses)),
    }
    if report.outcome is Outcome.MAPPED:
        return Finding(Verdict.OK, report.words, figures)
    if network.nat.mapping is Mapping.NONE:
        return Finding(Verdict.OK, "not needed without a NAT", figures)
    verdict = Verdict.UNKNOWN if report.outcome is Outcome.ASKING else Verdict.LIMITED
    return Finding(verdict, report.words, figures)


def check_proxy(network: NetworkView) -> Finding:
    """Shown without user and password."""
    proxy = network.outlet.proxy
    if proxy is None:
        return Finding(Verdict.OK, "neither the configuration nor the environment of the daemon names a proxy")
    hosts = f", but for {' '.join(network.outlet.direct)}" if network.outlet.direct else ""
    text = f"the service, and relays over TLS, are reached through {proxy}{hosts}"
    return Finding(Verdict.OK, text, {"proxy": str(proxy), "no_proxy": " ".join(network.outlet.direct)})


def check_clock(network: NetworkView) -> Finding:
    offset = network.clock_offset_s
    if offset is None:
        return Finding(Verdict.UNKNOWN, "the service has not told its time yet")
    figures = {"offset_s": round(offset, 3)}
    if abs(offset) < SUSPICIOUS_CLOCK_S:
        return Finding(Verdict.OK, f"{abs(offset):.1f} s from the service's", figures)
    side = "behind" if offset > 0 else "ahead of"
    text = f"{abs(offset):.0f} s {side} the service's: set the clock"
    if abs(offset) < WRONG_CLOCK_S:
        return Finding(Verdict.LIMITED, text, figures)
    return Finding(Verdict.FAILED, f"{text}, peers refuse this endpoint", figures)
