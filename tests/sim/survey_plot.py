"""The plot of a survey as plain SVG: how soon pairs have their first frame, and how soon they are direct."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

COLOURS = {
    "LAN": "#2da44e",
    "IPv6": "#1f6feb",
    "punching": "#8250df",
    "guessing": "#cf222e",
    "TCP": "#bf8700",
    "relay only": "#6e7781",
}
WIDTH, HEIGHT, LEFT, TOP, GAP = 820, 300, 60, 46, 70
FIRST_S, LAST_S = 0.1, 200.0
TICKS_S = (0.1, 0.3, 1, 3, 10, 30, 100)
INK, DIM = "#1b1f24", "#d0d7de"


def draw(figures: Mapping[str, Any]) -> str:
    """Returns the SVG text: one panel a figure, one curve a class."""
    title = f"{figures['endpoints']:,} endpoints, {figures['pairs']:,} pairs: share of the pairs of each class"
    parts = [f'<text x="{LEFT}" y="20" font-weight="bold">{escape(title)}</text>']
    panels = (("first frame", "a frame has come out at both ends"), ("to direct", "both ends send directly"))
    for number, (key, words) in enumerate(panels):
        top = TOP + number * (HEIGHT + GAP)
        parts += _axes(top, f"{words}: seconds since the second wish")
        for name, colour in COLOURS.items():
            parts += _curve(figures["curves"][name][key], figures["classes"][name]["pairs"], colour, top)
        parts += _legend(figures, key, top)
    height = TOP + 2 * (HEIGHT + GAP)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{height}" '
            f'viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" font-size="12" fill="{INK}">',
            f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
            *parts,
            "</svg>\n",
        ]
    )


def _x(seconds: float) -> float:
    share = math.log(max(seconds, FIRST_S) / FIRST_S) / math.log(LAST_S / FIRST_S)
    return LEFT + min(share, 1.0) * (WIDTH - LEFT - 20)


def _y(share: float, top: int) -> float:
    return top + (1.0 - share) * HEIGHT


def _axes(top: int, words: str) -> list[str]:
    parts = [f'<text x="{LEFT}" y="{top + HEIGHT + 36}">{escape(words)}</text>']
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = _y(share, top)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - 20}" y1="{y:.1f}" y2="{y:.1f}" stroke="{DIM}"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{share:.0%}</text>')
    for seconds in TICKS_S:
        x = _x(seconds)
        parts.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="{top}" y2="{top + HEIGHT}" stroke="{DIM}"/>')
        parts.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 18}" text-anchor="middle">{seconds:g}</text>')
    return parts


def _curve(times: Sequence[float], pairs: int, colour: str, top: int) -> list[str]:
    if not times:
        return []
    steps = max(1, len(times) // 400)
    points = [(_x(times[0]), _y(0.0, top))]
    points += [(_x(times[n]), _y((n + 1) / pairs, top)) for n in (*range(0, len(times), steps), len(times) - 1)]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return [f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="2"/>']


def _legend(figures: Mapping[str, Any], key: str, top: int) -> list[str]:
    shown = [name for name in COLOURS if figures["curves"][name][key]]
    parts: list[str] = []
    for row, name in enumerate(shown):
        y = top + HEIGHT - 14 * (len(shown) - row) - 6
        parts.append(f'<rect x="{WIDTH - 160}" y="{y}" width="12" height="4" fill="{COLOURS[name]}"/>')
        label = f"{name} ({figures['classes'][name]['pairs']:,})"
        parts.append(f'<text x="{WIDTH - 142}" y="{y + 6}">{escape(label)}</text>')
    return parts
