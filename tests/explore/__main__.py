"""The long walk: `python -m tests.explore [--seconds N] [--room N] [--plain] [MODE...]` prints a line a mode.

`--plain` leaves tickets out. MODE is a part of a mode's name; all of them without one.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from tests.explore.modes import MODES
from tests.explore.promises import Account
from tests.explore.walk import Walk

HEAD = (
    f"{'mode':56} {'room':>4} {'states':>9} {'depth':>8} {'moves':>10} {'crashes':>9} {'copies':>7} {'used':>8}"
    f" {'alarms':>8} {'shapes':>6} {'CPU s':>6}"
)


def line(account: Account, *, has_tickets: bool) -> str:
    moves, verdicts = account.moves, account.verdicts
    crashes = sum(count for name, count in moves.items() if name.endswith("the store") or name == "restart")
    depth = f"{account.depth}{' = all' if account.is_complete else ''}"
    name = account.mode + ("" if has_tickets else ", no tickets")
    alarms = sum(count for name, count in verdicts.items() if "alarm" in name)
    return (
        f"{name:56} {account.room:4} {account.states:9,} {depth:>8} {sum(moves.values()):10,} {crashes:9,}"
        f" {moves['copy'] + moves['wake']:7,} {account.used:8,} {alarms:8,} {account.shapes:6,} {account.seconds:6.0f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.explore")
    parser.add_argument("mode", nargs="*")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--room", type=int, default=1)
    parser.add_argument("--plain", action="store_true")
    arguments = parser.parse_args()
    print(HEAD)
    for mode in MODES:
        if not arguments.mode or any(part in mode.name for part in arguments.mode):
            walk = Walk(replace(mode, room=arguments.room, has_tickets=not arguments.plain))
            print(line(walk.run(max_seconds=arguments.seconds), has_tickets=not arguments.plain), flush=True)


if __name__ == "__main__":
    main()
