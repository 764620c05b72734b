"""A plot of the medians as plain SVG: one panel a figure, one bar a tunnel. No plotting library is needed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from html import escape
from typing import NamedTuple


class Panel(NamedTuple):
    figure: str
    title: str
    digits: int


PANELS = (
    Panel("tcp_1_mbits", "TCP, one stream: Mbit/s (more is better)", 0),
    Panel("tcp_4_mbits", "TCP, four streams: Mbit/s (more is better)", 0),
    Panel("lossy_mbits", "TCP, one stream at 1 % loss: Mbit/s (more is better)", 0),
    Panel("small_kpps", "64-byte datagrams: thousand a second (more is better)", 1),
    Panel("busy_p50_ms", "busy ping, median: ms (less is better)", 3),
    Panel("loaded_p50_ms", "ping under load, median: ms (less is better)", 2),
    Panel("machine_s_per_gb", "processor seconds a gigabyte, whole machine (less is better)", 1),
)
LOAD_FIGURES = ("tcp_1_mbits", "tcp_4_mbits", "small_kpps", "machine_s_per_gb")
LOAD_PANELS = tuple(panel for panel in PANELS if panel.figure in LOAD_FIGURES)
WIDTH, LABEL_WIDTH, VALUE_WIDTH, BAR, GAP, HEAD = 760, 110, 70, 16, 5, 34
OURS, THEIRS, INK, DIM = "#1f6feb", "#9aa4b2", "#1b1f24", "#5b6470"


def draw(
    medians: Mapping[str, Mapping[str, float | None]],
    beyond: Set[str],
    panels: Sequence[Panel] = PANELS,
    *,
    label_width: int = LABEL_WIDTH,
    ours: str = "fabric",
) -> str:
    """The SVG text. Tunnels in the order of `medians`; those that begin with `ours` in their own colour.

    Those in `beyond` have no cipher and another scale: they stand as numbers beside the title, not as bars.
    """
    height = 12
    parts: list[str] = []
    for panel in panels:
        bars = {label: value for label, found in medians.items() if (value := found[panel.figure]) is not None}
        shown = {label: value for label, value in bars.items() if label not in beyond}
        others = ", ".join(f"{label} {value:,.{panel.digits}f}" for label, value in bars.items() if label in beyond)
        aside = f"without a cipher: {others}" if others else ""
        parts += bars_panel(panel, shown, aside, height, label_width, ours)
        height += bars_height(shown)
    return page(parts, height)


def page(parts: list[str], height: int) -> str:
    """A drawing of `parts`, `WIDTH` wide."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def bars_height(bars: dict[str, float]) -> int:
    return HEAD + len(bars) * (BAR + GAP) + 10


def bars_panel(
    panel: Panel, bars: dict[str, float], aside: str, top: int, label_width: int = LABEL_WIDTH, ours: str = "fabric"
) -> list[str]:
    """One bar for each label; those that begin with `ours` in our colour, `aside` in small type beside the title."""
    widest = max(bars.values(), default=1.0) or 1.0
    parts = [f'<text x="12" y="{top + 16}" font-weight="bold">{escape(panel.title)}</text>']
    if aside:
        place = f'x="{WIDTH - 12}" y="{top + 16}" text-anchor="end"'
        parts.append(f'<text {place} fill="{DIM}" font-size="11">{escape(aside)}</text>')
    for row, (label, value) in enumerate(bars.items()):
        y = top + HEAD - 8 + row * (BAR + GAP)
        length = max(1.0, value / widest * (WIDTH - label_width - VALUE_WIDTH - 12))
        colour = OURS if label.startswith(ours) else THEIRS
        parts.append(f'<text x="{label_width - 6}" y="{y + 12}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{label_width}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{label_width + length + 6:.1f}" y="{y + 12}">{value:,.{panel.digits}f}</text>')
    return parts
