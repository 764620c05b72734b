"""The sentence in `why`, against a plain reading of the facts, over all the NATs that two sides can have."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import pytest

from fabric.core.explain import Case, Here, explain, has_wide_ipv6, ways_to_better
from fabric.core.status import Attempt, Outcome, PathKind
from fabric.wire.address import Address, CandidateKind, Transport
from fabric.wire.nat import UNKNOWN_NAT, Filtering, Mapping, NatBehaviour

PORT, THEIR_PORT = 41641, 5555
RELAY = Address("192.0.2.9", 3478, Transport.RELAY_UDP, 7)
STRICT = Filtering.ADDRESS_AND_PORT_DEPENDENT
SYMMETRIC = NatBehaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT, STRICT)
RESTRICTED = NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, STRICT)
OPEN = NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
FIREWALL = NatBehaviour(Mapping.NONE, STRICT)
BARRED = NatBehaviour(carries_udp=False)

REMOTES = {
    None: None,
    PathKind.LAN: Address("192.168.1.7", 5555),
    PathKind.DIRECT_UDP: Address("198.51.100.7", 5555),
    PathKind.DIRECT_TCP: Address("198.51.100.7", 5555, Transport.TCP, 3),
    PathKind.RELAY_UDP: RELAY,
    PathKind.RELAY_TLS: Address("192.0.2.9", 443, Transport.RELAY_TLS, 7),
}


def attempt(
    ip: str = "198.51.100.7",
    outcome: Outcome = Outcome.UNANSWERED,
    *,
    port: int = THEIR_PORT,
    kind: PathKind = PathKind.DIRECT_UDP,
    candidate: CandidateKind = CandidateKind.HOST,
) -> Attempt:
    transport = Transport.TCP if kind is PathKind.DIRECT_TCP else Transport.UDP
    remote = Address(ip, port, transport)
    return Attempt(remote, candidate, kind, outcome, 18, 30.0, 3.0, None, None, None)


def relayed(
    here: NatBehaviour, theirs: NatBehaviour, *attempts: Attempt, has_ipv6: bool = False, **more: object
) -> Case:
    facts = {"path": PathKind.RELAY_UDP, "remote": RELAY, "attempts": attempts or (attempt(),), **more}
    return Case("web-1", Here(PORT, here, has_ipv6=has_ipv6), theirs, **facts)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        (
            relayed(SYMMETRIC, SYMMETRIC, attempt(port=PORT)),
            "over the relay at 192.0.2.9:3478, because both NATs give every destination its own port; "
            "forward UDP 41641 on either side or use IPv6",
        ),
        (
            relayed(SYMMETRIC, SYMMETRIC),
            "over the relay at 192.0.2.9:3478, because both NATs give every destination its own port; "
            "forward UDP 41641 to this host, forward UDP 5555 to web-1 or use IPv6",
        ),
        (
            relayed(RESTRICTED, BARRED),
            "over the relay at 192.0.2.9:3478, because the network of web-1 lets no UDP out; "
            "let UDP out of the network of web-1",
        ),
        (
            relayed(SYMMETRIC, FIREWALL, guesses=512),
            "over the relay at 192.0.2.9:3478, because the NAT here gives every destination its own port and the "
            "firewall of web-1 lets nothing in but answers, 512 guesses at it met nothing; "
            "forward UDP 41641 to this host, let UDP 5555 in at web-1 or use IPv6",
        ),
        (
            relayed(SYMMETRIC, UNKNOWN_NAT),
            "over the relay at 192.0.2.9:3478, because the NAT here gives every destination its own port and no "
            "address of web-1 answers; see what `fabric doctor` finds at web-1",
        ),
        (
            relayed(UNKNOWN_NAT, SYMMETRIC, attempt(outcome=Outcome.TRYING)),
            "over the relay at 192.0.2.9:3478 for now, while a direct path is being looked for",
        ),
        (
            relayed(SYMMETRIC, RESTRICTED, is_guessing=True),
            "over the relay at 192.0.2.9:3478 for now, while a direct path is being looked for by guessing ports",
        ),
        (
            relayed(OPEN, OPEN),
            "over the relay at 192.0.2.9:3478, because no address of web-1 answers; "
            "see that no firewall on either host stops UDP or use IPv6",
        ),
        (
            relayed(RESTRICTED, RESTRICTED, attempt(outcome=Outcome.LOST)),
            "over the relay at 192.0.2.9:3478, because no address of web-1 answers any more; "
            "forward UDP 41641 to this host, forward UDP 5555 to web-1 or use IPv6",
        ),
        (
            relayed(BARRED, BARRED, attempt(kind=PathKind.DIRECT_TCP, outcome=Outcome.REFUSED)),
            "over the relay at 192.0.2.9:3478, because neither network lets UDP out and TCP is refused; "
            "let UDP out of both networks",
        ),
        (
            relayed(RESTRICTED, RESTRICTED, attempt("2001:db8::7")),
            "over the relay at 192.0.2.9:3478, because web-1 has named IPv6 addresses only, and this host has no IPv6 "
            "to the internet; use IPv6 here too",
        ),
        (
            Case("web-1", Here(PORT, BARRED), path=PathKind.DIRECT_TCP, attempts=(attempt(),)),
            "directly over TCP, because the network here lets no UDP out; let UDP out of the network here",
        ),
        (
            Case("web-1", Here(PORT), path=PathKind.DIRECT_TCP, attempts=(attempt(),)),
            "directly over TCP, because no address of web-1 answers over UDP; "
            "see what `fabric doctor` finds here and at web-1",
        ),
        (
            relayed(FIREWALL, FIREWALL, attempt(), attempt("2001:db8::7"), has_ipv6=True),
            "over the relay at 192.0.2.9:3478, because no address of web-1 answers; "
            "let UDP 41641 in over IPv6 at this host or let UDP 5555 in over IPv6 at web-1",
        ),
        (
            Case("web-1", Here(PORT), path=PathKind.DIRECT_UDP, remote=Address("2001:db8::7", 5)),
            "directly over UDP, IPv6",
        ),
        (Case("web-1", Here(PORT), path=PathKind.LAN), "on the same local network"),
        (
            Case("web-1", Here(PORT, BARRED, carries_tcp=False), path=PathKind.RELAY_TLS, attempts=(attempt(),)),
            "over a relay by TLS, because the network here lets out neither UDP nor most TCP; "
            "let UDP out of the network here",
        ),
        (
            Case("web-1", Here(PORT, is_service_up=False)),
            "web-1 has named no address that can be tried from here, and there is no connection to the discovery "
            "service to ask for a relay",
        ),
        (
            Case("web-1", Here(PORT), attempts=(attempt(outcome=Outcome.TRYING),)),
            "no answer yet on the only address of web-1",
        ),
        (
            Case("web-1", Here(PORT), attempts=(attempt(), attempt("10.0.0.1")), relays_granted=1, relays_bound=1),
            "no answer on any of the 2 addresses of web-1, and nothing comes over a relay: "
            "it may be off or without a network",
        ),
        (
            Case("web-1", Here(PORT, SYMMETRIC), SYMMETRIC, attempts=(attempt(), attempt("10.0.0.1"))),
            "no answer on any of the 2 addresses of web-1, and the service offers no relay: it may be off, or both "
            "NATs give every destination its own port; forward UDP 41641 to this host, forward UDP 5555 to web-1 or "
            "use IPv6",
        ),
    ],
)
def test_the_sentence_says_what_stands_in_the_way_and_what_would_have_to_change(case: Case, sentence: str) -> None:
    assert explain(case) == sentence


NATS = [
    NatBehaviour(mapping, filtering, 0, carries_udp)
    for mapping, filtering, carries_udp in itertools.product(Mapping, Filtering, (True, False))
]
"""Every behaviour that an offer can tell of."""

ATTEMPTS = {
    "none": (),
    "unanswered": (attempt(), attempt(kind=PathKind.DIRECT_TCP)),
    "both with IPv6": (attempt(), attempt("2001:db8::7")),
    "trying": (attempt(), attempt("10.0.0.1", Outcome.TRYING)),
    "without a host address": (attempt(candidate=CandidateKind.REFLEXIVE),),
}


def cases(theirs: NatBehaviour) -> Iterator[Case]:
    for here, path, attempts, has_ipv6 in itertools.product(NATS, REMOTES, ATTEMPTS.values(), (True, False)):
        yield Case("web-1", Here(PORT, here, has_ipv6=has_ipv6), theirs, path, REMOTES[path], attempts)


@pytest.mark.parametrize("theirs", NATS, ids=str)
def test_no_sentence_contradicts_the_facts(theirs: NatBehaviour) -> None:
    for case in cases(theirs):
        sentence, ways = explain(case), ways_to_better(case)
        try:
            check_form(sentence)
            check_path(case, sentence)
            check_blame(case, sentence)
            check_ways(case, sentence, ways)
        except AssertionError as error:
            raise AssertionError(f"{sentence!r} for {case}") from error


def check_form(sentence: str) -> None:
    assert sentence
    assert sentence == " ".join(sentence.split())
    assert not sentence.endswith(".")
    assert ". " not in sentence
    assert sentence[0].islower()
    assert sentence.count(";") <= 1


def check_path(case: Case, sentence: str) -> None:
    """The head is the path; a path that nothing is better than has no because."""
    heads = {
        PathKind.LAN: "on the same local network",
        PathKind.DIRECT_UDP: "directly over UDP",
        PathKind.DIRECT_TCP: "directly over TCP",
        PathKind.RELAY_UDP: "over the relay at 192.0.2.9:3478",
        PathKind.RELAY_TLS: "over the relay at 192.0.2.9:443 by TLS",
    }
    assert sentence.startswith(heads[case.path] if case.path else ("no answer", "web-1 has named no address"))
    if case.path in (PathKind.LAN, PathKind.DIRECT_UDP):
        assert "because" not in sentence
        assert ";" not in sentence
    assert not ("because" in sentence and "being looked for" in sentence)


def check_blame(case: Case, sentence: str) -> None:
    """What is said of a side is known of it."""
    here, theirs = case.here.nat, case.theirs
    udp = here.carries_udp and theirs.carries_udp
    if theirs.mapping is Mapping.UNKNOWN:
        assert "NAT of web-1" not in sentence
    if "both NATs" in sentence:
        assert here.mapping.is_dependent
        assert theirs.mapping.is_dependent
        assert udp
    if "NAT here gives" in sentence:
        assert here.mapping.is_dependent
        assert not theirs.mapping.is_dependent
    if "NAT of web-1 gives" in sentence:
        assert theirs.mapping.is_dependent
        assert not here.mapping.is_dependent
    if "lets nothing in" in sentence:
        steady = theirs if "of web-1 lets nothing" in sentence else here
        assert steady.filtering is STRICT
        assert ("firewall" in sentence) == (steady.mapping is Mapping.NONE)
    assert ("the network here lets no UDP out" in sentence) <= (not here.carries_udp and theirs.carries_udp)
    assert ("the network of web-1 lets no UDP out" in sentence) <= (here.carries_udp and not theirs.carries_udp)
    assert ("neither network lets UDP out" in sentence) <= (not here.carries_udp and not theirs.carries_udp)


def check_ways(case: Case, sentence: str, ways: tuple[str, ...]) -> None:
    """What is advised would do by itself, and nobody is sent to open what is open, or what another way saves."""
    here, theirs = case.here.nat, case.theirs
    said = " or ".join(ways)
    has_both_ipv6 = case.here.has_ipv6 and any(a.remote.is_ipv6 for a in case.attempts)
    assert ("let UDP out" in said) <= (not here.carries_udp or not theirs.carries_udp)
    if not here.carries_udp or not theirs.carries_udp:
        assert "forward" not in said
        assert "IPv6" not in said
    if Mapping.UNKNOWN in (here.mapping, theirs.mapping):
        assert "forward" not in said
        assert "let UDP 4" not in said
    if has_both_ipv6:
        assert "forward" not in said
        assert "use IPv6" not in said
    if "forward UDP 41641 to this host" in said:
        assert here.mapping in (Mapping.ENDPOINT_INDEPENDENT, *_DEPENDENT)
        assert here.mapping.is_dependent or here.filtering is not Filtering.ENDPOINT_INDEPENDENT
    if "to web-1" in said:
        assert theirs.mapping in (Mapping.ENDPOINT_INDEPENDENT, *_DEPENDENT)
        assert any(a.candidate is CandidateKind.HOST for a in case.attempts)
    if case.path in (PathKind.LAN, PathKind.DIRECT_UDP) or "being looked for" in sentence:
        assert not ways
    if ";" in sentence:
        assert sentence.split("; ")[1].replace(" or ", ", ") == ", ".join(ways)


_DEPENDENT = (Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)


@pytest.mark.parametrize("outcome", list(Outcome))
@pytest.mark.parametrize("kind", [PathKind.RELAY_UDP, PathKind.RELAY_TLS, PathKind.DIRECT_TCP])
def test_a_better_path_that_answers_or_is_looked_for_needs_nobodys_doing(kind: PathKind, outcome: Outcome) -> None:
    case = Case("web-1", Here(PORT), RESTRICTED, kind, REMOTES[kind], (attempt(outcome=outcome),))
    is_under_way = outcome in (Outcome.WAITING, Outcome.TRYING, Outcome.ANSWERS)
    assert (not ways_to_better(case)) is is_under_way
    assert ("while a" in explain(case)) is is_under_way


def test_ports_that_mean_nothing_are_not_waited_for_but_what_may_answer_is() -> None:
    vain = attempt(outcome=Outcome.TRYING)
    assert "both NATs" in explain(relayed(SYMMETRIC, SYMMETRIC, vain))
    for hopeful in (
        attempt("2001:db8::7", Outcome.TRYING),
        attempt(outcome=Outcome.TRYING, candidate=CandidateKind.MAPPED),
        attempt(outcome=Outcome.TRYING, candidate=CandidateKind.PEER_REFLEXIVE),
        attempt("192.168.1.7", Outcome.TRYING, kind=PathKind.LAN),
    ):
        assert "being looked for" in explain(relayed(SYMMETRIC, SYMMETRIC, vain, hopeful))


def test_a_second_look_does_not_take_back_the_reason() -> None:
    again = replace(attempt(outcome=Outcome.TRYING), tries=40)
    assert "no address of web-1 answers" in explain(relayed(RESTRICTED, RESTRICTED, again))


def test_a_router_behind_another_nat_opens_nothing() -> None:
    here = Here(PORT, SYMMETRIC, can_forward=False)
    case = Case("web-1", here, SYMMETRIC, PathKind.RELAY_UDP, RELAY, (attempt(),))
    assert ways_to_better(case) == ("forward UDP 5555 to web-1", "use IPv6")
    alone = (attempt(candidate=CandidateKind.REFLEXIVE),)
    assert ways_to_better(replace(case, attempts=alone)) == ("use IPv6",)


def test_what_waits_behind_an_address_that_was_tried_in_vain_is_not_being_looked_for() -> None:
    tcp = attempt(kind=PathKind.DIRECT_TCP, outcome=Outcome.WAITING)
    assert "looked for" not in explain(relayed(RESTRICTED, RESTRICTED, attempt(), tcp))


def test_addresses_of_a_site_are_no_ipv6_to_use() -> None:
    assert has_wide_ipv6(["10.0.0.1", "2001:db8::1"])
    assert not has_wide_ipv6(["10.0.0.1", "fd00::1", "fe80::1", "::1"])
