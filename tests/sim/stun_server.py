"""A STUN server on the simulated internet, answering as the real one does: by UDP at two ports, and by TCP."""

from __future__ import annotations

from functools import partial

from fabric.wire.address import Address
from fabric.wire.stun import ServerPlace, answer_binding, answer_binding_5780
from tests.sim.link import UPLINK, Socket
from tests.sim.network import Network
from tests.sim.tcp import Connection

STUN_PORT = 3478
OTHER_STUN_PORT = 3479


class StunServer:
    """`up` False: it hears nothing."""

    def __init__(self, network: Network, ip: str) -> None:
        self.host = network.make_host("stun")
        self.host.join(network.internet, f"{ip}/16", UPLINK)
        self.host.bind(STUN_PORT, partial(self._receive, STUN_PORT, OTHER_STUN_PORT))
        self.host.bind(OTHER_STUN_PORT, partial(self._receive, OTHER_STUN_PORT, STUN_PORT))
        self.host.tcp.listen(STUN_PORT, self._accept)
        self.ip = ip
        self.up = True
        self.answered = 0

    @property
    def name(self) -> str:
        """As `Welcome.stun` has it."""
        return f"{self.ip}:{STUN_PORT}"

    def _receive(self, port: int, other_port: int, source: Socket, payload: bytes) -> None:
        place = ServerPlace(Address(self.ip, port), other_port=other_port)
        answer = answer_binding_5780(payload, Address(*source), place) if self.up else None
        if answer is not None:
            self.answered += 1
            self.host.send(answer.origin.port, (answer.to.ip, answer.to.port), answer.payload)

    def _accept(self, connection: Connection) -> None:
        """RFC 8489 section 6.2.2; one message here is one of TCP's."""

        def answer(payload: bytes) -> None:
            said = answer_binding(payload, Address(*connection.remote)) if self.up else None
            if said is not None:
                self.answered += 1
                connection.send(said)

        connection.message = answer
