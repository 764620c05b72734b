"""Builds a program in C around the native lane's own sources, watched by the compiler's sanitizers.

python -m tests.native.harness fuzz --seconds 60        libFuzzer on each harness in turn, grows build/native/
python -m tests.native.harness sanitize                 the corpora, the races and the wiping, for longer than a test
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

from fabric.shell.lanes import CANDIDATES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SOURCES = ROOT / "fabric/dataplane/native"
BUILT = ROOT / "build/native"
HARNESSES = ("lane", "superframe")
"""Each is fuzz_<name>.c here, with its corpus."""

MEMORY = ("-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
RACES = ("-fsanitize=thread",)
FUZZED = ("-fsanitize=fuzzer,address,undefined", "-fno-sanitize-recover=undefined")
_FLAGS = ("-std=c11", "-D_GNU_SOURCE", "-DFABRIC_LADDER", "-g", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread")
_NOT_OURS = "module.c"
"""It needs an interpreter, and is tested through one."""

_ENVIRONMENT = {
    "ASAN_OPTIONS": "abort_on_error=1:detect_leaks=1:allocator_may_return_null=1",
    "UBSAN_OPTIONS": "print_stacktrace=1",
    "TSAN_OPTIONS": "halt_on_error=1:second_deadlock_stack=1",
}


def has_sanitizers(flags: tuple[str, ...], compiler: str = "cc") -> bool:
    """Whether the compiler builds, and this machine runs, a program with them."""
    if shutil.which(compiler) is None:
        return False
    BUILT.mkdir(parents=True, exist_ok=True)
    program = BUILT / f"probe-{os.getpid()}"
    source = "int main(void) { return 0; }"
    try:
        command = [compiler, *flags, "-x", "c", "-", "-o", str(program)]
        built = subprocess.run(command, input=source, text=True, capture_output=True, check=False)
        return (
            built.returncode == 0 and subprocess.run([str(program)], capture_output=True, check=False).returncode == 0
        )
    finally:
        program.unlink(missing_ok=True)


def build(name: str, mains: tuple[str, ...], flags: tuple[str, ...], compiler: str = "cc") -> Path:
    """Returns the program `name`, made from these files here and the lane's own; made anew where one has changed."""
    sources = [*(HERE / main for main in mains), *(path for path in SOURCES.glob("*.c") if path.name != _NOT_OURS)]
    program = BUILT / name
    newest = max(path.stat().st_mtime for path in (*sources, *SOURCES.glob("*.h"), *HERE.glob("*.h"), Path(__file__)))
    if program.exists() and program.stat().st_mtime > newest:
        return program
    BUILT.mkdir(parents=True, exist_ok=True)
    fresh = program.with_suffix(f".{os.getpid()}")
    command = [
        compiler,
        *_FLAGS,
        *flags,
        f"-I{SOURCES}",
        f"-I{HERE}",
        *map(str, sources),
        "-o",
        str(fresh),
        "-ldl",
        "-lm",
    ]
    subprocess.run(command, check=True)
    return fresh.replace(program)


def run(program: Path, *arguments: str | Path, timeout_s: float = 100) -> str:
    """Returns what it prints; raises `AssertionError` with all of it where a sanitizer or the program complains."""
    command = [str(program), *map(str, arguments)]
    environment = os.environ | _ENVIRONMENT
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=timeout_s, check=False)
    assert done.returncode == 0, f"{program.name} ended with {done.returncode}\n{done.stdout}{done.stderr}"
    return done.stdout


def replayer(harness: str) -> Path:
    return build(f"replay_{harness}", (f"fuzz_{harness}.c", "replay.c"), MEMORY)


def libraries() -> list[str]:
    """Returns number and path of each library that a lane may take its ciphers from."""
    return [text for each in CANDIDATES.values() for text in (str(int(each.library)), each.path)]


def fuzz(seconds: int, harnesses: list[str]) -> None:
    """Grows build/native/grown-<harness> from the corpus; what breaks is kept in build/native/found."""
    (BUILT / "found").mkdir(parents=True, exist_ok=True)
    for harness in harnesses:
        program = build(f"fuzz_{harness}", (f"fuzz_{harness}.c",), FUZZED, "clang")
        grown = BUILT / f"grown-{harness}"
        grown.mkdir(exist_ok=True)
        limits = [
            f"-max_total_time={seconds}",
            "-max_len=2048",
            "-len_control=0",
            "-timeout=10",
            "-print_final_stats=1",
        ]
        command = [
            str(program),
            *limits,
            f"-artifact_prefix={BUILT}/found/",
            str(grown),
            str(HERE / "corpus" / harness),
        ]
        subprocess.run(command, check=True, env=os.environ | _ENVIRONMENT)


def sanitize(seconds: int) -> None:
    for harness in HARNESSES:
        print(harness, run(replayer(harness), HERE / "corpus" / harness, timeout_s=900).strip())
    print("wipe", run(build("wipe", ("wipe.c",), ()), *libraries()).strip())
    print("race", run(build("race", ("race.c",), RACES), str(seconds), timeout_s=seconds + 100).strip())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("fuzz", "sanitize"))
    parser.add_argument("--seconds", type=int, default=60, help="for each harness")
    parser.add_argument("--harness", choices=HARNESSES, action="append", help="only this one")
    chosen = parser.parse_args()
    try:
        if chosen.what == "fuzz":
            fuzz(chosen.seconds, chosen.harness or list(HARNESSES))
        else:
            sanitize(chosen.seconds)
    except (AssertionError, subprocess.CalledProcessError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
