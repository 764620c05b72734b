"""What a run leaves behind says what was measured."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.bench import ladder, plot, report
from tests.bench.competitors import COMPETITORS, with_cipher
from tests.bench.fabric_tunnel import CIPHER, Life, tunnel, unknown_settings
from tests.bench.gauges import Load, Reading
from tests.bench.tunnels import AES, BARE, CHACHA, NO_CIPHER, VXLAN
from tests.bench.variant import PAGE, Variant

ROOT = Path(__file__).resolve().parents[2]


def reading(mbits: float) -> Reading:
    load = Load(
        tcp_1_mbits=mbits,
        tcp_4_mbits=2 * mbits,
        small_kpps=10.0,
        offered_kpps=20.0,
        daemons_s_per_gb=None,
        machine_s_per_gb=5.0,
    )
    return Reading(
        load=load,
        lossy_mbits=mbits / 2,
        ping_p50_ms=0.1,
        ping_p99_ms=0.2,
        busy_p50_ms=0.05,
        loaded_p50_ms=1.0,
        loaded_p99_ms=2.0,
        loaded_lost=0.0,
        resident_mib=None,
        first_echo_s=None,
    )


def written(tmp_path: Path, readings: dict[str, list[Reading]], variant: Variant | None = None) -> list[str]:
    text = report.write(tmp_path, COMPETITORS, readings, None, 3, variant=variant or Variant(), load=0.2)
    return text.splitlines()


def rows(lines: list[str], label: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith(f"| {label} ")]


def test_a_table_has_medians_and_leaves_out_what_failed(tmp_path: Path) -> None:
    lines = written(tmp_path, {"fastd": [reading(mbits) for mbits in (100, 900, 300)], "n2n": []})
    carried, answered = rows(lines, "fastd")
    assert carried[3:6] == ["300", "600", "150"]
    assert answered[3:6] == ["0.10", "0.20", "0.050"]
    assert not rows(lines, "n2n")
    assert json.loads((tmp_path / "bench.json").read_text())["medians"]["fastd"]["tcp_1_mbits"] == 300


def test_a_table_tells_the_layer_of_what_is_carried(tmp_path: Path) -> None:
    lines = written(tmp_path, {label: [reading(1)] for label in ("nebula", "fastd")})
    assert [rows(lines, label)[0][1] for label in ("nebula", "fastd")] == ["3", "2"]


def test_throughput_under_loss_is_told_as_a_share_of_the_bare_cable(tmp_path: Path) -> None:
    lines = written(tmp_path, {BARE.label: [reading(1000)], "fastd": [reading(250)]})
    share = [column.figure for column in report.CARRIED].index("lossy_share") + 3
    assert rows(lines, "fastd")[0][share] == "0.25"
    alone = written(tmp_path, {"fastd": [reading(250)]})
    assert rows(alone, "fastd")[0][share] == ""


def test_each_reference_has_a_table_of_how_many_times_the_others_are(tmp_path: Path) -> None:
    lines = written(tmp_path, {VXLAN.label: [reading(1000)], "wireguard-go": [reading(200)], "fastd": [reading(300)]})
    heads = [line for line in lines if line.startswith("| times ")]
    assert [head.split("|")[1].strip() for head in heads] == ["times wireguard-go", f"times {VXLAN.label}"]
    _, _, to_wireguard, to_kernel = rows(lines, "fastd")
    assert (to_wireguard[1], to_kernel[1]) == ("1.50", "0.30")
    assert to_wireguard[-1] == "", "neither has a figure for memory"
    ratios = json.loads((tmp_path / "bench.json").read_text())["ratios"]
    assert ratios["wireguard-go"]["fastd"]["tcp_1_mbits"] == 1.5


def test_a_run_that_differs_has_files_and_a_block_of_its_own(tmp_path: Path) -> None:
    variants = [Variant(), Variant(card=True), Variant(cipher=CHACHA), Variant(card=True, cipher=CHACHA)]
    for variant in variants:
        written(tmp_path, {"fastd": [reading(100)]}, variant)
    assert len({variant.marks for variant in variants}) == len(variants)
    assert {path.name for path in tmp_path.glob("*.json")} == {f"{variant.stem}.json" for variant in variants}


@pytest.mark.parametrize("variant", [Variant(), Variant(card=True), Variant(cipher=CHACHA)])
def test_the_page_has_room_for_each_block_once(variant: Variant) -> None:
    page = (ROOT / PAGE).read_text()
    begin, end = variant.marks
    assert (page.count(begin), page.count(end)) == (1, 1)
    assert page.index(begin) < page.index(end)


def test_the_page_has_room_for_the_ladder() -> None:
    page = (ROOT / PAGE).read_text()
    assert (page.count(ladder.BEGIN), page.count(ladder.END)) == (1, 1)


def test_only_those_are_asked_for_a_cipher_that_can_use_it() -> None:
    for cipher in (AES, CHACHA):
        assert {one.cipher for one in with_cipher(cipher)} == {cipher, NO_CIPHER}
        assert tunnel({CIPHER: cipher}).cipher == cipher


def test_a_setting_that_the_daemon_would_not_look_at_is_found_out() -> None:
    assert unknown_settings({CIPHER: CHACHA}) == []
    assert unknown_settings({CIPHER: CHACHA, "FABRIC_CYPHER": CHACHA}) == ["FABRIC_CYPHER"]


def test_publishing_replaces_what_is_between_the_marks_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    begin, end = Variant().marks
    page.write_text(f"before\n{begin}\nold\n{end}\nafter\n")
    for _ in range(2):
        report.publish(page, "new\n", begin, end)
    assert page.read_text() == f"before\n{begin}\nnew\n{end}\nafter\n"


def test_a_plot_has_a_bar_for_each_tunnel_with_a_cipher_and_a_number_for_the_others() -> None:
    figures: dict[str, float | None] = {panel.figure: 10.0 for panel in plot.PANELS}
    drawn = ElementTree.fromstring(plot.draw({"fastd & co": figures, "raw veth": figures}, {"raw veth"}))
    bars = [node for node in drawn.iter() if node.get("fill") == plot.THEIRS]
    texts = [node.text or "" for node in drawn.iter() if node.tag.endswith("text")]
    assert len(bars) == len(plot.PANELS)
    assert texts.count("fastd & co") == len(plot.PANELS)
    assert "raw veth" not in texts


def test_the_ladder_has_a_row_and_a_bar_for_each_rung_that_stood(tmp_path: Path) -> None:
    first, second, third = (replace(ladder.RUNGS[0], label=f"native {number}") for number in range(3))
    loads = [replace(reading(mbits).load, daemons_s_per_gb=3.0) for mbits in (100, 500, 300)]
    providers = {rung.label: "some library" for rung in (first, second, third)}
    readings = {first.label: loads, second.label: loads[:1], third.label: []}
    lines = ladder.write(tmp_path, [first, second, third], providers, readings, 3, 0.1).splitlines()
    assert [rows(lines, rung.label)[0][2:5] for rung in (first, second)] == [
        ["300", "600", "3.0"],
        ["100", "200", "3.0"],
    ]
    assert not rows(lines, third.label)
    drawn = ElementTree.fromstring((tmp_path / "lanes.svg").read_text())
    assert len([node for node in drawn.iter() if node.get("fill") == plot.OURS]) == 2 * len(plot.LOAD_PANELS)


def test_rungs_differ_in_their_labels_and_in_what_they_measure() -> None:
    for things in ({rung.label for rung in ladder.RUNGS}, {str(rung.surroundings()) for rung in ladder.RUNGS}):
        assert len(things) == len(ladder.RUNGS)


def test_each_rung_names_only_settings_that_the_daemon_looks_at() -> None:
    assert [unknown_settings(rung.environment) for rung in ladder.RUNGS] == [[]] * len(ladder.RUNGS)


def test_each_further_peer_costs_what_the_others_share() -> None:
    life = Life(0.5, 0.5, 0.1, 0.1, resident_mib_one_peer=60.0, resident_mib_ten_peers=78.0, programs_mib="")
    assert life.resident_mib_further_peer == pytest.approx(2.0)
