"""The plot of the paths as plain SVG: how many pairs have met by when, what paths carry, and what idle ones cost."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from math import log10

from tests.bench.carriage import Carried
from tests.bench.idle import Idle
from tests.bench.meetings import Group, Meeting
from tests.bench.plot import DIM, WIDTH, Panel, bars_height, bars_panel, page

EARLIEST_S, LATEST_S = 0.03, 30.0
TICKS_S = (0.03, 0.1, 0.3, 1, 3, 10, 30)
COLOURS = dict(zip(Group, ("#1f6feb", "#d9822b", "#2da44e", "#8250df", "#cf222e"), strict=True))
LEFT, PLOT_HEIGHT, TITLE_HEIGHT, AXIS_HEIGHT = 60, 150, 26, 34
LABEL_WIDTH = 210
THROUGHPUT = Panel("", "TCP, one stream: Mbit/s (more is better)", 0)
IDLE = Panel("", "an idle pair: bytes a minute to the peer or relay (less is better)", 0)


def draw(meetings: Sequence[Meeting], carried: Sequence[Carried], idle: Sequence[Idle]) -> str:
    """The SVG text."""
    parts, top = _legend(12), 56
    for rtt_ms in sorted({meeting.rtt_ms for meeting in meetings}):
        parts += _curves([meeting for meeting in meetings if meeting.rtt_ms == rtt_ms], rtt_ms, top)
        top += TITLE_HEIGHT + PLOT_HEIGHT + AXIS_HEIGHT
    for panel, bars in (
        (THROUGHPUT, {each.label: each.tcp_1_mbits for each in carried}),
        (IDLE, {each.path: float(each.sent) for each in idle}),
    ):
        parts += bars_panel(panel, bars, "", top, LABEL_WIDTH, ours="direct")
        top += bars_height(bars)
    return page(parts, top)


def _legend(top: int) -> list[str]:
    parts = []
    for number, group in enumerate(Group):
        x, y = 12 + number % 3 * 245, top + 8 + number // 3 * 18
        parts.append(f'<rect x="{x}" y="{y - 9}" width="12" height="12" fill="{COLOURS[group]}"/>')
        parts.append(f'<text x="{x + 18}" y="{y + 1}">{escape(group.value)}</text>')
    return parts


def _curves(meetings: Sequence[Meeting], rtt_ms: int, top: int) -> list[str]:
    """Two steps for each group: the share of its pairs that had a frame (dashed) and a direct path (solid) by then."""
    foot = top + TITLE_HEIGHT + PLOT_HEIGHT
    title = f"{rtt_ms} ms between sites: share of pairs by seconds after the second intent"
    parts = [
        f'<text x="12" y="{top + 16}" font-weight="bold">{title}</text>',
        f'<text x="{WIDTH - 12}" y="{top + 16}" text-anchor="end" fill="{DIM}" font-size="11">'
        "dashed: first frame, solid: direct path</text>",
    ]
    for share in (0, 50, 100):
        y = foot - share / 100 * PLOT_HEIGHT
        parts.append(f'<line x1="{LEFT}" y1="{y}" x2="{WIDTH - 12}" y2="{y}" stroke="#d8dde3"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4}" text-anchor="end" fill="{DIM}">{share} %</text>')
    for tick_s in TICKS_S:
        parts.append(
            f'<text x="{_x(tick_s):.1f}" y="{foot + 16}" text-anchor="middle" fill="{DIM}">{tick_s:g} s</text>'
        )
    for group in Group:
        some = [meeting for meeting in meetings if meeting.group == group.value]
        parts += _steps([each.first_frame_s for each in some], COLOURS[group], foot, dashed=True)
        parts += _steps([each.direct_s for each in some], COLOURS[group], foot, dashed=False)
    return parts


def _steps(times_s: Sequence[float | None], colour: str, foot: int, *, dashed: bool) -> list[str]:
    """Nothing where none came."""
    came = sorted(time_s for time_s in times_s if time_s is not None)
    if not came:
        return []
    words, share = [f"M{_x(came[0]):.1f},{foot}"], 0.0
    for number, time_s in enumerate(came, start=1):
        share = number / len(times_s)
        words.append(f"H{_x(time_s):.1f}V{foot - share * PLOT_HEIGHT:.1f}")
    style = ' stroke-dasharray="5 3"' if dashed else ""
    return [f'<path d="{" ".join(words)}" fill="none" stroke="{colour}" stroke-width="1.6"{style}/>']


def _x(time_s: float) -> float:
    """Logarithmic."""
    within = min(max(time_s, EARLIEST_S), LATEST_S)
    return LEFT + (WIDTH - 24 - LEFT) * log10(within / EARLIEST_S) / log10(LATEST_S / EARLIEST_S)
