"""The endpoint's side of the control channel: prove each other, then keep the service told of what is wished.

    lost --connected--> expecting CHALLENGE --AUTHENTICATE--> expecting WELCOME --proven--> up
      ^                                                                                     |
      +------------------------------------ lost -------------------------------------------+

Until the service has proven itself over this very TLS certificate nothing but AUTHENTICATE is said, and nothing
that it says is believed.
"""

from __future__ import annotations

import enum
from collections import deque

from fabric.core.identity import Identity
from fabric.core.machine import Draw
from fabric.crypto.digest import blake2b_256
from fabric.crypto.signature import LABEL_CONTROL_CLIENT, LABEL_CONTROL_SERVER, verify
from fabric.errors import AuthenticationError
from fabric.identity.service_certificate import service_certificate_of
from fabric.identity.x509_form import read_form
from fabric.wire.rendezvous import Authenticate, Challenge, ToEndpoint, ToService, Welcome

NONCE_BYTES = 32


class ChannelState(enum.Enum):
    LOST = "lost"
    EXPECTING_CHALLENGE = "expecting challenge"
    EXPECTING_WELCOME = "expecting welcome"
    UP = "up"


class Channel:
    """One channel at a time; `handle_connected` begins the next. The shell has verified its TLS certificate."""

    def __init__(self, identity: Identity, draw: Draw) -> None:
        self._identity = identity
        self._draw = draw
        self._tls_certificate = b""
        self._fields: tuple[bytes, ...] = ()
        self._messages: deque[ToService] = deque()
        self.state = ChannelState.LOST

    @property
    def is_up(self) -> bool:
        return self.state is ChannelState.UP

    def handle_connected(self, tls_certificate: bytes) -> None:
        self._messages.clear()
        self._tls_certificate = tls_certificate
        self.state = ChannelState.EXPECTING_CHALLENGE

    def handle_lost(self) -> None:
        self._messages.clear()
        self.state = ChannelState.LOST

    def handle_message_untrusted(self, message: ToEndpoint) -> ToEndpoint | None:
        """Returns what the caller is to act on, or None. Raises `AuthenticationError`: close the channel."""
        match self.state, message:
            case ChannelState.EXPECTING_CHALLENGE, Challenge(nonce=nonce):
                self._authenticate(nonce)
                return None
            case ChannelState.EXPECTING_WELCOME, Welcome(signature=signature):
                key = service_certificate_of(read_form(self._tls_certificate)).public_key
                verify(key, LABEL_CONTROL_SERVER, signature, *self._fields)
                self.state = ChannelState.UP
                return message
            case ChannelState.UP, Challenge() | Welcome():
                raise AuthenticationError("the service began again on an open channel")
            case ChannelState.UP, _:
                return message
            case _:
                raise AuthenticationError("the service spoke before it had proven itself")

    def say(self, message: ToService) -> bool:
        """Queues a message; False where the channel is not up, and the message is not kept."""
        if self.is_up:
            self._messages.append(message)
        return self.is_up

    def poll_message(self) -> ToService | None:
        return self._messages.popleft() if self._messages else None

    def _authenticate(self, service_nonce: bytes) -> None:
        certificate = self._identity.certificate.der
        nonce = self._draw(NONCE_BYTES)
        self._fields = (
            self._identity.network.encode(),
            service_nonce,
            nonce,
            blake2b_256(self._tls_certificate),
            blake2b_256(certificate),
        )
        signature = self._identity.signer.sign(LABEL_CONTROL_CLIENT, *self._fields)
        self._messages.append(Authenticate(certificate, nonce, signature))
        self.state = ChannelState.EXPECTING_WELCOME
