"""What a NAT does, in the words of RFC 4787: told in offers, so that both ends know how to open it."""

from __future__ import annotations

import enum
from dataclasses import dataclass


class Mapping(enum.IntEnum):
    """Which outside port an inside port gets (RFC 4787 section 4.1)."""

    UNKNOWN = 0
    NONE = 1
    """No translation: a server sees the host's own address."""
    ENDPOINT_INDEPENDENT = 2
    ADDRESS_DEPENDENT = 3
    ADDRESS_AND_PORT_DEPENDENT = 4

    @property
    def is_dependent(self) -> bool:
        """Every destination sees another port: what a STUN server saw is no use to a peer."""
        return self in (Mapping.ADDRESS_DEPENDENT, Mapping.ADDRESS_AND_PORT_DEPENDENT)


class Filtering(enum.IntEnum):
    """Who may send to that outside port (RFC 4787 section 5)."""

    UNKNOWN = 0
    ENDPOINT_INDEPENDENT = 2
    ADDRESS_DEPENDENT = 3
    ADDRESS_AND_PORT_DEPENDENT = 4


@dataclass(frozen=True, slots=True)
class NatBehaviour:
    """`stride` is the distance between the outside ports of two mappings made in a row, where it is regular; else 0.

    `carries_udp` is False where no server answers over UDP.
    """

    mapping: Mapping = Mapping.UNKNOWN
    filtering: Filtering = Filtering.UNKNOWN
    stride: int = 0
    carries_udp: bool = True


UNKNOWN_NAT = NatBehaviour()
