"""What comes of attempts at a handshake with one peer, and what either end counts on in the other.

The endpoint with the lower name is the client and alone sends HELLO (protocol.md section 5); each attempt of it
is a fresh one. The server answers every fresh HELLO, at most one of them is pending, and the newest replaces it.

    client   idle --begin--> HELLO sent --ANSWER--> FINISH sent --first record--> idle
                                 ^  | deadline           | deadline, after RESENDS
                                 +--+<-------------------+
    server   idle --HELLO--> ANSWER sent --FINISH--> idle, remembers the FINISH to answer a repeated one

    client   idle --begin, may resume--> RESUME sent --RESUMED--> first record sent --first record--> idle
    server   idle --RESUME--> RESUMED sent --first record--> idle

A ticket that leads nowhere is followed by a full HELLO. At each end there is one handshake of either kind at a time:
`negotiation_client` and `negotiation_server` are the two ends, and `pair` is what both of them know.

Nothing here believes an address: messages go to where the attempt began, or back to where they came from. What each
end holds of the pair's root secret decides whether a session comes of it; the rules are those of `entanglement`.
"""

from __future__ import annotations

from dataclasses import dataclass

from fabric.dataplane.contract import SessionKeys
from fabric.identity.certificate import Certificate
from fabric.wire.address import Address

PENDING_LIFE_S = 10.0
"""A server forgets an ANSWER whose FINISH does not come; longer than any client waits for it."""

HELLO_BURST = 8
HELLO_INTERVAL_S = 0.25
HELLO_SOURCES = 4
"""Token bucket of HELLOs and tickets from one peer at one address, for so many: an ANSWER costs about a millisecond of
one core. A copy of the peer, which could else use up what the real one needs to be heard, is at another address."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A whole handshake message for `to`; the parent splits and gates it."""

    to: Address
    message: bytes


@dataclass(frozen=True, slots=True)
class Agreed:
    """A handshake is complete here.

    `awaiting`: the session is made at once, and the peer's first record must open before anything is sealed. Else this
    end speaks first, and the session is made once what the handshake changed is on stable storage.
    `remote` is where our message went that the peer has answered; `source` is where its answer came from. Only where
    the two are one has that address been proven: whoever copies an answer can send it from anywhere.
    `is_full`: certificates were shown; else a ticket was good.
    """

    certificate: Certificate
    keys: SessionKeys
    remote: Address
    source: Address
    awaiting: bool
    is_full: bool


@dataclass(frozen=True, slots=True)
class Collided:
    """What the two ends hold of their root does not fit, here or there: no session of the pair may stand."""


@dataclass(frozen=True, slots=True)
class Rebuffed:
    """The other end holds something that this one does not, and refuses it; here is nothing to be alarmed about."""


@dataclass(frozen=True, slots=True)
class Abandoned:
    """The session `local_index` that awaits its first record will never get it."""

    local_index: int


@dataclass(frozen=True, slots=True)
class RecordDue:
    """The peer may not have heard a record of `local_index`, which proves that this end lives: send one to `remote`."""

    local_index: int
    remote: Address


NegotiationEvent = Agreed | RecordDue | Abandoned | Collided | Rebuffed
