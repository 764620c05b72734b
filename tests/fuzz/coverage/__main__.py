"""python -m tests.fuzz.coverage run --seconds 60     each target in turn, so many seconds each
python -m tests.fuzz.coverage shrink               the committed corpora, made anew of what has grown
python -m tests.fuzz.coverage show FILE --target X what becomes of one input, without atheris

`make fuzz-python` runs the first; atheris comes from `pip install -e '.[fuzz]'`.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tests.fuzz.coverage import run


def main() -> int:
    if sys.argv[1:2] == ["one"]:
        run.one(sys.argv[2], sys.argv[3:])
    from tests.fuzz.coverage.replay import replay
    from tests.fuzz.coverage.table import targets

    known = targets()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "shrink", "show"))
    parser.add_argument("file", nargs="?", type=Path)
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--target", action="append", choices=tuple(known), help="only this one")
    chosen = parser.parse_args()
    names = chosen.target or list(known)
    if chosen.what == "show":
        replay(known[names[0]], chosen.file.read_bytes())
        return 0
    broken = False
    for name in names:
        if chosen.what == "shrink":
            files, size = run.shrink(name)
            print(f"{name}: {files} inputs, {size} bytes", flush=True)
            continue
        outcome = run.fuzz(name, chosen.seconds)
        run.publish([outcome])
        broken = broken or bool(outcome.findings)
        told = f"{outcome.executions} executions in {outcome.seconds:.0f} s, {outcome.edges} edges"
        print(f"{name}: {told}, found {', '.join(outcome.findings) or 'nothing'}", flush=True)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
