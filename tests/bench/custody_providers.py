"""`make bench-custody`: what each kind of custody costs: a signature, an envelope opened, the secrets at a start.

The TPM is swtpm and the token SoftHSM2, unless `--tcti` and `--token` name others: those programs have a processor's
speed and no chip's. Writes custody-providers.json, and a table into the page on security.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from fabric.crypto.digest import join
from fabric.crypto.sealing import SealingPair, seal_to
from fabric.crypto.signature import LABEL_HANDSHAKE_CLIENT, Ed25519Signer
from fabric.custody.provider import Provider, Token
from fabric.custody.providers import pkcs11, tpm2
from fabric.custody.providers.passphrase import key_file, passphrase_file
from tests.bench import report
from tests.bench.variant import PUBLISHED, SCRATCH
from tests.custody.hardware import SoftTokens, running_tpm, why_no_token, why_no_tpm

STEM = "custody-providers"
PAGE = Path("docs/security.md")
BEGIN, END = "<!-- custody providers -->", "<!-- end of custody providers -->"

SECRET = bytes(range(64))
TRANSCRIPT = bytes(64)
OFFER_BYTES = 900

_UNLOCK = """
import sys
from pathlib import Path
kind, place, directory, blob = sys.argv[1:]
if kind in ("tpm2", "pkcs11"):
    import importlib
    provider = importlib.import_module("fabric.custody.providers." + kind).open_provider(place, Path(directory))
else:
    from fabric.custody.providers.passphrase import key_file, passphrase_file
    provider = key_file(Path(directory)) if kind == "key-file" else passphrase_file(Path(place))
assert len(provider.unseal(Path(blob).read_bytes())) == 64
peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(peak.split()[1])
"""


@dataclass(frozen=True, slots=True)
class Subject:
    """A provider, and who signs where it is the one that holds the secrets."""

    label: str
    provider: Provider
    sign: Callable[[bytes], bytes]
    slow_unlock: bool = False

    @property
    def where(self) -> str:
        """What a new process needs to find it again."""
        path = getattr(self.provider, "path", None)
        return str(path) if path is not None else self.provider.place


@dataclass(frozen=True, slots=True)
class Costs:
    """Medians. `start_ms` is a new process from its birth to its end, which unlocks once and holds `memory_mib`."""

    sign_us: float
    open_us: float
    seal_ms: float
    unlock_ms: float
    start_ms: float
    memory_mib: float


def main() -> int:
    options = _options()
    rounds = 10 if options.quick else 1000
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="custody") as directory, ExitStack() as stack:
        place = Path(directory)
        found = {each.label: _measured(each, place, rounds) for each in _subjects(place, options, stack)}
    machine = report.machine_facts(load)
    text = _text(found, machine, rounds)
    output: Path = options.output or (SCRATCH if options.quick else PUBLISHED)
    output.mkdir(parents=True, exist_ok=True)
    readings = {label: asdict(costs) for label, costs in found.items()}
    content = {"machine": machine, "rounds": rounds, "medians": readings}
    (output / f"{STEM}.json").write_text(json.dumps(content, indent=1) + "\n")
    if output == PUBLISHED:
        report.publish(PAGE, text, BEGIN, END)
    print(text)
    return 0


def _subjects(place: Path, options: argparse.Namespace, stack: ExitStack) -> Iterator[Subject]:
    in_memory = Ed25519Signer(SECRET[:32])

    def sign(message: bytes) -> bytes:
        return in_memory.sign(LABEL_HANDSHAKE_CLIENT, message)

    passphrase = place / "passphrase"
    passphrase.write_text("correct horse battery staple\n")
    yield Subject("beside the data: key file", key_file(place), sign)
    yield Subject("beside the data: passphrase, or systemd credential", passphrase_file(passphrase), sign, True)
    tcti = options.tcti or stack.enter_context(running_tpm(place / "t")).tcti
    yield Subject("envelope: TPM 2.0" + ("" if options.tcti else " (swtpm)"), tpm2.Tpm2(tcti), sign)
    uri = options.token or _soft_token(place)
    token: Token = pkcs11.open_provider(uri, place)
    token.make_key()
    label = "never leaves: PKCS#11 token" + ("" if options.token else " (SoftHSM2)")
    yield Subject(label, token, lambda message: token.sign_raw(join(LABEL_HANDSHAKE_CLIENT, message)))


def _soft_token(place: Path) -> str:
    tokens = SoftTokens(place)
    tokens.make("bench")
    os.environ["SOFTHSM2_CONF"] = str(tokens.settings)
    return tokens.uri("bench")


def _measured(subject: Subject, place: Path, rounds: int) -> Costs:
    provider = subject.provider
    pair = SealingPair.generate(os.urandom)
    sealed = seal_to(pair.public, b"header", bytes(OFFER_BYTES))
    blob = provider.seal(SECRET)
    (place / "blob").write_bytes(blob)
    few = max(3, rounds // (50 if subject.slow_unlock else 10))
    start_ms, memory_mib = _start(subject, place, max(3, rounds // 50))
    return Costs(
        sign_us=_median_us(lambda: subject.sign(TRANSCRIPT), rounds),
        open_us=_median_us(lambda: pair.open(sealed, b"header"), rounds),
        seal_ms=round(_median_us(lambda: provider.seal(SECRET), few) / 1000, 2),
        unlock_ms=round(_median_us(lambda: provider.unseal(blob), few) / 1000, 2),
        start_ms=start_ms,
        memory_mib=memory_mib,
    )


def _median_us(act: Callable[[], object], rounds: int) -> float:
    act()
    taken = []
    for _ in range(rounds):
        before = time.perf_counter_ns()
        act()
        taken.append(time.perf_counter_ns() - before)
    return round(statistics.median(taken) / 1000, 1)


def _start(subject: Subject, place: Path, rounds: int) -> tuple[float, float]:
    """Returns milliseconds and MiB: of a process that imports what it needs, unlocks once and ends."""
    words = [sys.executable, "-c", _UNLOCK, subject.provider.name, subject.where, str(place), str(place / "blob")]
    taken, peaks = [], []
    for _ in range(rounds):
        before = time.perf_counter_ns()
        printed = subprocess.run(words, check=True, capture_output=True).stdout
        taken.append((time.perf_counter_ns() - before) / 1e6)
        peaks.append(int(printed) / 1024)
    return round(statistics.median(taken), 1), round(statistics.median(peaks), 1)


def _text(found: dict[str, Costs], machine: dict[str, str | int | float], rounds: int) -> str:
    head = (
        f"Measured {machine['date']} on {machine['processor']}, {machine['processors']} processors, Linux "
        f"{machine['kernel']}, Python {machine['python']}; medians of {rounds} signatures and openings and of"
        f" {rounds // 10} unlockings ({rounds // 50} with argon2id); load average when it began: {machine['load']}."
    )
    rows = [
        "| custody | sign, µs | open an offer, µs | seal, ms | unlock, ms | new process, ms | its peak, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    rows += [
        f"| {label} | {costs.sign_us:.0f} | {costs.open_us:.0f} | {costs.seal_ms:.2f} | {costs.unlock_ms:.2f} |"
        f" {costs.start_ms:.0f} | {costs.memory_mib:.0f} |"
        for label, costs in found.items()
    ]
    return head + "\n\n" + "\n".join(rows) + f"\n\nAll figures: [{STEM}.json](measurements/{STEM}.json)."


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench-custody ARGS=...", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few rounds; written to build/bench")
    parser.add_argument("--tcti", help="a TPM of your own instead of swtpm, such as device:/dev/tpmrm0")
    parser.add_argument("--token", help="the URI of a token of your own; a key is made in it, which stays there")
    parser.add_argument("--output", type=Path, help="where to write instead")
    options = parser.parse_args()
    needed = ((options.tcti, why_no_tpm), (options.token, why_no_token))
    for given, why_not in needed:
        if not given and (reason := why_not()) is not None:
            parser.error(reason)
    return options


if __name__ == "__main__":
    sys.exit(main())
