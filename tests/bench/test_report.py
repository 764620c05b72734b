"""What a run leaves behind says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

from tests.bench import plot, report
from tests.bench.gauges import Reading
from tests.bench.tunnels import COMPETITORS


def reading(mbits: float) -> Reading:
    return Reading(
        tcp_1_mbits=mbits,
        tcp_4_mbits=2 * mbits,
        small_kpps=10.0,
        ping_p50_ms=0.1,
        ping_p99_ms=0.2,
        loaded_p50_ms=1.0,
        loaded_p99_ms=2.0,
        daemons_s_per_gb=None,
        machine_s_per_gb=5.0,
        resident_mib=None,
    )


def test_a_table_has_medians_and_leaves_out_what_failed(tmp_path: Path) -> None:
    readings = {"fastd": [reading(mbits) for mbits in (100, 900, 300)], "n2n": []}
    text = report.write(tmp_path, COMPETITORS, readings, None, 3, segmentation=True, load=0.2)
    (row,) = [line for line in text.splitlines() if line.startswith("| fastd")]
    assert "| 300 | 600 |" in row
    assert "n2n" not in text
    assert json.loads((tmp_path / "bench.json").read_text())["medians"]["fastd"]["tcp_1_mbits"] == 300


def test_publishing_replaces_what_is_between_the_marks_and_nothing_else(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{report.FIGURES}\nold\n{report.END_OF_FIGURES}\nafter\n")
    for _ in range(2):
        report.publish(page, "new\n")
    assert page.read_text() == f"before\n{report.FIGURES}\nnew\n{report.END_OF_FIGURES}\nafter\n"


def test_a_plot_has_a_bar_for_each_tunnel_with_a_cipher_and_a_number_for_the_others() -> None:
    figures: dict[str, float | None] = {panel.figure: 10.0 for panel in plot.PANELS}
    drawn = ElementTree.fromstring(plot.draw({"fastd & co": figures, "raw veth": figures}, {"raw veth"}))
    bars = [node for node in drawn.iter() if node.get("fill") == plot.THEIRS]
    texts = [node.text or "" for node in drawn.iter() if node.tag.endswith("text")]
    assert len(bars) == len(plot.PANELS)
    assert texts.count("fastd & co") == len(plot.PANELS)
    assert "raw veth" not in texts
