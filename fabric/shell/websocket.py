"""WebSockets over TLS, as the links to the service and to relays use them; loaded with the first that is opened.

See `fabric.shell.late`: the libraries behind this take longer to load than a handshake with a peer takes.
"""

from __future__ import annotations

import errno
import os
import ssl

import h11
import trio
from trio_websocket import ConnectionClosed, HandshakeError, WebSocketConnection, wrap_client_stream
from wsproto.utilities import ProtocolError

from fabric.errors import AuthenticationError, DecodeError

__all__ = ["EXPECTED", "WebSocketConnection", "first_of", "said", "wrap_client_stream"]

EXPECTED = (
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    HandshakeError,
    h11.ProtocolError,
    ProtocolError,
    ConnectionClosed,
    DecodeError,
    AuthenticationError,
)
"""All that can come of an attempt to open a link, or of what its other end sends."""


def first_of(error: BaseException) -> Exception:
    """Returns the first of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, Exception) else Exception(str(error))


def said(error: Exception) -> str:
    """Returns what kept a connection from being, for a person."""
    match error:
        case trio.TooSlowError():
            told = "no answer"
        case ConnectionClosed(reason=reason) if reason is not None:
            told = f"closed by the service ({reason.name})"
        case h11.ProtocolError() | ProtocolError():
            told = "what answers there speaks no WebSocket"
        case trio.BrokenResourceError() if error.__cause__ is not None:
            told = str(error.__cause__)
        case OSError(__cause__=BaseException() as cause):  # of the attempts at every address of a name, the first
            told = said(first_of(cause))
        case OSError(errno=int(code)) if code in errno.errorcode and not isinstance(error, ssl.SSLError):
            told = os.strerror(code)
        case _:
            told = str(error) or type(error).__name__
    return told
