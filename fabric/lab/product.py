"""The product on hosts of the laboratory, driven by the words of its command lines and by nothing else."""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from fabric.lab.namespace import LabError
from fabric.lab.program import Finished, Program
from fabric.lab.site import Host
from fabric.lab.world import Lab

READY_WITHIN_S = 30.0


def installed(program: str) -> str:
    """The path of one of our programs: they are installed beside the interpreter that runs this."""
    path = Path(sys.executable).parent / program
    if not path.exists():
        raise LabError(f"{program} is not installed beside {sys.executable}: run `make setup`")
    return str(path)


def until(true: Callable[[], object], what: str, within_s: float = 20.0) -> None:
    """Returns as soon as `true()` is; LabError, naming `what` was waited for, when that takes too long."""
    deadline = time.monotonic() + within_s
    while not true():
        if time.monotonic() > deadline:
            raise LabError(f"{what}: not within {within_s:g} s")
        time.sleep(0.1)


class Daemon:
    """A program that tells by sd_notify when it serves."""

    def __init__(self, lab: Lab, host: Host, arguments: Sequence[str], label: str, state: Path) -> None:
        self.lab, self.host, self.label, self.state = lab, host, label, state
        self._arguments = arguments
        self.environment: dict[str, str] = {}
        """What it gets beside ours from its next start."""
        self.program: Program | None = None

    def launch(self) -> socket.socket:
        """Starts the program and returns the socket on which it will tell; for `await_ready`."""
        path = self.lab.directory / f"{self.label}.ready"
        path.unlink(missing_ok=True)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        listener.bind(str(path))
        environment = {**self.environment, "NOTIFY_SOCKET": str(path)}
        self.program = self.host.start(*self._arguments, log=f"{self.label}.log", environment=environment)
        return listener

    def await_ready(self, listener: socket.socket) -> None:
        """Returns when the program serves; LabError with its last words if it ends or takes too long."""
        deadline = time.monotonic() + READY_WITHIN_S
        with listener:
            listener.settimeout(0.2)
            while time.monotonic() < deadline and self.process.running:
                try:
                    if b"READY=1" in listener.recv(4096):
                        self.process.lasting = True
                        return
                except TimeoutError:
                    continue
        raise LabError(f"{self.label} did not get ready; its last words:\n{self.last_words()}")

    @property
    def process(self) -> Program:
        if self.program is None:
            raise LabError(f"{self.label} was never started")
        return self.program

    def start(self) -> None:
        """Starts the program and returns when it serves."""
        self.await_ready(self.launch())

    def stop(self) -> int:
        """Asks it to end; returns its exit code."""
        return self.process.terminate()

    def kill(self) -> None:
        self.process.kill()

    def pause(self) -> None:
        self.process.pause()

    def resume(self) -> None:
        self.process.resume()

    def last_words(self, lines: int = 15) -> str:
        return self.process.last_words(lines)

    def append_configuration(self, text: str) -> None:
        """Adds lines to DIR/config.toml; they hold from the next start."""
        self.state.mkdir(parents=True, exist_ok=True)
        with (self.state / "config.toml").open("a") as configuration:
            configuration.write(text + "\n")


class DiscoveryService(Daemon):
    """`discoveryd` on a host with a public address."""

    def __init__(self, lab: Lab, host: Host, network: str, label: str = "discovery") -> None:
        state = lab.directory / label
        super().__init__(lab, host, [installed("discoveryd"), "run", "--state", str(state)], label, state)
        self.network = network

    def command(self, *words: str, timeout_s: float = 30.0) -> Finished:
        return self.host.run(installed("discoveryd"), *words, "--state", str(self.state), timeout_s=timeout_s)

    def init(self, *options: str, addresses: Sequence[str] = ()) -> None:
        reached = [word for address in addresses or (self.host.ip,) for word in ("--address", address)]
        self.command("init", "--network", self.network, *reached, *options).must()

    def create_key(self, *options: str) -> str:
        return self.command("key", "create", *options).must().output.strip()

    def revoke(self, name: str) -> None:
        self.command("endpoint", "revoke", name).must()


class Relay(Daemon):
    """`discoveryd relay` on a host of its own, invited by a service."""

    def __init__(self, lab: Lab, host: Host, service: DiscoveryService, *, configuration: str = "") -> None:
        label = f"relay-{host.name}"
        state = lab.directory / label
        super().__init__(lab, host, [installed("discoveryd"), "relay", "--state", str(state)], label, state)
        self.append_configuration(configuration)
        service.command("relay-invite", str(state / "relay.pem"), "--address", host.ip).must()


class Endpoint(Daemon):
    """`fabricd` on a host, and `fabric` to steer it."""

    def __init__(self, lab: Lab, host: Host, name: str | None = None) -> None:
        self.name = name or host.name
        state = lab.directory / self.name
        super().__init__(lab, host, [installed("fabricd"), "--state", str(state)], self.name, state)

    def command(self, *words: str, timeout_s: float = 30.0) -> Finished:
        environment = {"FABRIC_STATE": str(self.state)}
        return self.host.run(installed("fabric"), *words, timeout_s=timeout_s, environment=environment)

    def carry_by(self, lane: str) -> None:
        """From its next start that lane carries its frames: "native" or "reference"."""
        self.environment["FABRIC_LANE"] = lane

    def enrol(self, key: str) -> None:
        self.command("enrol", key, "--name", self.name).must()

    def add(self, peer: str, *options: str) -> None:
        self.command("add", peer, *options).must()

    def remove(self, peer: str) -> None:
        self.command("remove", peer).must()

    def wait(self, peer: str, *, path: str = "direct", timeout_s: float = 20.0) -> Finished:
        """`fabric wait`: exit code 0 when connected over such a path, 1 when that did not come in time."""
        words = ("wait", peer, "--path", path, "--timeout", f"{timeout_s:g}")
        return self.command(*words, timeout_s=timeout_s + 15)

    def ping(self, peer: str, count: int = 1) -> Finished:
        return self.command("ping", peer, "-c", str(count))

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.command("status", "--json").must().output)
        return report

    def peer(self, name: str) -> dict[str, Any] | None:
        """What `status` says of one peer; None when it names no such peer."""
        for peer in self.status()["peers"]:
            if peer["name"] == name or peer["name"].partition(".")[0] == name:
                return dict(peer)
        return None

    def path_kind(self, name: str) -> str | None:
        """The kind of path to a peer, e.g. "direct-udp"; None where there is none."""
        peer = self.peer(name)
        return peer["path"]["kind"] if peer is not None and peer["path"] is not None else None

    @property
    def device(self) -> str:
        """The name of its overlay device."""
        return str(self.status()["endpoint"]["device"])

    @property
    def mac(self) -> str:
        return str(self.status()["endpoint"]["mac"])

    def overlay_addresses(self) -> list[str]:
        return [str(address).partition("/")[0] for address in self.status()["endpoint"]["addresses"]]

    def overlay_ip(self) -> str:
        """Its IPv4 address on the overlay."""
        return next(address for address in self.overlay_addresses() if ":" not in address)

    def overlay_ip_6(self) -> str:
        return next(address for address in self.overlay_addresses() if ":" in address)

    def reaches(self, address: str, *, count: int = 1, within_s: float = 2.0, size: int = 56) -> bool:
        """Whether the system's own ping gets every answer from an overlay address."""
        words = ("ping", "-n", "-c", str(count), "-i", "0.2", "-W", f"{within_s:g}", "-s", str(size), address)
        return self.host.run(*words, timeout_s=within_s + count + 10).code == 0
