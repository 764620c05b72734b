"""The control channel between an endpoint and the service: messages in order, each way, until it breaks.

Stands for TCP, TLS and WebSocket together: what travels is the encoded message, what breaks it is silent at first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from fabric.wire.rendezvous import (
    ToEndpoint,
    ToService,
    decode_to_endpoint,
    decode_to_service,
    encode_message,
)
from tests.sim.schedule import Schedule

ONE_WAY_S = 0.02
OPENING_S = 6 * ONE_WAY_S
"""TCP, TLS 1.3 and the WebSocket upgrade: three round trips."""

SILENCE_S = 10.0
"""Until a side that hears nothing gives the channel up."""


class EndpointEnd(Protocol):
    """What an endpoint does with its end."""

    def handle_line_message(self, line: Line, message: ToEndpoint) -> None: ...

    def handle_line_lost(self, line: Line) -> None: ...


class ServiceEnd(Protocol):
    """What the service does with its end."""

    def handle_line_message(self, line: Line, message: ToService) -> None: ...

    def handle_line_lost(self, line: Line) -> None: ...


class Line:
    """One connection. `number` is the service's name for it."""

    def __init__(self, number: int, schedule: Schedule, endpoint: EndpointEnd, service: ServiceEnd) -> None:
        self.number = number
        self._schedule = schedule
        self._endpoint = endpoint
        self._service = service
        self._is_cut = False
        self._endpoint_knows = False
        self._service_knows = False

    def say_to_service(self, message: ToService) -> None:
        data = encode_message(message)
        if not self._endpoint_knows:
            self._carry(lambda: self._service.handle_line_message(self, decode_to_service(data)))

    def say_to_endpoint(self, message: ToEndpoint) -> None:
        data = encode_message(message)
        if not self._service_knows:
            self._carry(lambda: self._endpoint.handle_line_message(self, decode_to_endpoint(data)))

    def close_by_endpoint(self) -> None:
        """Also what a killed process does: its kernel sends what was written, and the FIN."""
        self._endpoint_knows = True
        self._carry(self._tell_service)

    def close_by_service(self) -> None:
        self._service_knows = True
        self._carry(self._tell_endpoint)

    def cut(self, *, endpoint_notices_s: float = SILENCE_S) -> None:
        """The way between is gone: nothing arrives any more, and each side finds out by itself."""
        self._is_cut = True
        self._schedule.after(endpoint_notices_s, self._tell_endpoint)
        self._schedule.after(SILENCE_S, self._tell_service)

    def _carry(self, arrive: Callable[[], None]) -> None:
        def arrive_if_whole() -> None:
            if not self._is_cut:
                arrive()

        if not self._is_cut:
            self._schedule.after(ONE_WAY_S, arrive_if_whole)

    def _tell_endpoint(self) -> None:
        if not self._endpoint_knows:
            self._endpoint_knows = True
            self._endpoint.handle_line_lost(self)

    def _tell_service(self) -> None:
        if not self._service_knows:
            self._service_knows = True
            self._service.handle_line_lost(self)
