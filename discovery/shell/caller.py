"""Who is at the other end of a TCP connection, as the server tells the application."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from discovery.core.channel import ServiceIdentity


@dataclass(slots=True)
class Caller:
    """`source` and `port` are its own, `asked` is the address of ours that it connected to. `unread` counts the bytes
    received since the application last took something: the server stops the connection when they become too many
    (see `server`). `send` writes what is a whole number of WebSocket frames, between those of the server."""

    source: str
    port: int
    asked: str
    identity: ServiceIdentity = field(repr=False)
    send: Callable[[bytes], Awaitable[None]]
    unread: int = 0
