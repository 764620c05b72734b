"""The figures of a survey as a Markdown page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def tabulate(figures: Mapping[str, Any], seed: int) -> str:
    share = 100.0 * figures["direct"] / max(1, figures["feasible"])
    idle, apart = figures["idle bytes a minute a peer"], figures["disagreement"]
    lines = [
        f"{figures['endpoints']:,} endpoints, {figures['pairs']:,} pairs, seed {seed}: "
        f"{figures['connected']:,} pairs connected; {figures['direct']:,} of {figures['feasible']:,} feasible ones "
        f"direct ({share:.2f} %), {figures['best']:,} on the very class of path that the oracle says.",
        "",
        "| what it takes | pairs | direct | first frame p50 | p99 | longest | to direct p50 | p99 | longest "
        "| datagrams p50 | p99 | most |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, found in figures["classes"].items():
        lines.append(
            f"| {name} | {found['pairs']:,} | {found['direct']:,} | {_times(found['first frame'])} "
            f"| {_times(found['to direct'])} | {_counts(found['datagrams'])} |"
        )
    lines.append(
        f"| all | {figures['pairs']:,} | {figures['direct']:,} | {_times(figures['first frame'])} "
        f"| {_times(figures['to direct'])} | | | |"
    )
    lines += [
        "",
        f"An idle endpoint sends {idle['p50']:,.0f} bytes a minute for each of its peers (p99 {idle['p99']:,.0f}, "
        f"most {idle['max']:,.0f}), IP headers and what it says to STUN servers and relays included. "
        f"One end sends directly while the other still uses a relay for {apart['p50']:.2f} s (p99 {apart['p99']:.2f} "
        f"s, longest {apart['max']:.2f} s). Handshakes a pair: {figures['handshakes a pair']:.2f} in the whole time.",
        "",
    ]
    return "\n".join(lines)


def _times(found: Mapping[str, Any]) -> str:
    return " | ".join("" if found[key] is None else f"{found[key]:.2f} s" for key in ("p50", "p99", "max"))


def _counts(found: Mapping[str, Any]) -> str:
    return " | ".join("" if found[key] is None else f"{found[key]:,.0f}" for key in ("p50", "p99", "max"))
