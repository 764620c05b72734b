"""`make bench-keyd`: what it costs to have the keys in a process of their own: each operation here and there.

"Here" is the same work in the process that asks, without the check of what is signed. Writes custody.json, and a table
into the page on security.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from fabric.crypto.sealing import seal_to
from fabric.crypto.signature import LABEL_HANDSHAKE_CLIENT, LABEL_INTENT, LABEL_RELAY, SIGNATURE_BYTES
from fabric.custody.contract import Custodian
from fabric.custody.memory import MemoryCustodian
from fabric.identity.bundle import peek_bundle
from fabric.identity.intent import Intent, sign_intent
from fabric.shell.custody import Child, RemoteCustodian
from fabric.wire.envelope import EnvelopeHeader, EnvelopeKind, encode_header
from fabric.wire.relay import COOKIE_BYTES, GRANT_ID_BYTES
from tests.bench import report
from tests.bench.variant import PUBLISHED, SCRATCH

STEM = "custody"
PAGE = Path("docs/security.md")
BEGIN, END = "<!-- custody -->", "<!-- end of custody -->"

NAME, PEER = "bench.home", "peer.home"
HASH = bytes(32)
CONTENT_KEY_BYTES = 32
STARTS = 10


@dataclass(frozen=True, slots=True)
class Latency:
    """Microseconds of one operation."""

    median_us: float
    p99_us: float


def main() -> int:
    options = _options()
    rounds = 20 if options.quick else 2000
    load = os.getloadavg()[0]
    here = MemoryCustodian(os.urandom(32))
    with tempfile.TemporaryDirectory(prefix="keyd") as directory:
        way = Child(Path(directory), None, os.environ)
        there = RemoteCustodian(way, name=NAME)
        found = {
            label: {"here": _latency(acts[0], count), "there": _latency(acts[1], count)}
            for label, acts, count in _operations(here, there, rounds)
        }
        memory_mib = _memory_mib(way.pid)
        again_ms = [_after_kill_ms(way, there) for _ in range(3 if options.quick else STARTS)]
        there.close()
        start_ms = [_start_ms(Path(directory)) for _ in range(3 if options.quick else STARTS)]
    lives = {
        "start_ms": round(statistics.median(start_ms), 1),
        "after_kill_ms": round(statistics.median(again_ms), 1),
        "memory_mib": memory_mib,
    }
    machine = report.machine_facts(load)
    text = _text(found, lives, machine, rounds)
    output: Path = options.output or (SCRATCH if options.quick else PUBLISHED)
    output.mkdir(parents=True, exist_ok=True)
    figures = {label: {where: asdict(each) for where, each in both.items()} for label, both in found.items()}
    content = {"machine": machine, "rounds": rounds, "operations": figures, "process": lives}
    (output / f"{STEM}.json").write_text(json.dumps(content, indent=1) + "\n")
    if output == PUBLISHED:
        report.publish(PAGE, text, BEGIN, END)
    print(text)
    return 0


def _operations(
    here: MemoryCustodian, there: RemoteCustodian, rounds: int
) -> list[tuple[str, list[Callable[[], object]], int]]:
    both: list[Custodian] = [here, there]
    now = time.time()
    for each in both:
        each.next_bundle(NAME, now)
    intent = Intent("home", NAME, PEER, now, now, now + 60)
    relay = (b"home", bytes(COOKIE_BYTES), bytes(GRANT_ID_BYTES))
    return [
        ("sign a handshake", [_signing(each, LABEL_HANDSHAKE_CLIENT, HASH, HASH) for each in both], rounds),
        ("sign an intent", [_signing(each, LABEL_INTENT, _body_of(intent, each)) for each in both], rounds),
        ("sign for a relay", [_signing(each, LABEL_RELAY, *relay) for each in both], rounds),
        ("open an envelope", [_opening(each) for each in both], rounds),
        ("certificate request", [_requesting(each) for each in both], rounds // 10),
        ("next key bundle, on the disk there", [_bundling(each, now) for each in both], rounds // 20),
    ]


def _signing(custodian: Custodian, label: bytes, *fields: bytes) -> Callable[[], object]:
    return lambda: custodian.sign(label, *fields)


def _body_of(intent: Intent, custodian: Custodian) -> bytes:
    return sign_intent(custodian, intent)[SIGNATURE_BYTES:]


def _opening(custodian: Custodian) -> Callable[[], object]:
    bundle = peek_bundle(custodian.bundle or b"")
    header = encode_header(
        EnvelopeHeader(EnvelopeKind.OFFER, "home", HASH, NAME, bytes(16), bundle.serial, time.time(), 60, 900)
    )
    sealed = seal_to(bundle.offer_key, header, bytes(CONTENT_KEY_BYTES))
    return lambda: custodian.open(sealed, header)


def _requesting(custodian: Custodian) -> Callable[[], object]:
    return lambda: custodian.make_request(NAME, bytes(16))


def _bundling(custodian: Custodian, now: float) -> Callable[[], object]:
    def make() -> None:
        custodian.next_bundle(NAME, now)
        custodian.forget_secrets(now + 30 * 86_400)

    return make


def _latency(act: Callable[[], object], rounds: int) -> Latency:
    act()
    taken = sorted(_us(act) for _ in range(max(rounds, 5)))
    return Latency(round(statistics.median(taken), 1), round(taken[len(taken) * 99 // 100], 1))


def _us(act: Callable[[], object]) -> float:
    before = time.perf_counter_ns()
    act()
    return (time.perf_counter_ns() - before) / 1000


def _start_ms(directory: Path) -> float:
    """From nothing to the first answer, alone on the machine; a daemon does its own loading meanwhile."""
    before = time.perf_counter_ns()
    started = RemoteCustodian(Child(directory, None, os.environ), name=NAME)
    taken = (time.perf_counter_ns() - before) / 1e6
    started.close()
    return taken


def _after_kill_ms(way: Child, custodian: RemoteCustodian) -> float:
    os.kill(way.pid, signal.SIGKILL)
    return _us(lambda: custodian.sign(LABEL_HANDSHAKE_CLIENT, HASH, HASH)) / 1000


def _memory_mib(pid: int) -> float:
    """What the process has of its own and its part of what it shares (Pss)."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    (kib,) = [int(line.split()[1]) for line in lines if line.startswith("Pss:")]
    return round(kib / 1024, 1)


def _text(
    found: Mapping[str, Mapping[str, Latency]],
    lives: Mapping[str, float],
    machine: Mapping[str, str | int | float],
    rounds: int,
) -> str:
    head = (
        f"Measured {machine['date']} on {machine['processor']}, {machine['processors']} processors, Linux "
        f"{machine['kernel']}, Python {machine['python']}; {rounds} of each signature and opening; load average when it"
        f" began: {machine['load']}. From nothing to the first answer: {lives['start_ms']:.0f} ms, while the daemon"
        f" loads as well; after `kill -9`, with the answer that was missed: {lives['after_kill_ms']:.0f} ms; memory:"
        f" {lives['memory_mib']:.0f} MiB."
    )
    rows = [
        "| operation | in the own process, µs | p99 | asked of `fabric-keyd`, µs | p99 |",
        "|---|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {label} | {here.median_us:.0f} | {here.p99_us:.0f} | {there.median_us:.0f} | {there.p99_us:.0f} |"
        for label, both in found.items()
        for here, there in [(both["here"], both["there"])]
    ]
    return head + "\n\n" + "\n".join(rows) + f"\n\nAll figures: [{STEM}.json](measurements/{STEM}.json)."


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-keyd ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds; written to build/bench")
    parser.add_argument("--output", type=Path, help="where to write instead")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
