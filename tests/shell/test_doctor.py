"""The doctor, with real sockets on the loopback and a network that is made up."""

from __future__ import annotations

import ssl
from dataclasses import replace
from ipaddress import ip_interface
from pathlib import Path
from typing import Any, cast

import pytest
import trio

from fabric.core.explain import Here
from fabric.core.mapping import MappingReport
from fabric.core.mapping import Outcome as Mapped
from fabric.core.status import Attempt, Outcome, PathKind, PathStatus, PeerState, PeerStatus
from fabric.shell.checks.discovery import check_discovery, check_dns
from fabric.shell.checks.finding import Finding, Verdict
from fabric.shell.checks.hairpin import check_hairpin
from fabric.shell.checks.mtu import MAX_MTU, check_mtu, measure
from fabric.shell.checks.network import NetworkView, RelayView, ServiceLinkView
from fabric.shell.checks.relay import check_relays
from fabric.shell.checks.tcp import check_tcp
from fabric.shell.checks.told import check_clock, check_nat, check_port_mapping, check_proxy
from fabric.shell.checks.udp import check_ipv6, check_udp
from fabric.shell.control_wire import AskDoctor, EndpointReport, Examined, PeerExamined
from fabric.shell.doctor import LIMIT_S, Doctor, _confirmed_mtu, _found, fixes
from fabric.shell.endpoint import no_such_peer
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.proxy import HttpProxy, Outlet, outlet_of
from fabric.shell.questions import Questions
from fabric.shell.tls import context_under
from fabric.wire.address import Address, Candidate, CandidateKind, Transport
from fabric.wire.nat import Filtering, Mapping, NatBehaviour
from fabric.wire.pcp import Protocol
from fabric.wire.relay import Refresh, Refreshed, decode_relay_message, encode_relay_message
from fabric.wire.rendezvous import RelayPlace
from fabric.wire.stun import answer_binding, binding_request
from tests.shell.homestead import found, service_context
from tests.shell.outskirts import closed_port, http_proxy, stun_behind_nat, tls_server, udp_server

NETWORK = NetworkView(here=Here(41641), interfaces=(ip_interface("192.168.1.2/24"),))
SYMMETRIC = NatBehaviour(Mapping.ADDRESS_AND_PORT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, 2)
CONE = NatBehaviour(Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
NO_NAT = NatBehaviour(Mapping.NONE, Filtering.ENDPOINT_INDEPENDENT)
TRUSTING = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

ATTEMPT = Attempt(
    remote=Address("198.51.100.7", 41641),
    candidate=CandidateKind.HOST,
    kind=PathKind.DIRECT_UDP,
    outcome=Outcome.UNANSWERED,
    tries=18,
    first_tried_s=30.0,
    last_tried_s=3.0,
    last_answer_s=None,
    rtt_s=None,
    mtu=None,
)
BOB = PeerStatus(
    name="bob.home",
    state=PeerState.CONNECTED,
    why="over the relay",
    path=PathStatus(PathKind.RELAY_UDP, Address("192.0.2.9", 3478, Transport.RELAY_UDP, 1), 0.01, 1400),
    cipher="aes-256-gcm",
    addresses=("100.64.0.2",),
    mac="02:fa:64:40:00:02",
    verified=True,
    last_seen_s=0.1,
    rx_bytes=1,
    tx_bytes=2,
    drops={},
    attempts=(ATTEMPT,),
    nat=SYMMETRIC,
    guesses=512,
)


def answer_stun(payload: bytes, source: Address) -> bytes | None:
    return answer_binding(payload, source)


def rows(finding: Finding, name: str) -> list[dict[str, Any]]:
    figure = finding.figures[name]
    assert isinstance(figure, tuple)
    return list(figure)


def be_silent(_payload: bytes, _source: Address) -> None:
    return None


# UDP


async def test_udp_that_is_answered_gets_out_and_shows_how_it_is_seen() -> None:
    async with udp_server(answer_stun) as server:
        finding = await check_udp(replace(NETWORK, stun=(server,)))
    assert finding.verdict is Verdict.OK
    assert finding.figures["server"] == str(server)
    assert str(finding.figures["seen_as"]).startswith("127.0.0.1:")
    assert float(str(finding.figures["rtt_ms"])) < 1000


async def test_udp_that_nobody_answers_does_not_get_out(autojump_clock: object) -> None:
    async with udp_server(be_silent) as server:
        finding = await check_udp(replace(NETWORK, stun=(server,)))
    assert finding.verdict is Verdict.FAILED
    assert "let UDP out" in finding.text


async def test_an_answer_to_another_question_does_not_count() -> None:
    def answer_something_else(_payload: bytes, _source: Address) -> bytes | None:
        return answer_binding(binding_request(bytes(12)), Address("203.0.113.9", 9))

    async with udp_server(answer_something_else) as liar, udp_server(answer_stun) as server:
        finding = await check_udp(replace(NETWORK, stun=(liar, server)))
    assert finding.figures["server"] == str(server)


async def test_without_a_server_to_ask_nothing_is_said_of_udp() -> None:
    assert (await check_udp(NETWORK)).verdict is Verdict.UNKNOWN
    assert (await check_hairpin(NETWORK)).verdict is Verdict.UNKNOWN
    assert (await check_mtu(NETWORK, None)).verdict is Verdict.UNKNOWN


async def test_ipv6_is_told_by_the_addresses_before_anybody_is_asked() -> None:
    for ips, words in ((["192.168.1.2/24"], "no IPv6 address"), (["fd00::2/64"], "its own site only")):
        finding = await check_ipv6(replace(NETWORK, interfaces=tuple(map(ip_interface, ips))))
        assert finding.verdict is Verdict.LIMITED
        assert words in finding.text
    wide = replace(NETWORK, interfaces=(ip_interface("2001:db8::2/64"),))
    assert (await check_ipv6(wide)).verdict is Verdict.UNKNOWN


# TCP, TLS, names


async def test_tcp_to_a_port_of_no_web_server_shows_that_nothing_is_filtered() -> None:
    async with tls_server(None) as port:
        finding = await check_tcp(replace(NETWORK, services=(ServiceLinkView(f"127.0.0.1:{port}", False),)))
    assert finding.verdict is Verdict.OK
    assert finding.figures["open_ports"] == str(port)


async def test_refused_connections_are_told_from_silence() -> None:
    finding = await check_tcp(replace(NETWORK, stun=(Address("127.0.0.1", closed_port()),)))
    assert finding.verdict is Verdict.FAILED
    assert "refused" in finding.text


async def test_the_time_to_the_service_is_that_of_tcp_and_tls_under_the_own_authority(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    context, _ = service_context(homestead, "127.0.0.1")
    async with tls_server(context) as port:
        links = (ServiceLinkView(f"127.0.0.1:{port}", True), ServiceLinkView(f"127.0.0.1:{closed_port()}", False))
        network = replace(NETWORK, services=links)
        finding = await check_discovery(network, context_under(homestead.authority.root_der))
    assert finding.verdict is Verdict.LIMITED
    assert "in use" in finding.text
    good, bad = rows(finding, "addresses")
    assert good["tcp_ms"] > 0
    assert good["tls_ms"] > 0
    assert (bad["tcp_ms"], bad["why"]) == (None, "connection refused")


async def test_a_service_under_another_authority_is_told_as_such(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    context, _ = service_context(found(tmp_path), "127.0.0.1")
    other = context_under(found(tmp_path / "other").authority.root_der)
    async with tls_server(context) as port:
        finding = await check_discovery(
            replace(NETWORK, services=(ServiceLinkView(f"127.0.0.1:{port}", False),)), other
        )
    assert finding.verdict is Verdict.FAILED
    assert "intercept" in finding.text


async def test_a_service_behind_a_proxy_is_timed_through_it(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    context, _ = service_context(homestead, "service.invalid")
    async with tls_server(context) as port, http_proxy(port) as proxy:
        outlet = Outlet(HttpProxy("127.0.0.1", proxy))
        network = replace(NETWORK, services=(ServiceLinkView("service.invalid:443", True),), outlet=outlet)
        finding = await check_discovery(network, context_under(homestead.authority.root_der))
        assert "not needed" in (await check_dns(network)).text  # the proxy looks the name up
    assert finding.verdict is Verdict.OK
    assert "in use" in finding.text


async def test_a_service_in_use_that_refuses_a_second_connection_is_no_failure() -> None:
    link = ServiceLinkView(f"127.0.0.1:{closed_port()}", True)
    finding = await check_discovery(replace(NETWORK, services=(link,)), TRUSTING)
    assert finding.verdict is Verdict.LIMITED
    assert finding.text == f"{link.address}: connection refused, in use"


async def test_a_proxy_that_refuses_is_named(tmp_path: Path) -> None:
    async with http_proxy(None) as proxy:
        outlet = Outlet(HttpProxy("127.0.0.1", proxy))
        network = replace(NETWORK, services=(ServiceLinkView("192.0.2.1:443", False),), outlet=outlet)
        finding = await check_discovery(network, TRUSTING)
    assert finding.verdict is Verdict.FAILED
    assert f"127.0.0.1:{proxy}" in finding.text


async def test_names_that_are_looked_up_are_told_from_those_that_are_not() -> None:
    assert "not needed" in (await check_dns(NETWORK)).text
    names = ("localhost:3478", "no-such-name.invalid:3478", "garbage")
    finding = await check_dns(replace(NETWORK, stun_names=names))
    assert finding.verdict is Verdict.LIMITED
    assert "no-such-name.invalid can't be looked up" in finding.text
    assert "localhost" not in finding.text


# relays


async def test_a_relay_is_asked_over_udp_and_over_tls(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    context, _ = service_context(homestead, "127.0.0.1")

    def answer(payload: bytes, _source: Address) -> bytes | None:
        assert isinstance(decode_relay_message(payload), Refresh)
        return encode_relay_message(Refreshed(()))

    async with udp_server(answer) as relay, tls_server(context) as tls_port:
        place = RelayPlace("127.0.0.1", relay.port, tls_port)
        views = (RelayView(place, Transport.RELAY_UDP, 2), RelayView(place, Transport.RELAY_TLS))
        network = replace(NETWORK, relays=views)
        finding = await check_relays(network, context_under(homestead.authority.root_der))
    assert finding.verdict is Verdict.OK
    udp, tls = rows(finding, "relays")
    assert (udp["transport"], udp["channels"]) == ("UDP", 2)
    assert (tls["transport"], tls["channels"]) == ("TLS", 0)
    assert udp["rtt_ms"] > 0
    assert tls["rtt_ms"] > 0


async def test_a_silent_relay_is_told(autojump_clock: object) -> None:
    async with udp_server(be_silent) as relay:
        place = RelayPlace("127.0.0.1", relay.port, 0)
        finding = await check_relays(replace(NETWORK, relays=(RelayView(place, Transport.RELAY_UDP),)), TRUSTING)
    assert finding.verdict is Verdict.FAILED
    assert finding.text == f"127.0.0.1:{relay.port} by UDP not (no answer)"


# hairpin and packet length


@pytest.mark.parametrize(("hairpin", "verdict"), [(True, Verdict.OK), (False, Verdict.LIMITED)])
async def test_hairpin_is_two_sockets_that_meet_at_their_outside_addresses(
    hairpin: bool, verdict: Verdict, autojump_clock: object
) -> None:
    async with stun_behind_nat(hairpin=hairpin) as server:
        finding = await check_hairpin(replace(NETWORK, stun=(server,)))
    assert finding.verdict is verdict
    assert finding.figures["outside"] == "127.0.0.2"


async def test_without_a_nat_nobody_needs_a_hairpin() -> None:
    async with udp_server(answer_stun) as server:
        finding = await check_hairpin(replace(NETWORK, stun=(server,), interfaces=(ip_interface("127.0.0.1/8"),)))
    assert (finding.verdict, finding.text) == (Verdict.OK, "not needed without a NAT")


async def test_the_packet_length_is_what_the_kernel_knows_of_the_way() -> None:
    async with udp_server(be_silent) as server:
        assert await measure(server) == MAX_MTU  # the loopback has more
        finding = await check_mtu(replace(NETWORK, stun=(server,)), 1452)
    assert finding.verdict is Verdict.OK
    assert finding.figures == {"confirmed_mtu": 1452, "ipv4_mtu": MAX_MTU}
    assert "1452 bytes confirmed by a peer" in finding.text


async def test_a_way_that_does_not_exist_has_no_packet_length() -> None:
    assert await measure(Address("255.255.255.255", 9)) is None


# what the daemon knows


@pytest.mark.parametrize(
    ("nat", "verdict", "words"),
    [
        (NatBehaviour(), Verdict.UNKNOWN, "too few servers"),
        (NatBehaviour(carries_udp=False), Verdict.FAILED, "no UDP comes back"),
        (NO_NAT, Verdict.OK, "no NAT: servers see this host's own address, everybody may send to it"),
        (CONE, Verdict.OK, "keeps one port for all destinations, nothing comes in but answers"),
        (SYMMETRIC, Verdict.LIMITED, "gives every destination its own port, nothing comes in but answers, "),
        (SYMMETRIC, Verdict.LIMITED, "ports follow each other by 2, forward UDP 41641 to this host"),
    ],
)
def test_a_nat_is_described_in_plain_words(nat: NatBehaviour, verdict: Verdict, words: str) -> None:
    finding = check_nat(replace(NETWORK, here=Here(41641, nat)))
    assert finding.verdict is verdict
    assert words in finding.text


def test_a_nat_has_its_figures_in_the_words_of_rfc_4787() -> None:
    figures = check_nat(replace(NETWORK, here=Here(41641, CONE), lifetime_s=42.0)).figures
    assert figures == {
        "mapping": "endpoint-independent",
        "filtering": "address-and-port-dependent",
        "stride": 0,
        "lifetime_s": 42.0,
    }


@pytest.mark.parametrize(
    ("offset_s", "verdict", "words"),
    [
        (None, Verdict.UNKNOWN, "not told"),
        (-0.2, Verdict.OK, "0.2 s from"),
        (100.0, Verdict.LIMITED, "100 s behind"),
        (-4000.0, Verdict.FAILED, "4000 s ahead of the service's: set the clock, peers refuse"),
    ],
)
def test_a_clock_is_judged_by_what_peers_bear(offset_s: float | None, verdict: Verdict, words: str) -> None:
    finding = check_clock(replace(NETWORK, clock_offset_s=offset_s))
    assert finding.verdict is verdict
    assert words in finding.text


def test_a_proxy_is_shown_without_what_opens_it() -> None:
    outlet = outlet_of(
        None, {"https_proxy": "http://user:secret@proxy.example:3128", "no_proxy": "a.example,b.example"}
    )
    finding = check_proxy(replace(NETWORK, outlet=outlet))
    assert finding.figures == {"proxy": "proxy.example:3128", "no_proxy": "a.example b.example"}
    assert "secret" not in repr(finding)
    assert check_proxy(NETWORK).figures == {}


def test_a_port_mapping_is_granted_needless_or_missed() -> None:
    outside = Address("203.0.113.5", 41641)
    granted = MappingReport(Mapped.MAPPED, Protocol.PCP, (outside,), "192.168.1.1 maps a port by PCP")
    finding = check_port_mapping(replace(NETWORK, port_mapping=granted))
    assert (finding.verdict, finding.text) == (Verdict.OK, granted.words)
    assert finding.figures == {"outcome": "mapped", "by": "PCP", "outside": "203.0.113.5:41641"}
    missed = MappingReport(Mapped.SILENT, None, (), "192.168.1.1 does not answer")
    assert check_port_mapping(replace(NETWORK, port_mapping=missed)).verdict is Verdict.LIMITED
    assert (
        check_port_mapping(replace(NETWORK, port_mapping=missed, here=Here(41641, NO_NAT))).text
        == "not needed without a NAT"
    )
    assert check_port_mapping(NETWORK).verdict is Verdict.UNKNOWN


def test_no_port_of_a_router_behind_another_nat_is_to_be_forwarded() -> None:
    hidden = MappingReport(Mapped.BEHIND_NAT, Protocol.PCP, (), "192.168.1.1 is itself behind a NAT")
    found = fixes(BOB, replace(NETWORK, here=Here(41641, SYMMETRIC), port_mapping=hidden))
    assert found == ("forward UDP 41641 to bob.home", "use IPv6")


# the whole examination


async def test_everything_is_looked_at_in_order_and_what_fails_takes_nothing_with_it(autojump_clock: object) -> None:
    async with udp_server(be_silent) as server:
        network = replace(NETWORK, stun=(server,), services=(ServiceLinkView(f"127.0.0.1:{closed_port()}", False),))
        started = trio.current_time()
        checks = await Doctor(lambda: network, lambda: [BOB], TRUSTING).examine()
        assert trio.current_time() - started < LIMIT_S
    verdicts = {check.name: check.verdict for check in checks}
    assert list(verdicts) == [
        "udp", "tcp", "ipv6", "nat", "hairpin", "port-mapping", "proxy", "mtu", "dns", "clock", "discovery", "relay",
    ]  # fmt: skip
    assert verdicts["udp"] == verdicts["tcp"] == verdicts["discovery"] == "failed"
    assert verdicts["relay"] == verdicts["clock"] == "unknown"


async def test_a_check_that_breaks_or_hangs_is_a_finding(autojump_clock: object) -> None:
    async def break_off(_network: NetworkView) -> Finding:
        raise OSError("no buffer space")

    async def hang(_network: NetworkView) -> Finding:
        await trio.sleep_forever()
        raise AssertionError

    assert (await _found(break_off, NETWORK)).text == "could not be looked at: no buffer space"
    assert (await _found(hang, NETWORK)).verdict is Verdict.UNKNOWN


def test_the_longest_packet_that_a_peer_confirmed_is_known() -> None:
    direct = replace(ATTEMPT, mtu=1452)
    relayed = replace(ATTEMPT, kind=PathKind.RELAY_UDP, mtu=1500)
    assert _confirmed_mtu([replace(BOB, attempts=(ATTEMPT, direct, relayed))]) == 1452
    assert _confirmed_mtu([BOB]) is None


# one peer


def doctor(network: NetworkView = NETWORK) -> Doctor:
    return Doctor(lambda: network, lambda: [BOB], TRUSTING)


def test_a_peer_is_examined_with_all_that_was_tried() -> None:
    relay = RelayView(RelayPlace("relay.example", 3478, 443), Transport.RELAY_TLS, 1, 0.02)
    reflexive = Candidate(CandidateKind.REFLEXIVE, Address("203.0.113.5", 7))
    examination = doctor(
        replace(NETWORK, here=Here(41641, SYMMETRIC), relays=(relay,), candidates=(reflexive,))
    ).examine_peer(BOB)
    (attempt,) = examination.attempts
    assert (attempt.remote, attempt.candidate, attempt.kind) == ("198.51.100.7:41641", "host", "direct-udp")
    assert (attempt.outcome, attempt.tries, attempt.last_tried_s) == ("unanswered", 18, 3.0)
    assert examination.fixes == ("forward UDP 41641 on either side", "use IPv6")
    assert examination.their_nat is not None
    assert examination.their_nat.mapping == "address-and-port-dependent"
    assert [(c.address, c.kind) for c in examination.here.candidates] == [("203.0.113.5:7", "reflexive")]
    assert [(r.address, r.channels) for r in examination.here.relays] == [("relay.example:443", 1)]
    assert examination.guesses == 512


@pytest.mark.parametrize(
    ("state", "is_up", "words"),
    [
        (PeerState.DISABLED, True, "fabric enable bob.home"),
        (PeerState.PENDING, True, "at bob.home"),
        (PeerState.PENDING, False, "discovery service"),
        (PeerState.INTRODUCED, True, "daemon of bob.home"),
        (PeerState.QUARANTINED, True, "fabric trust reset"),
    ],
)
def test_a_peer_that_is_not_met_has_something_to_do_in_its_state(state: PeerState, is_up: bool, words: str) -> None:
    network = replace(NETWORK, here=Here(41641, is_service_up=is_up))
    (fix,) = fixes(replace(BOB, state=state, path=None), network)
    assert words in fix


class Acquainted:
    """An endpoint with one peer, as far as a question about it goes."""

    def full_name(self, peer: str) -> str:
        return f"{peer}.home"

    def peer(self, name: str) -> PeerStatus:
        if name != BOB.name:
            raise no_such_peer(name)
        return BOB


async def test_the_doctor_answers_over_the_control_socket(autojump_clock: object) -> None:
    report = cast(EndpointReport, object())
    questions = Questions(Acquainted(), lambda: report, doctor)  # type: ignore[arg-type]
    answer = await questions.answer(AskDoctor())
    assert isinstance(answer, Examined)
    assert answer.endpoint is report
    answer = await questions.answer(AskDoctor("bob"))
    assert isinstance(answer, PeerExamined)
    assert answer.examination.peer.name == "bob.home"
    with pytest.raises(CommandError) as raised:
        await questions.answer(AskDoctor("carol"))
    assert raised.value.code is ExitCode.NO_SUCH_THING
