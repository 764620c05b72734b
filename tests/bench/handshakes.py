"""`make bench-handshakes`: what a handshake costs, full and by ticket: time of one core at each end, and bytes.

Everything is the product's own: certificates are checked, signatures made in memory, roots proven. The custody and the
disk are not in it: see the page on security, and `fsync` of the disk in question.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from fabric.core.handshake import ClientHandshake, Party, ServerHandshake
from fabric.core.pieces import split
from fabric.core.resume import ClientResume, answer_resume
from fabric.crypto.aead import Suite
from fabric.crypto.schedule import root_keys
from fabric.wire.datagram import DATA_OVERHEAD_BYTES, GATED_HEADER_BYTES
from fabric.wire.handshake import ProofKind
from tests.bench import report
from tests.bench.variant import PAGE, PUBLISHED, SCRATCH
from tests.core.town import UNIX, Town

CLIENT, SERVER = "a.home", "b.home"
BEGIN, END = "<!-- handshakes -->", "<!-- end of handshakes -->"
UNIX_MS = int(UNIX * 1000)
ROOT = bytes(range(32))
WARM_UP = 20

Stage = tuple[str, Callable[[], bytes]]


@dataclass(frozen=True, slots=True)
class Cost:
    """Medians in microseconds of one core, at the client and at the server; `wire_bytes` of UDP payload, both ways."""

    kind: str
    client_us: float
    server_us: float
    wire_bytes: int
    datagrams: int

    @property
    def a_second(self) -> float:
        """How many of them one core of a server can take part in."""
        return 1e6 / self.server_us


def party(town: Town, name: str) -> Party:
    identity = town.identity(name)
    suites = (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)
    return Party(name, "home", identity.certificate.der, identity.signer, suites)


def full(town: Town) -> tuple[float, float, list[bytes]]:
    """Returns the seconds that each end took, and the messages."""
    keys = root_keys(ROOT)
    trusts = {name: town.identity(name).trust for name in (CLIENT, SERVER)}

    def check(me: str, peer: str) -> Callable[[bytes], object]:
        return lambda der: trusts[me].check(der, name=peer, unix=UNIX, pinned_key=town.identity(peer).signer.public_key)

    clock = time.perf_counter
    at = clock()
    client = ClientHandshake(party(town, CLIENT), SERVER, check(CLIENT, SERVER), 1, UNIX_MS, os.urandom)  # type: ignore[arg-type]
    client_s = clock() - at
    at = clock()
    server = ServerHandshake(party(town, SERVER), CLIENT, check(SERVER, CLIENT), 2, os.urandom)  # type: ignore[arg-type]
    answer = server.handle_hello(client.hello, keys, ProofKind.PROOF)
    server_s = clock() - at
    at = clock()
    client.handle_answer(answer)
    established = client.finish(keys, ProofKind.PROOF)
    client_s += clock() - at
    at = clock()
    server.handle_finish(established.finish_message)
    server.establish(keys)
    server_s += clock() - at
    return client_s, server_s, [client.hello, answer, established.finish_message]


def resumed(town: Town) -> tuple[float, float, list[bytes]]:
    """The same for a ticket; the remembered certificates are checked again, as in the product."""
    trusts = {name: town.identity(name).trust for name in (CLIENT, SERVER)}
    clock = time.perf_counter
    at = clock()
    trusts[CLIENT].check(town.identity(SERVER).certificate.der, name=SERVER, unix=UNIX, pinned_key=None)
    client = ClientResume(party(town, CLIENT), SERVER, ROOT, 1, UNIX_MS, os.urandom)
    client_s = clock() - at
    at = clock()
    trusts[SERVER].check(town.identity(CLIENT).certificate.der, name=CLIENT, unix=UNIX, pinned_key=None)
    answer, _ = answer_resume(party(town, SERVER), CLIENT, client.message, ROOT, 2, os.urandom)
    server_s = clock() - at
    at = clock()
    trusts[CLIENT].check(town.identity(SERVER).certificate.der, name=SERVER, unix=UNIX, pinned_key=None)
    client.handle_resumed(answer)
    client_s += clock() - at
    return client_s, server_s, [client.message, answer]


def measure(kind: str, act: Callable[[Town], tuple[float, float, list[bytes]]], records: int, count: int) -> Cost:
    """`records` are the empty data records that end it."""
    town = Town()
    for _ in range(WARM_UP):
        act(town)
    runs = [act(town) for _ in range(count)]
    datagrams = [piece for message in runs[-1][2] for piece in split(message, UNIX_MS)]
    length = sum(len(piece) + GATED_HEADER_BYTES for piece in datagrams) + records * DATA_OVERHEAD_BYTES
    client_us, server_us = (
        statistics.median(side) * 1e6 for side in ([c for c, _, _ in runs], [s for _, s, _ in runs])
    )
    return Cost(kind, round(client_us, 1), round(server_us, 1), length, len(datagrams) + records)


def table(costs: list[Cost]) -> str:
    """Returns the block of the page."""
    rows = [
        f"| {c.kind} | {c.client_us:,.0f} | {c.server_us:,.0f} | {c.a_second:,.0f} | {c.wire_bytes:,} | {c.datagrams} |"
        for c in costs
    ]
    head = "| handshake | client, us of a core | server, us of a core | a second and core | bytes of UDP | datagrams |"
    where = report.machine_facts(0.0)
    opening = f"Measured {where['date']} on {where['processor']}, Python {where['python']}; medians."
    return "\n".join((opening, "", head, "|---|---:|---:|---:|---:|---:|", *rows))


def main() -> int:
    parser = argparse.ArgumentParser(prog="make bench-handshakes ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few runs; written to build/bench")
    options = parser.parse_args()
    count = 50 if options.quick else 2000
    costs = [measure("full", full, 1, count), measure("by ticket", resumed, 2, count)]
    directory: Path = SCRATCH if options.quick else PUBLISHED
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "handshakes.json").write_text(json.dumps([asdict(cost) for cost in costs], indent=1) + "\n")
    text = table(costs)
    if not options.quick:
        report.publish(PAGE, text, BEGIN, END)
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
