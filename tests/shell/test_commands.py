"""The command line against a daemon's socket: words, exit codes, one sentence, one object."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families

from fabric.cli.main import app
from fabric.shell.control import listen, serve_control
from fabric.shell.control_wire import (
    AlarmReport,
    AnyAnswer,
    AnyQuestion,
    AskAdd,
    AskDisable,
    AskDoctor,
    AskEnable,
    AskPing,
    AskRemove,
    AskReset,
    AskStatus,
    AskTrust,
    AskWait,
    AskWishes,
    AttemptReport,
    CandidateReport,
    CertificateReport,
    CheckReport,
    Connected,
    Done,
    EncounterReport,
    EndpointReport,
    Examined,
    Failed,
    HereReport,
    NatReport,
    PathReport,
    PeerExamination,
    PeerExamined,
    PeerReport,
    Pinged,
    RelayReport,
    Status,
    StatusReport,
    TrustReport,
    Trusts,
)
from fabric.shell.program import run_program
from fabric.shell.wishes import Verb, Wish, WishStore
from tests.shell.homestead import found

PATH = PathReport("direct-udp", "192.0.2.7:4711", 12.345, 1472)
TRUST = TrustReport(
    name="bob.home",
    key="verified",
    fingerprint="abcd-efgh",
    safety_number="12345 67890",
    entangled=True,
    removed=False,
    alarm=AlarmReport(
        at=EncounterReport("2030-01-01T00:00:00Z", "203.0.113.9:4711"),
        seen="here",
        before=EncounterReport("2029-12-31T00:00:00Z", "198.51.100.7:4711"),
        is_known_there=False,
    ),
)
BOB = PeerReport(
    name="bob.home",
    state="connected",
    why="directly over UDP",
    path=PATH,
    cipher="aes-256-gcm",
    addresses=("100.64.0.2", "fd00::2"),
    mac="02:fa:64:40:00:02",
    verified=True,
    last_seen_s=0.5,
    rx_bytes=1_234_567,
    tx_bytes=999,
    drops={"replay": 3},
    trust=TRUST,
)
ALICE = EndpointReport(
    name="alice.home",
    network="home",
    addresses=("100.64.0.1", "fd00::1"),
    mac="02:fa:64:40:00:01",
    device="fabric0",
    cipher="aes-256-gcm",
    certificate=CertificateReport("2030-01-01T00:00:00Z", 600_000.0),
    discovery="unreachable",
    discovery_why="192.0.2.1:443: Connection refused",
    fingerprint="abcd-efgh",
    custody="key-file",
    lane="reference",
    cipher_provider="cryptography 50",
    port=4711,
    mtu=1399,
    underlay=("192.0.2.2",),
    drops={},
    version="0.1.0",
    uptime_s=1.0,
)

SYMMETRIC = NatReport("address-and-port-dependent", "address-and-port-dependent", 0, carries_udp=True)
ATTEMPT = AttemptReport(
    remote="[fd00:1234::7]:41641",
    transport="udp",
    candidate="peer-reflexive",
    kind="direct-udp",
    outcome="unanswered",
    tries=18,
    first_tried_s=7300.0,
    last_tried_s=130.0,
    last_answer_s=None,
    rtt_ms=12.345,
    mtu=1452,
    why="",
)
EXAMINATION = PeerExamination(
    peer=BOB,
    why="over the relay at [fd00::9]:3478, because both NATs give every destination its own port",
    fixes=("forward UDP 41641 on either side", "use IPv6"),
    attempts=(ATTEMPT,),
    here=HereReport(
        port=41641,
        nat=SYMMETRIC,
        candidates=(CandidateReport("[fd00:1234::1]:41641", "udp", "host"),),
        relays=(RelayReport("relay.example:443", "relay-tls", 1, 20.5, ""),),
    ),
    their_nat=None,
    guesses=512,
)
CHECKS = (
    CheckReport("udp", "failed", "none of 2 servers answers: let UDP out of this network for direct paths", {}),
    CheckReport("nat", "unknown", "too few servers have answered", {"mapping": "unknown", "stride": 0}),
    CheckReport("relay", "ok", "[fd00::9]:3478 by UDP in 1.0 ms", {"relays": ({"rtt_ms": 1.0, "why": ""},)}),
)

Answers = Callable[[AnyQuestion], AnyAnswer]
Run = Callable[..., Awaitable[int]]


class Daemon:
    """Answers from a table, and notes what it was asked."""

    def __init__(self, answers: dict[type, AnyAnswer]) -> None:
        self.answers = answers
        self.asked: list[AnyQuestion] = []

    async def answer(self, question: AnyQuestion) -> AnyAnswer:
        self.asked.append(question)
        return self.answers[type(question)]


async def commanded(state: Path, daemon: Daemon, *words: str) -> int:
    """Runs one command while the daemon serves."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_control, listen(state / "control.sock", None), daemon.answer)
        code = await trio.to_thread.run_sync(run, state, *words)
        nursery.cancel_scope.cancel()
    return code


def run(state: Path, *words: str) -> int:
    return run_program(app, "fabric", [*words, "--state", str(state)])


@pytest.mark.parametrize(
    ("words", "question"),
    [
        (("add", "bob"), AskAdd("bob")),
        (("add", "bob.home", "--fingerprint", "f"), AskAdd("bob.home", "f")),
        (("remove", "bob"), AskRemove("bob")),
        (("enable", "bob"), AskEnable("bob")),
        (("disable", "bob"), AskDisable("bob")),
        (("trust", "reset", "bob"), AskReset("bob")),
        (("trust", "reset", "bob", "--new-key"), AskReset("bob", new_key=True)),
    ],
)
async def test_a_wish_is_told_to_the_daemon(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: tuple[str, ...], question: AnyQuestion
) -> None:
    daemon = Daemon({type(question): Done("bob.home")})
    assert await commanded(tmp_path, daemon, *words) == 0
    assert daemon.asked == [question]
    assert "bob.home" in capsys.readouterr().out
    assert await commanded(tmp_path, daemon, *words, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {"peer": "bob.home", "stored": False}


def test_a_wish_without_a_daemon_is_stored(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = found(tmp_path).settle("alice")
    assert run(state, "add", "bob") == 0
    assert "not running" in capsys.readouterr().out
    with WishStore(state) as store:
        assert [wish for _, wish in store.waiting()] == [Wish(Verb.ADD, "bob.home")]
    assert run(state, "remove", "carol") == 4
    assert run(state, "trust", "reset", "carol") == 4
    assert run(state, "add", "alice") == 2


async def test_trust_lists_keys_numbers_and_alarms(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon({AskTrust: Trusts((TRUST,))})
    assert await commanded(tmp_path, daemon, "trust", "list") == 0
    shown = " ".join(capsys.readouterr().out.split())
    for told in (
        "bob.home",
        "verified",
        "12345 67890",
        "203.0.113.9:4711",
        "198.51.100.7:4711",
        "2030-01-01T00:00:00Z",
    ):
        assert told in shown
    assert await commanded(tmp_path, daemon, "trust", "list", "--json") == 0
    (peer,) = json.loads(capsys.readouterr().out)["peers"]
    assert peer["alarm"]["at"] == {"time": "2030-01-01T00:00:00Z", "remote": "203.0.113.9:4711"}


async def test_metrics_tell_of_the_daemon_its_peers_and_their_alarms(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon({AskStatus: Status(StatusReport(ALICE, (BOB,))), AskTrust: Trusts((TRUST,))})
    assert await commanded(tmp_path, daemon, "metrics") == 0
    said = capsys.readouterr()
    assert said.err == ""
    samples = [sample for family in text_string_to_metric_families(said.out) for sample in family.samples]
    told = {sample.name: sample for sample in samples if sample.labels.get("peer", "bob.home") == "bob.home"}
    assert told["fabric_up"].labels == {"directory": str(tmp_path)}
    assert told["fabric_up"].value == told["fabric_peer_connected"].value == told["fabric_alarm"].value == 1
    assert told["fabric_service_connected"].value == 0
    assert told["fabric_peer_receive_bytes_total"].value == 1_234_567
    addresses = {each.labels["remote"] for each in samples if each.name == "fabric_alarm_timestamp_seconds"}
    assert addresses == {"203.0.113.9:4711", "198.51.100.7:4711"}


def test_metrics_without_a_daemon_say_so_and_end_as_status_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(tmp_path, "status") == 5
    sentence = capsys.readouterr().err
    assert run(tmp_path, "metrics") == 5
    said = capsys.readouterr()
    assert said.err == sentence
    (family,) = text_string_to_metric_families(said.out)
    assert [(sample.name, sample.value) for sample in family.samples] == [("fabric_up", 0)]


async def test_metrics_of_a_daemon_that_ends_in_between_say_that_it_is_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon({AskStatus: Status(StatusReport(ALICE, (BOB,))), AskTrust: Failed(5, "the daemon ends")})
    assert await commanded(tmp_path, daemon, "metrics") == 5
    said = capsys.readouterr()
    assert said.out.splitlines()[2:] == [f'fabric_up{{directory="{tmp_path}"}} 0']
    assert len(said.err.splitlines()) == 1


def test_metrics_with_a_wrong_configuration_print_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("port = -1")
    assert run(tmp_path, "metrics") == 78
    assert capsys.readouterr().out == ""


async def test_a_reset_says_what_it_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon({AskReset: Done("bob.home")})
    assert await commanded(tmp_path, daemon, "trust", "reset", "bob") == 0
    assert "stays pinned" in capsys.readouterr().out
    assert await commanded(tmp_path, daemon, "trust", "reset", "bob", "--new-key") == 0
    assert "--fingerprint" in capsys.readouterr().out


async def test_a_failure_is_one_sentence_and_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon({AskRemove: Failed(4, "there is no peer bob.home")})
    assert await commanded(tmp_path, daemon, "remove", "bob") == 4
    said = capsys.readouterr()
    assert said.err == "fabric: there is no peer bob.home\n"
    assert said.out == ""
    assert await commanded(tmp_path, daemon, "remove", "bob", "--json") == 4
    said = capsys.readouterr()
    assert json.loads(said.out) == {"error": {"code": 4, "why": "there is no peer bob.home"}}


async def test_status_in_json_has_the_fields_of_the_contract(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon({AskStatus: Status(StatusReport(ALICE, (BOB,)))})
    assert await commanded(tmp_path, daemon, "status", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"endpoint", "peers"}
    promised = {"name", "network", "addresses", "mac", "device", "cipher", "certificate", "discovery"}
    assert promised <= set(report["endpoint"])
    assert "expires" in report["endpoint"]["certificate"]
    (peer,) = report["peers"]
    fields = {
        "name",
        "state",
        "why",
        "path",
        "cipher",
        "addresses",
        "mac",
        "last_seen_s",
        "rx_bytes",
        "tx_bytes",
        "drops",
    }
    assert fields <= set(peer)
    assert set(peer["path"]) == {"kind", "remote", "rtt_ms", "mtu"}


async def test_status_for_a_person_fits_80_columns_and_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    daemon = Daemon({AskStatus: Status(StatusReport(ALICE, (BOB,)))})
    assert await commanded(tmp_path, daemon, "status") == 0
    shown = capsys.readouterr().out
    for words in ("alice.home", "bob.home", "100.64.0.2", "connected", "direct", "12.3 ms", "1.2 MB in", "over UDP"):
        assert words in shown
    assert "unreachable: 192.0.2.1:443: Connection refused" in shown
    assert "generated key file" in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


async def test_status_of_one_peer_tells_everything_about_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon({AskStatus: Status(StatusReport(ALICE, (BOB,)))})
    assert await commanded(tmp_path, daemon, "status", "bob") == 0
    assert daemon.asked == [AskStatus("bob")]
    shown = capsys.readouterr().out
    for words in ("192.0.2.7:4711", "verified by fingerprint", "replay 3", "fd00::2", "aes-256-gcm"):
        assert words in shown


async def test_status_without_peers_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert await commanded(tmp_path, Daemon({AskStatus: Status(StatusReport(ALICE, ()))}), "status") == 0
    assert "fabric add PEER" in capsys.readouterr().out


async def test_doctor_shows_a_line_for_each_check_within_80_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    daemon = Daemon({AskDoctor: Examined(ALICE, CHECKS)})
    assert await commanded(tmp_path, daemon, "doctor") == 0
    assert daemon.asked == [AskDoctor()]
    shown = capsys.readouterr().out
    for words in ("UDP out", "failed", "let UDP out", "NAT", "unknown", "relays", "[fd00::9]:3478"):
        assert words in shown
    assert max(len(line) for line in shown.splitlines()) <= 80


async def test_doctor_in_json_has_the_figures_beside_name_verdict_and_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon({AskDoctor: Examined(ALICE, CHECKS)})
    assert await commanded(tmp_path, daemon, "doctor", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"checks", "endpoint"}
    assert report["endpoint"]["name"] == "alice.home"
    _, nat, relay = report["checks"]
    assert nat == {
        "name": "nat",
        "verdict": "unknown",
        "text": "too few servers have answered",
        "mapping": "unknown",
        "stride": 0,
    }
    assert relay["relays"] == [{"rtt_ms": 1.0, "why": ""}]


async def test_doctor_of_a_peer_shows_why_what_to_do_and_every_address(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    daemon = Daemon({AskDoctor: PeerExamined(EXAMINATION)})
    assert await commanded(tmp_path, daemon, "doctor", "bob") == 0
    assert daemon.asked == [AskDoctor("bob")]
    shown = " ".join(capsys.readouterr().out.split())
    for words in (
        "both NATs",
        "to do forward UDP 41641 on either side",
        "or use IPv6",
        "[fd00:1234::7]:41641",
        "peer-reflexive",
        "unanswered",
        "2 min",
        "12.3 ms",
        "1452",
        "NAT there not told yet",
        "[fd00:1234::1]:41641 udp host",
        "relay.example:443 TLS, 1 bound, 20.5 ms",
        "512",
    ):
        assert words in shown


async def test_doctor_of_a_peer_in_json_has_the_same_facts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon({AskDoctor: PeerExamined(EXAMINATION)})
    assert await commanded(tmp_path, daemon, "doctor", "bob", "--json") == 0
    report = json.loads(capsys.readouterr().out)
    assert set(report) == {"peer", "why", "fixes", "attempts", "here", "their_nat", "guesses"}
    assert report["attempts"][0]["outcome"] == "unanswered"
    assert report["here"]["candidates"] == [{"address": "[fd00:1234::1]:41641", "transport": "udp", "kind": "host"}]
    daemon.answers[AskDoctor] = Failed(4, "there is no peer bob.home")
    assert await commanded(tmp_path, daemon, "doctor", "bob", "--json") == 4
    assert run(tmp_path, "doctor", "bob", "--wrong") == 2


def test_without_a_daemon_nothing_is_examined(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "doctor") == 5
    assert len(capsys.readouterr().err.splitlines()) == 1


async def test_an_ipv6_address_is_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = PathReport("direct-udp", "[fd00::7]:4711", 12.345, 1472)
    peer = msgspec.structs.replace(BOB, path=path)
    daemon = Daemon({AskStatus: Status(StatusReport(ALICE, (peer,)))})
    assert await commanded(tmp_path, daemon, "status", "bob") == 0
    assert "[fd00::7]:4711" in capsys.readouterr().out


async def test_wait_ends_with_0_when_connected_and_with_1_when_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon = Daemon({AskWait: Connected("bob.home", PATH)})
    assert await commanded(tmp_path, daemon, "wait", "bob", "--path", "direct", "--timeout", "3") == 0
    (question,) = daemon.asked
    assert isinstance(question, AskWait)
    assert (question.peer, question.path, round(question.timeout_s)) == ("bob", "direct", 3)
    assert "192.0.2.7:4711" in capsys.readouterr().out
    daemon.answers[AskWait] = Failed(1, "bob.home is not connected after 3 s")
    assert await commanded(tmp_path, daemon, "wait", "bob") == 1


def test_wait_without_a_daemon_gives_up_in_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "wait", "bob", "--timeout", "0") == 5
    assert "fabricd" in capsys.readouterr().err


async def test_ping_shows_round_trip_and_path(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    daemon = Daemon({AskPing: Pinged("bob.home", 1.25, "lan", "192.0.2.7:4711")})
    assert await commanded(tmp_path, daemon, "ping", "bob", "-c", "1") == 0
    assert capsys.readouterr().out == "bob.home: 1.25 ms over lan 192.0.2.7:4711, 1 of 1\n"
    assert await commanded(tmp_path, daemon, "ping", "bob", "-c", "1", "--json") == 0
    assert json.loads(capsys.readouterr().out)["answers"][0]["rtt_ms"] == 1.25
    daemon.answers[AskPing] = Failed(1, "no answer from bob.home")
    assert await commanded(tmp_path, daemon, "ping", "bob", "-c", "1") == 1
    daemon.answers[AskPing] = Failed(4, "there is no peer bob.home")
    assert await commanded(tmp_path, daemon, "ping", "bob", "-c", "3") == 4


@pytest.mark.parametrize(
    "words",
    [(), ("fly",), ("add",), ("wait", "bob", "--path", "crooked"), ("ping", "bob", "-c", "0"), ("status", "--x")],
)
def test_wrong_usage_ends_with_2_and_one_line(capsys: pytest.CaptureFixture[str], words: tuple[str, ...]) -> None:
    assert run_program(app, "fabric", list(words)) == 2
    said = capsys.readouterr()
    assert len(said.err.splitlines()) == (1 if words else 0)


def test_without_a_daemon_status_is_unreachable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path, "status") == 5
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_a_wrong_configuration_ends_with_78(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.toml").write_text("port = -1")
    assert run(tmp_path, "status") == 78
    assert "port" in capsys.readouterr().err
    assert run(tmp_path / "nowhere", "add", "bob") == 78


def test_an_enrolment_key_that_is_none_is_wrong_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FABRIC_ENROLMENT_KEY", raising=False)
    assert run(tmp_path, "enrol", "rubbish", "--name", "alice") == 2
    assert run(tmp_path, "enrol", "--name", "alice") == 2
    monkeypatch.setenv("FABRIC_ENROLMENT_KEY", "rubbish")
    assert run(tmp_path, "enrol", "--name", "alice") == 2


async def test_a_daemon_that_comes_up_while_a_wish_is_stored_is_told_to_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fabric.cli import wish
    from fabric.cli.words import connect
    from fabric.shell.control_client import NoDaemonError

    state = found(tmp_path).settle("alice")
    attempts: list[Path] = []

    def first_too_early(where: Path) -> object:
        attempts.append(where)
        if len(attempts) == 1:
            raise NoDaemonError(where)
        return connect(where)

    monkeypatch.setattr(wish, "connect", first_too_early)
    daemon = Daemon({AskWishes: Done()})
    assert await commanded(state, daemon, "add", "bob") == 0
    assert daemon.asked == [AskWishes()]
