"""A STUN server on the simulated internet, answering as the real one does."""

from __future__ import annotations

from fabric.wire.address import Address
from fabric.wire.stun import answer_binding
from tests.sim.link import UPLINK, Socket
from tests.sim.network import Network

STUN_PORT = 3478


class StunServer:
    """`up` False: it hears nothing."""

    def __init__(self, network: Network, ip: str) -> None:
        self.host = network.make_host("stun")
        self.host.join(network.internet, f"{ip}/16", UPLINK)
        self.host.bind(STUN_PORT, self._receive)
        self.ip = ip
        self.up = True
        self.answered = 0

    @property
    def name(self) -> str:
        """As `Welcome.stun` has it."""
        return f"{self.ip}:{STUN_PORT}"

    def _receive(self, source: Socket, payload: bytes) -> None:
        answer = answer_binding(payload, Address(*source)) if self.up else None
        if answer is not None:
            self.answered += 1
            self.host.send(STUN_PORT, source, answer)
