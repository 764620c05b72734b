"""What `fabric metrics` prints is read by the parser of Prometheus' own client as what the reports say."""

from __future__ import annotations

import re
import subprocess
import sysconfig
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families

from fabric.cli.metrics_text import STATES, Family, family_text, metrics_text, up_text
from fabric.core.status import PeerState
from fabric.shell.control_wire import (
    AlarmReport,
    CertificateReport,
    EncounterReport,
    EndpointReport,
    PathReport,
    PeerReport,
    StatusReport,
    TrustReport,
)

PAGE = (
    (Path(__file__).parents[2] / "docs/operations.md")
    .read_text()
    .partition("\n### Metrics\n")[2]
    .partition("\n### ")[0]
)
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]
DAY = 1_893_456_000
"""2030-01-01T00:00:00Z"""

ADA = EndpointReport(
    name="ada.home",
    network="home",
    addresses=("100.64.0.1",),
    mac="02:fa:64:40:00:01",
    device="fabric0",
    cipher="aes-256-gcm",
    certificate=CertificateReport("2030-01-01T00:00:00Z", 600_000.0),
    discovery="connected",
    discovery_why="",
    fingerprint="abcd-efgh",
    custody="tpm2",
    lane="native",
    cipher_provider="openssl 3.0",
    port=4711,
    mtu=1399,
    underlay=("192.0.2.2",),
    drops={"unknown_index": 7},
    version="0.1.0",
    uptime_s=12.5,
)


def peer(name: str, state: str = "connected", path: PathReport | None = None, **drops: int) -> PeerReport:
    return PeerReport(
        name=name,
        state=state,
        why="",
        path=path,
        cipher=None,
        addresses=(),
        mac=None,
        verified=False,
        last_seen_s=None,
        rx_bytes=12,
        tx_bytes=2**60 + 1,
        drops=drops,
    )


def trusted(name: str, alarm: AlarmReport | None = None, *, removed: bool = False) -> TrustReport:
    return TrustReport(
        name=name,
        key="first-use",
        fingerprint=None,
        safety_number=None,
        entangled=True,
        removed=removed,
        alarm=alarm,
    )


def alarm(remote: str, before: str | None) -> AlarmReport:
    return AlarmReport(
        at=EncounterReport("2030-01-01T00:00:00Z", remote),
        seen="there",
        before=EncounterReport("2029-12-31T00:00:00Z", before) if before is not None else None,
        is_known_there=True,
    )


ZOE = peer("zoe.home", "connected", PathReport("direct-udp", "192.0.2.7:4711", 12.345, 1472), replay=3)
EVE = peer("eve.home", "quarantined")


def families(text: str) -> list[Metric]:
    return list(text_string_to_metric_families(text))


def series(text: str) -> Series:
    """Each sample by name and labels, `endpoint` left out; none is there twice."""
    read: Series = {}
    for family in families(text):
        assert family.type in ("gauge", "counter"), family.name
        for sample in family.samples:
            labels = frozenset((name, value) for name, value in sample.labels.items() if name != "endpoint")
            assert (sample.name, labels) not in read
            read[sample.name, labels] = sample.value
    return read


def at(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


def shown(*peers: PeerReport, trust: tuple[TrustReport, ...] = (), here: EndpointReport = ADA) -> Series:
    return series(metrics_text("/var/lib/fabric", StatusReport(here, peers), trust))


def test_every_state_of_a_peer_has_a_sample_though_nobody_is_in_it() -> None:
    assert set(STATES) == {state.value for state in PeerState}
    read = shown(ZOE, EVE)
    assert {state: read[at("fabric_peers", state=state)] for state in STATES} == {
        **dict.fromkeys(STATES, 0),
        "connected": 1,
        "quarantined": 1,
    }
    assert [state for state in STATES if read[at("fabric_peer_state", peer="eve.home", state=state)]] == ["quarantined"]


def test_a_state_that_is_not_known_here_is_counted_all_the_same() -> None:
    read = shown(peer("eve.home", "dreaming"))
    assert read[at("fabric_peers", state="dreaming")] == 1
    assert read[at("fabric_peer_state", peer="eve.home", state="dreaming")] == 1
    assert read[at("fabric_peer_connected", peer="eve.home")] == 0


def test_the_endpoint_is_told() -> None:
    read = shown()
    assert read[at("fabric_up", directory="/var/lib/fabric")] == 1
    assert read[at("fabric_build_info", version="0.1.0", lane="native", cipher_provider="openssl 3.0")] == 1
    assert read[at("fabric_endpoint_info", network="home", device="fabric0", custody="tpm2")] == 1
    assert read[at("fabric_uptime_seconds")] == 12.5
    assert read[at("fabric_certificate_expiry_timestamp_seconds")] == DAY
    assert read[at("fabric_service_connected")] == 1
    assert read[at("fabric_drops_total", reason="unknown_index")] == 7
    lost = msgspec.structs.replace(ADA, discovery="unreachable")
    assert shown(here=lost)[at("fabric_service_connected")] == 0


def test_a_peer_is_told_in_base_units_and_exactly() -> None:
    read = shown(ZOE, EVE)
    assert read[at("fabric_peer_connected", peer="zoe.home")] == 1
    assert read[at("fabric_peer_connected", peer="eve.home")] == 0
    assert read[at("fabric_peer_path_info", peer="zoe.home", kind="direct-udp")] == 1
    assert read[at("fabric_peer_rtt_seconds", peer="zoe.home")] == 0.012345
    assert read[at("fabric_peer_receive_bytes_total", peer="zoe.home")] == 12
    assert read[at("fabric_peer_transmit_bytes_total", peer="zoe.home")] == 2**60 + 1
    assert read[at("fabric_peer_drops_total", peer="zoe.home", reason="replay")] == 3
    assert at("fabric_peer_rtt_seconds", peer="eve.home") not in read


def test_an_alarm_is_told_with_time_and_address_of_both_handshakes_also_of_who_was_removed() -> None:
    trust = (
        trusted("zoe.home"),
        trusted("eve.home", alarm("203.0.113.9:4711", "198.51.100.7:4711")),
        trusted("mallory.home", alarm("[2001:db8::9]:4711", None), removed=True),
    )
    read = shown(ZOE, EVE, trust=trust)
    assert [read[at("fabric_alarm", peer=each.name)] for each in trust] == [0, 1, 1]
    assert {key[1]: value for key, value in read.items() if key[0] == "fabric_alarm_timestamp_seconds"} == {
        frozenset(labels.items()): value
        for labels, value in (
            ({"peer": "eve.home", "handshake": "mismatch", "remote": "203.0.113.9:4711", "seen": "there"}, DAY),
            (
                {"peer": "eve.home", "handshake": "last_match", "remote": "198.51.100.7:4711", "seen": "there"},
                DAY - 86_400,
            ),
            ({"peer": "mallory.home", "handshake": "mismatch", "remote": "[2001:db8::9]:4711", "seen": "there"}, DAY),
        )
    }


def test_two_daemons_of_one_host_have_no_series_in_common() -> None:
    texts = [
        metrics_text(f"/srv/{name}", StatusReport(msgspec.structs.replace(ADA, name=name), (ZOE,)), (trusted("b"),))
        for name in ("ada.home", "ada.work")
    ]
    lines = [{line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")} for text in texts]
    assert not lines[0] & lines[1]
    assert not set(up_text("/srv/a", is_up=False).splitlines()[2:]) & set(up_text("/srv/b", is_up=False).splitlines())


def test_without_a_daemon_the_same_series_says_0() -> None:
    assert series(up_text("/var/lib/fabric", is_up=False)) == {at("fabric_up", directory="/var/lib/fabric"): 0}


hostile = st.text(st.characters(exclude_categories=["Cs"]), max_size=20) | st.text('\\"\n{}=,# e1', max_size=12)
LINE = re.compile(r'(# (HELP|TYPE) [a-z_]+ .+|[a-z_]+\{([a-z_]+="([^"\\]|\\["\\n])*",?)*\} [-+.0-9e]+)')


def lines_of(text: str) -> list[str]:
    """The format knows one end of a line, and the last line has it too."""
    assert text.endswith("\n")
    return text[:-1].split("\n")


@given(
    st.dictionaries(st.sampled_from("abc"), hostile, max_size=3), hostile, st.integers(0, 2**63) | st.floats(0, 1e12)
)
def test_labels_and_help_come_out_as_they_went_in(labels: dict[str, str], explanation: str, value: float) -> None:
    text = family_text(Family("fabric_x_seconds", "gauge", f"It: {explanation}.", ((labels, value),)), {"peer": "zoe"})
    assert len(lines_of(text)) == 3
    assert LINE.fullmatch(lines_of(text)[2])
    (family,) = families(text)
    (sample,) = family.samples
    assert (sample.labels, sample.value) == ({"peer": "zoe", **labels}, value)
    assert family.documentation.split() == f"It: {explanation}.".split()


encounters = st.builds(
    EncounterReport, st.datetimes(datetime(1970, 1, 2), datetime(9999, 1, 1)).map(lambda t: f"{t:%FT%TZ}"), hostile
)
alarms = st.builds(
    AlarmReport,
    at=encounters,
    seen=st.sampled_from(["here", "there"]),
    before=st.none() | encounters,
    is_known_there=st.booleans(),
)
paths = st.none() | st.builds(PathReport, hostile, hostile, st.none() | st.floats(0, 1e6), st.just(1400))
peers = st.builds(peer, hostile, hostile | st.sampled_from(STATES), paths).flatmap(
    lambda p: st.dictionaries(hostile, st.integers(0, 2**63)).map(lambda d: msgspec.structs.replace(p, drops=d))
)
trusts = st.builds(trusted, hostile, st.none() | alarms, removed=st.booleans())


def by_name(each: PeerReport | TrustReport) -> str:
    return each.name


@given(
    hostile,
    st.builds(
        lambda name, reasons: msgspec.structs.replace(ADA, name=name, custody=name, drops=reasons),
        hostile,
        st.dictionaries(hostile, st.integers(0)),
    ),
    st.lists(peers, max_size=3, unique_by=by_name),
    st.lists(trusts, max_size=3, unique_by=by_name),
)
def test_whatever_stands_in_a_report_changes_labels_and_nothing_else(
    directory: str, here: EndpointReport, peers: list[PeerReport], trust: list[TrustReport]
) -> None:
    text = metrics_text(directory, StatusReport(here, tuple(peers)), trust)
    assert not [line for line in lines_of(text) if not LINE.fullmatch(line)]
    heads = [line for line in lines_of(text) if line.startswith("#")]
    assert len(heads) == len(set(heads)) == 2 * len(families(text)), "each family stands once, in one piece"
    read = series(text)
    assert read[at("fabric_up", directory=directory)] == 1
    for each in peers:
        assert read[at("fabric_peer_connected", peer=each.name)] == (each.state == "connected")
        for reason, count in each.drops.items():
            assert read[at("fabric_peer_drops_total", peer=each.name, reason=reason)] == count
    for one in trust:
        assert read[at("fabric_alarm", peer=one.name)] == (one.alarm is not None)
        if one.alarm is not None:
            labels = {"peer": one.name, "handshake": "mismatch", "remote": one.alarm.at.remote, "seen": one.alarm.seen}
            then = datetime.fromisoformat(one.alarm.at.time).replace(tzinfo=UTC).timestamp()
            assert read[at("fabric_alarm_timestamp_seconds", **labels)] == then


@pytest.mark.parametrize(
    "family", families(metrics_text("/d", StatusReport(ADA, (ZOE, EVE)), (trusted("eve.home", alarm("a", "b")),)))
)
def test_names_follow_the_conventions_of_prometheus(family: Metric) -> None:
    assert re.fullmatch(r"fabric(_[a-z]+)+", family.name)
    assert family.documentation.endswith(".")
    for sample in family.samples:
        assert sample.name.endswith("_total") == (family.type == "counter")
        assert ("endpoint" in sample.labels) != (family.name == "fabric_up")


def test_the_page_has_every_name_with_its_labels_and_no_other() -> None:
    rows = [row.split(" | ") for row in PAGE.splitlines() if row.startswith("| `fabric_")]
    told = {name: set(re.findall(r"`(\w+)`", row[1])) for row in rows for name in re.findall(r"`(\w+)`", row[0])}
    text = metrics_text("/d", StatusReport(ADA, (ZOE,)), (trusted("eve.home", alarm("a", "b")),))
    samples = [sample for family in families(text) for sample in family.samples]
    assert told == {sample.name: set(sample.labels) - {"endpoint"} for sample in samples}


@pytest.mark.parametrize("begin", ["ExecStart=/bin/sh -c '", "* * * * * root "])
def test_the_line_of_the_page_leaves_a_file_that_node_exporter_reads(tmp_path: Path, begin: str) -> None:
    """Here without a daemon, so that its command fails: the file then says that, and nothing older."""
    (line,) = (line.removeprefix(begin).rstrip("'") for line in PAGE.splitlines() if line.startswith(begin))
    program = Path(sysconfig.get_path("scripts"), "fabric")
    here = line.replace("/usr/local/bin/fabric", str(program)).replace("/var/lib/prometheus/node-exporter", ".")
    (tmp_path / "fabric.prom").write_text("fabric_alarm 1\n")
    subprocess.run(["/bin/sh", "-c", here], cwd=tmp_path, env={"FABRIC_STATE": str(tmp_path)}, timeout=30, check=True)
    assert (tmp_path / "fabric.prom").read_text() == up_text(str(tmp_path), is_up=False)
    assert [each.name for each in tmp_path.iterdir()] == ["fabric.prom"]
