"""The private keys are in a process of their own, with no network, and in the daemon's memory they are not.

( internet )----[discovery]
   |    |
  kim  lea              fabricd ===socket pair=== fabric-keyd, each
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.custody.identity_file import Surroundings
from fabric.custody.vault import Vault
from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_connected, connect
from fabric.lab.product import until

CHUNK_BYTES = 4_194_304
OVERLAP_BYTES = 128
ML_KEM_SEED_BYTES = 64

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay) -> tuple[Endpoint, Endpoint]:
    made = overlay.endpoints({name: lab.site(f"s-{name}", Nat.PUBLIC) for name in ("kim", "lea")})
    connect(*made.values())
    return made["kim"], made["lea"]


def keyd_of(endpoint: Endpoint) -> int:
    """Returns the process id of the daemon's child."""
    pid = endpoint.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    (found,) = [each for each in children if b"fabric.shell.keyd" in Path(f"/proc/{each}/cmdline").read_bytes()]
    return int(found)


def private(endpoint: Endpoint) -> dict[str, bytes]:
    """All that is private of an endpoint, by a name, as it is in its files: opened here, as its custodian does."""
    vault = Vault(Surroundings(endpoint.state, None, {}))
    secrets = {"the identity's seed": vault._secrets.seed}
    for held in vault.keys.held:
        for name, pair in (("offer", held.offer), ("mail", held.mail)):
            secrets[f"ML-KEM of the {name} key {held.serial}"] = pair.secret_bytes[:ML_KEM_SEED_BYTES]
            secrets[f"X25519 of the {name} key {held.serial}"] = pair.secret_bytes[ML_KEM_SEED_BYTES:]
    return secrets


def storage_key(endpoint: Endpoint) -> bytes:
    return Vault(Surroundings(endpoint.state, None, {})).storage_key


def found_in(pid: int, secrets: dict[str, bytes]) -> set[str]:
    """Returns the names of those that lie anywhere in the memory of a process, while it stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        return {name for chunk in memory_of(pid) for name, secret in secrets.items() if secret in chunk}
    finally:
        os.kill(pid, signal.SIGCONT)


def memory_of(pid: int) -> Iterator[bytes]:
    """All that is mapped and readable, in pieces that overlap by more than a secret is long."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            matched = re.match(r"([0-9a-f]+)-([0-9a-f]+) r", line)
            if matched is None or line.endswith(("[vvar]", "[vsyscall]", "[vvar_vclock]")):
                continue
            start, end = (int(text, 16) for text in matched.groups())
            for at in range(start, end, CHUNK_BYTES - OVERLAP_BYTES):
                memory.seek(at)
                yield memory.read(min(CHUNK_BYTES, end - at))


def test_no_private_key_is_in_the_memory_of_the_daemon(pair: tuple[Endpoint, Endpoint]) -> None:
    """After enrolment, handshakes, and offers that it sealed and opened; its custodian has them, so the search finds
    what is there; and it finds in the daemon what may be there."""
    for endpoint in pair:
        secrets = private(endpoint)
        assert len(secrets) >= 5
        assert found_in(keyd_of(endpoint), secrets) == secrets.keys()
        assert found_in(endpoint.process.pid, secrets) == set()
        assert found_in(endpoint.process.pid, {"storage": storage_key(endpoint)}) == {"storage"}


def test_no_private_key_is_in_the_files_of_the_daemon(pair: tuple[Endpoint, Endpoint]) -> None:
    for endpoint in pair:
        content = b"".join(path.read_bytes() for path in endpoint.state.iterdir() if path.is_file())
        assert not [name for name, secret in private(endpoint).items() if secret in content]


def test_the_custodian_has_no_network(pair: tuple[Endpoint, Endpoint]) -> None:
    for endpoint in pair:
        own, keyd = (Path(f"/proc/{pid}/net/dev").read_text() for pid in (endpoint.process.pid, keyd_of(endpoint)))
        assert "fabric0" in own
        assert [line.split(":")[0].strip() for line in keyd.splitlines()[2:]] == ["lo"]


def test_a_custodian_that_is_killed_is_noticed_by_nobody(pair: tuple[Endpoint, Endpoint]) -> None:
    kim, lea = pair
    killed = keyd_of(lea)
    os.kill(killed, signal.SIGKILL)
    assert lea.ping("kim", 2).code == 0, "frames need no custodian"
    kim.kill()
    kim.start()
    await_connected(kim, lea)
    assert keyd_of(lea) != killed
    assert lea.reaches(kim.overlay_ip())


def test_the_custodian_ends_with_a_daemon_that_is_killed(pair: tuple[Endpoint, Endpoint]) -> None:
    kim, lea = pair
    orphan = keyd_of(kim)
    kim.kill()
    until(lambda: not Path(f"/proc/{orphan}").exists(), "it ends", 5.0)
    kim.start()
    await_connected(kim, lea)
