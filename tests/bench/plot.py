"""A plot of the medians as plain SVG: one panel a figure, one bar a tunnel. No plotting library is needed."""

from __future__ import annotations

from html import escape
from typing import NamedTuple


class Panel(NamedTuple):
    figure: str
    title: str
    digits: int


PANELS = (
    Panel("tcp_1_mbits", "TCP, one stream: Mbit/s (more is better)", 0),
    Panel("tcp_4_mbits", "TCP, four streams: Mbit/s (more is better)", 0),
    Panel("small_kpps", "64-byte datagrams: thousand a second (more is better)", 1),
    Panel("loaded_p50_ms", "ping under load, median: ms (less is better)", 2),
    Panel("machine_s_per_gb", "processor seconds a gigabyte, whole machine (less is better)", 1),
)
WIDTH, LABEL_WIDTH, VALUE_WIDTH, BAR, GAP, HEAD = 760, 110, 70, 16, 5, 34
OURS, THEIRS, INK, DIM = "#1f6feb", "#9aa4b2", "#1b1f24", "#5b6470"


def draw(medians: dict[str, dict[str, float | None]], beyond: set[str]) -> str:
    """The SVG text. Tunnels in the order of `medians`; ours in its own colour.

    Those in `beyond` have no cipher and another scale: they stand as numbers beside the title, not as bars.
    """
    height = 12
    parts: list[str] = []
    for panel in PANELS:
        bars = {label: value for label, found in medians.items() if (value := found[panel.figure]) is not None}
        shown = {label: value for label, value in bars.items() if label not in beyond}
        aside = ", ".join(f"{label} {value:,.{panel.digits}f}" for label, value in bars.items() if label in beyond)
        parts += _panel(panel, shown, aside, height)
        height += HEAD + len(shown) * (BAR + GAP) + 10
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _panel(panel: Panel, bars: dict[str, float], aside: str, top: int) -> list[str]:
    widest = max(bars.values(), default=1.0) or 1.0
    parts = [f'<text x="12" y="{top + 16}" font-weight="bold">{escape(panel.title)}</text>']
    if aside:
        text = f"without a cipher: {aside}"
        parts.append(
            f'<text x="{WIDTH - 12}" y="{top + 16}" text-anchor="end" fill="{DIM}" font-size="11">{escape(text)}</text>'
        )
    for row, (label, value) in enumerate(bars.items()):
        y = top + HEAD - 8 + row * (BAR + GAP)
        length = max(1.0, value / widest * (WIDTH - LABEL_WIDTH - VALUE_WIDTH - 12))
        colour = OURS if label.startswith("fabric") else THEIRS
        parts.append(f'<text x="{LABEL_WIDTH - 6}" y="{y + 12}" text-anchor="end">{escape(label)}</text>')
        parts.append(f'<rect x="{LABEL_WIDTH}" y="{y}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>')
        parts.append(f'<text x="{LABEL_WIDTH + length + 6:.1f}" y="{y + 12}">{value:,.{panel.digits}f}</text>')
    return parts
