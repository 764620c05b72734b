"""A line with weather: a namespace of its own between a site's router and the internet, and the program in it.

    internet | to-SITE ------ far [forwarder] near ------ wan | router
                         in ->                <- out

Both cables are without offloads, so that frames are as long as on a real line and carry their checksums.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fabric.lab.namespace import LabError, Namespace
from fabric.lab.weather import CALM, Tally, Weather

if TYPE_CHECKING:
    from fabric.lab.world import Lab

READY_WITHIN_S = 20.0
NEAR, FAR = "near", "far"


class Sky:
    """The weather of one line; calm until told otherwise."""

    def __init__(self, lab: Lab, name: str, seed: int = 0) -> None:
        self._lab, self.name, self._seed = lab, name, seed
        self.namespace = lab.namespace(f"{name}-sky")
        for protocol in ("ipv4", "ipv6"):  # no stack of its own answers here
            self.namespace.sysctl(f"net/{protocol}/conf/all/forwarding", 0, must=False)
        self.namespace.sysctl("net/ipv6/conf/all/disable_ipv6", 1, must=False)

    def join(self, internet: Namespace, upstream: str, router: Namespace) -> None:
        """Wires both sides up, as `upstream` of the internet and `wan` of the router, and starts to pass frames."""
        self.namespace.connect(FAR, internet, upstream)
        self.namespace.connect(NEAR, router, "wan")
        for where, device in ((internet, upstream), (router, "wan"), (self.namespace, NEAR), (self.namespace, FAR)):
            where.stop_offloads(device)
        self._start()

    def _start(self) -> None:
        self._socket_path = str(self._lab.directory / f"{self.name}.sky")
        words = (NEAR, FAR, "--seed", str(self._seed), "--control", self._socket_path)
        arguments = (sys.executable, "-m", "fabric.lab.forwarder", *words)
        self._program = self._lab.start(self.namespace, arguments, f"{self.name}-sky.log")
        deadline = time.monotonic() + READY_WITHIN_S
        while self._ask({}) is None:
            if time.monotonic() > deadline or not self._program.running:
                raise LabError(f"the forwarder of {self.name} does not answer: {self._program.output()[-500:]}")
            time.sleep(0.02)

    @property
    def pid(self) -> int:
        return self._program.pid

    def make(self, weather: Weather, *, inward: Weather | None = None) -> None:
        """From now on it is so in both directions, or with `inward` so towards the site and `weather` away from it."""
        asked = {"out": asdict(weather), "in": asdict(weather if inward is None else inward)}
        if self._ask(asked) is None:
            raise LabError(f"the forwarder of {self.name} does not answer: {self._program.output()[-500:]}")

    def clear(self) -> None:
        self.make(CALM)

    def tallies(self) -> tuple[Tally, Tally]:
        """What became of the packets so far: those from the site, and those towards it."""
        told = self._ask({})
        if told is None:
            raise LabError(f"the forwarder of {self.name} does not answer")
        return Tally(**told["out"]), Tally(**told["in"])

    def _ask(self, asked: Mapping[str, object]) -> dict[str, dict[str, Any]] | None:
        own = Path(f"{self._socket_path}-{time.monotonic_ns()}")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as asking:
            asking.settimeout(5)
            asking.bind(str(own))
            try:
                asking.sendto(json.dumps(asked).encode(), self._socket_path)
                told: dict[str, dict[str, Any]] = json.loads(asking.recv(4096))
            except (FileNotFoundError, ConnectionRefusedError, TimeoutError):
                return None
            finally:
                own.unlink()
            return told
