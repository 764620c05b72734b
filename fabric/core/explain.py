"""Why this path and no better one, and what would have to change: one sentence for a person, true for the facts given.

    <path>, because <reason>; <way> or <way>

A reason names only what is known of a network: nothing is said of a peer's NAT that its offer does not tell. A way is
named only where it would do by itself. Which pairs can open is RFC 4787's vocabulary applied to two punchers: where
both mappings hold, each opens its own filter by sending; where one depends on the destination, the other side must let
in what comes from a port that nobody knows.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from fabric.core.path_rhythm import PUNCH_INTERVALS_S
from fabric.core.status import Attempt, Outcome, PathKind
from fabric.wire.address import Address, CandidateKind, Transport
from fabric.wire.nat import UNKNOWN_NAT, Filtering, Mapping, NatBehaviour

_RELAYED = (PathKind.RELAY_UDP, PathKind.RELAY_TLS)
_BEST = (PathKind.LAN, PathKind.DIRECT_UDP)
_FIRST_LOOK_TRIES = len(PUNCH_INTERVALS_S)
"""One rhythm of probes. What has not answered by then is looked at again and again, which is no news to wait for."""

_NARROW_IPV6 = tuple(ipaddress.ip_network(text) for text in ("fc00::/7", "fe80::/10", "::1/128"))
"""IPv6 addresses that mean nothing beyond a site: unique local (RFC 4193), link-local, loopback."""


@dataclass(frozen=True, slots=True)
class Here:
    """What is known of the own network.

    `port` is the own UDP port. `has_ipv4` and `has_ipv6` say whether the host has an address of each family that the
    internet could know. `carries_tcp` is False where TCP to other ports than the service's gets no answer, None while
    nobody has tried. `can_forward` is False where the router is itself behind a NAT: a port opened there opens nothing.
    """

    port: int
    nat: NatBehaviour = UNKNOWN_NAT
    has_ipv4: bool = True
    has_ipv6: bool = False
    carries_tcp: bool | None = None
    can_forward: bool = True
    is_service_up: bool = True


@dataclass(frozen=True, slots=True)
class Case:
    """One peer as it stands. `path` and `remote` are the primary's, None without one; relays are those of this peer:
    how many the service has granted, and at how many a channel is bound. `guesses` counts the probes spent on ports."""

    peer: str
    here: Here
    theirs: NatBehaviour = UNKNOWN_NAT
    path: PathKind | None = None
    remote: Address | None = None
    attempts: Sequence[Attempt] = ()
    guesses: int = 0
    is_guessing: bool = False
    relays_granted: int = 0
    relays_bound: int = 0


def explain(case: Case) -> str:
    """Returns the sentence."""
    match case.path:
        case PathKind.LAN:
            return "on the same local network"
        case PathKind.DIRECT_UDP:
            return _directly(case)
        case PathKind.DIRECT_TCP:
            return _over_tcp(case)
        case PathKind.RELAY_UDP | PathKind.RELAY_TLS:
            return _over_relay(case)
        case None:
            return _nowhere(case)


def ways_to_better(case: Case) -> tuple[str, ...]:
    """Returns what a person can do for a better path, each enough by itself; nothing while one is still looked for."""
    if case.path in _BEST or _is_searching(case) or _any(_better(case), Outcome.ANSWERS):
        return ()
    if not (case.here.nat.carries_udp and case.theirs.carries_udp):
        return (_let_udp_out(case),)
    direct = _direct(case)
    if not direct:
        return ()
    if _shares_no_family(case):
        return (f"use {_their_family(case)} here too",)
    if case.here.nat.mapping is Mapping.UNKNOWN or case.theirs.mapping is Mapping.UNKNOWN:
        return (_look_closer(case),)
    openings = _openings(case)
    if not openings and case.here.can_forward:
        openings = ("see that no firewall on either host stops UDP",)
    return (*openings, *_over_ipv6(case))


def has_wide_ipv6(ips: Iterable[str]) -> bool:
    """Whether one of these addresses is an IPv6 address that means something beyond its site."""
    return any(_is_wide_ipv6(ip) for ip in ips)


# by path


def _directly(case: Case) -> str:
    family = "" if case.remote is None else ", IPv6" if case.remote.is_ipv6 else ", IPv4"
    guesses = f"; {case.guesses} ports were tried in the search for it" if case.guesses else ""
    return f"directly over UDP{family}{guesses}"


def _over_tcp(case: Case) -> str:
    if _any(_better(case), Outcome.ANSWERS):
        return "directly over TCP, while a path over UDP answers too"
    if _is_searching(case):
        return "directly over TCP for now, while a path over UDP is being looked for"
    return _because("directly over TCP", case)


def _over_relay(case: Case) -> str:
    place = f"over the relay at {case.remote}" if case.remote is not None else "over a relay"
    head = f"{place} by TLS" if case.path is PathKind.RELAY_TLS else place
    if _any(_better(case), Outcome.ANSWERS):
        return f"{head}, while a direct path answers too"
    if _is_searching(case):
        return f"{head} for now, while a direct path is being looked for{_manner(case)}"
    return _because(head, case)


def _nowhere(case: Case) -> str:
    direct = _direct(case)
    if _any(case.attempts, Outcome.ANSWERS):
        return "a path is open, the handshake is under way"
    if not direct:
        return f"{case.peer} has named no address that can be tried from here, and {_no_relay(case)}"
    anywhere = f"on any of the {len(direct)} addresses" if len(direct) > 1 else "on the only address"
    if _is_searching(case):
        return f"no answer yet {anywhere} of {case.peer}{_manner(case)}"
    head = f"no answer {anywhere} of {case.peer}, and {_no_relay(case)}"
    if case.relays_bound or not (known := _known_reason(case)):
        return f"{head}: it may be off or without a network"
    return _joined(f"{head}: it may be off, or {known}", case)


def _because(head: str, case: Case) -> str:
    return _joined(f"{head}, because {_reason(case)}", case)


def _joined(sentence: str, case: Case) -> str:
    ways = ways_to_better(case)
    if not ways:
        return sentence
    *others, last = ways
    return f"{sentence}; {', '.join(others)} or {last}" if others else f"{sentence}; {last}"


def _manner(case: Case) -> str:
    if case.is_guessing:
        return " by guessing ports"
    return " over TCP" if _is_udp_barred(case) and all(a.kind is PathKind.DIRECT_TCP for a in _sought(case)) else ""


def _no_relay(case: Case) -> str:
    if case.relays_bound:
        return "nothing comes over a relay"
    if case.relays_granted:
        return "no relay answers"
    if case.here.is_service_up:
        return "the service offers no relay"
    return "there is no connection to the discovery service to ask for a relay"


# reasons


def _reason(case: Case) -> str:
    return _known_reason(case) or _silence(case)


def _known_reason(case: Case) -> str:
    """Returns what is known to stand in the way; empty where nothing is."""
    if _is_udp_barred(case):
        return _barred(case)
    if _direct(case) and _shares_no_family(case):
        return _strangers(case)
    ports = _changing_ports(case)
    return f"{ports}, and nothing answers over IPv6" if ports and _both_have_ipv6(case) else ports


def _barred(case: Case) -> str:
    here, theirs = case.here.nat.carries_udp, case.theirs.carries_udp
    if not here and case.here.carries_tcp is False and case.path is not PathKind.DIRECT_TCP:
        return "the network here lets out neither UDP nor most TCP"
    if not here and not theirs:
        return f"neither network lets UDP out{_tcp_too(case)}"
    return f"the network {'of ' + case.peer if here else 'here'} lets no UDP out{_tcp_too(case)}"


def _tcp_too(case: Case) -> str:
    tried = [a for a in case.attempts if a.kind is PathKind.DIRECT_TCP and a.outcome is not Outcome.WAITING]
    if case.path is PathKind.DIRECT_TCP or not tried:
        return ""
    if all(a.outcome is Outcome.REFUSED for a in tried):
        return " and TCP is refused"
    return " and nothing answers over TCP"


def _strangers(case: Case) -> str:
    family = _their_family(case)
    return f"{case.peer} has named {family} addresses only, and this host has no {family} to the internet"


def _changing_ports(case: Case) -> str:
    """A mapping that depends on the destination, on one side or both."""
    here, theirs, peer = case.here.nat, case.theirs, case.peer
    if _do_both_ports_change(case):
        return "both NATs give every destination its own port"
    if here.mapping.is_dependent:
        return f"the NAT here gives every destination its own port{_other_side(case, theirs, f'of {peer}')}"
    if theirs.mapping.is_dependent:
        return f"the NAT of {peer} gives every destination its own port{_other_side(case, here, 'here')}"
    return ""


def _other_side(case: Case, steady: NatBehaviour, whose: str) -> str:
    """What the other side does with a port that it does not know."""
    if steady.filtering is not Filtering.ADDRESS_AND_PORT_DEPENDENT:
        return f" and {_silence(case)}"
    box = {Mapping.NONE: "firewall", Mapping.UNKNOWN: "network"}.get(steady.mapping, "NAT")
    guessed = f", {case.guesses} guesses at it met nothing" if case.guesses else ""
    return f" and the {box} {whose} lets nothing in but answers{guessed}"


def _silence(case: Case) -> str:
    peer, better = case.peer, _better(case)
    over = " over UDP" if case.path is PathKind.DIRECT_TCP else ""
    if not better:
        return f"{peer} has named no address to be reached at{over}"
    if _any(better, Outcome.LOST):
        return f"no address of {peer} answers{over} any more"
    return f"no address of {peer} answers{over}"


# ways


def _let_udp_out(case: Case) -> str:
    if case.here.nat.carries_udp:
        return f"let UDP out of the network of {case.peer}"
    return "let UDP out of the network here" if case.theirs.carries_udp else "let UDP out of both networks"


def _look_closer(case: Case) -> str:
    """Of an unknown network it is not even known that UDP gets out: nothing can be promised to be enough."""
    if case.here.nat.mapping is not Mapping.UNKNOWN:
        return f"see what `fabric doctor` finds at {case.peer}"
    where = "here" if case.theirs.mapping is not Mapping.UNKNOWN else f"here and at {case.peer}"
    return f"see what `fabric doctor` finds {where}"


def _openings(case: Case) -> tuple[str, ...]:
    """Whose port to open for everybody. Where both have IPv6 that is the shorter way: no port is forwarded there."""
    over = " over IPv6" if _both_have_ipv6(case) else ""
    sides = list(_closed_sides(case))
    verbs = ["let" if over else verb for verb, _, _ in sides]
    if len(sides) == 2 and verbs[0] == verbs[1] and sides[0][1] == sides[1][1]:
        return (f"{_opening(verbs[0], sides[0][1], over)} on either side",)
    return tuple(
        f"{_opening(verb, port, over)} {'to' if verb == 'forward' else 'at'} {where}"
        for verb, (_, port, where) in zip(verbs, sides, strict=True)
    )


def _closed_sides(case: Case) -> Iterator[tuple[str, int, str]]:
    """Yields verb, port and place of each side that does not let everybody in already, and that a person can open."""
    own_port = case.here.port if case.here.can_forward or _both_have_ipv6(case) else 0
    for nat, port, where in ((case.here.nat, own_port, "this host"), (case.theirs, _their_port(case), case.peer)):
        is_open = nat.filtering is Filtering.ENDPOINT_INDEPENDENT and not nat.mapping.is_dependent
        if port and (not is_open or _both_have_ipv6(case)):  # the behaviour is that of IPv4
            yield ("let" if nat.mapping is Mapping.NONE else "forward"), port, where


def _opening(verb: str, port: int, over: str) -> str:
    return f"forward UDP {port}" if verb == "forward" else f"let UDP {port} in{over}"


def _over_ipv6(case: Case) -> tuple[str, ...]:
    match (case.here.has_ipv6, _they_have_ipv6(case)):
        case (True, True):
            return ()
        case (True, False):
            return (f"use IPv6 at {case.peer} too",)
        case (False, True):
            return ("use IPv6 here too",)
        case _:
            return ("use IPv6",)


# facts


def _direct(case: Case) -> list[Attempt]:
    return [a for a in case.attempts if a.kind not in _RELAYED]


def _better(case: Case) -> list[Attempt]:
    """Those whose class is better than that of the path in use, or could be one."""
    return [a for a in _direct(case) if case.path is not PathKind.DIRECT_TCP or a.kind is not PathKind.DIRECT_TCP]


def _sought(case: Case) -> list[Attempt]:
    """What is still worth waiting for: its turn is to come, or it is at its first look."""
    return [
        a
        for a in _better(case)
        if a.outcome in (Outcome.TRYING, Outcome.WAITING) and a.tries <= _FIRST_LOOK_TRIES and not _is_vain(a, case)
    ]


def _is_vain(attempt: Attempt, case: Case) -> bool:
    """UDP that no network carries, and ports that mean nothing to this host: tried all the same, for what is known of
    a NAT may be wrong. Not so on the LAN, over IPv6, at a port that a router has opened or that the peer came from."""
    if attempt.kind is PathKind.LAN:
        return False
    if attempt.kind is PathKind.DIRECT_UDP and _is_udp_barred(case):
        return True
    is_told = attempt.candidate in (CandidateKind.HOST, CandidateKind.REFLEXIVE)
    return is_told and not attempt.remote.is_ipv6 and _do_both_ports_change(case)


def _is_searching(case: Case) -> bool:
    """An address is being tried, or none has had its turn yet; what waits behind others may wait on."""
    sought = _sought(case)
    return case.is_guessing or _any(sought, Outcome.TRYING) or (bool(sought) and len(sought) == len(_better(case)))


def _do_both_ports_change(case: Case) -> bool:
    return case.here.nat.mapping.is_dependent and case.theirs.mapping.is_dependent


def _is_udp_barred(case: Case) -> bool:
    return not (case.here.nat.carries_udp and case.theirs.carries_udp)


def _any(attempts: Iterable[Attempt], outcome: Outcome) -> bool:
    return any(a.outcome is outcome for a in attempts)


def _shares_no_family(case: Case) -> bool:
    families = {a.remote.is_ipv6 for a in _direct(case)}
    return (families == {True} and not case.here.has_ipv6) or (families == {False} and not case.here.has_ipv4)


def _their_family(case: Case) -> str:
    return "IPv6" if _direct(case)[0].remote.is_ipv6 else "IPv4"


def _they_have_ipv6(case: Case) -> bool:
    return has_wide_ipv6(a.remote.ip for a in _direct(case))


def _both_have_ipv6(case: Case) -> bool:
    return case.here.has_ipv6 and _they_have_ipv6(case)


def _is_wide_ipv6(ip: str) -> bool:
    parsed = ipaddress.ip_address(ip)
    return parsed.version == 6 and not any(parsed in network for network in _NARROW_IPV6)


def _their_port(case: Case) -> int:
    """Returns the port that the peer's own sockets have, 0 where it named no host address."""
    for attempt in case.attempts:
        if attempt.candidate is CandidateKind.HOST and attempt.remote.transport is Transport.UDP:
            return attempt.remote.port
    return 0
