"""Who signs for the authority: its key, at hand, or a person who carries requests to where the key is.

present   signs at once
away      signs nothing: what is to be signed waits (`OrderRecord`, `Ledger.waiting_list`) until a person brings it
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from discovery.core.records import OrderRecord
from fabric.identity.authority import BACKDATE_S, DAY_S, Authority
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.request import Request
from fabric.identity.root import Root

AWAY_LIFE_S = 365 * DAY_S
"""Of a revocation list and of the service's own certificate, where a person signs them: twice a year is enough."""

BACKDATE_SHARE = 1 / 20
"""Of a short life; a long one is backdated by `BACKDATE_S`."""


class Signatory(Protocol):
    """Both answers are in DER, or None: then a person has to be asked."""

    @property
    def root(self) -> Root: ...

    @property
    def is_present(self) -> bool: ...

    def sign_certificate(self, order: OrderRecord, unix: float) -> bytes | None: ...

    def sign_list(self, since: Mapping[int, float], number: int, unix: float, life_s: float) -> bytes | None: ...


class Present:
    """The authority's key is here."""

    is_present = True

    def __init__(self, authority: Authority) -> None:
        self._authority = authority

    @property
    def root(self) -> Root:
        return self._authority.root

    def sign_certificate(self, order: OrderRecord, unix: float) -> bytes:
        return sign_order(self._authority, order, unix)

    def sign_list(self, since: Mapping[int, float], number: int, unix: float, life_s: float) -> bytes:
        return self._authority.issue_crl(since, number=number, this_update=unix, next_update=unix + life_s)


class Away:
    """The authority's key is kept elsewhere; only its root is known here."""

    is_present = False

    def __init__(self, root: Root) -> None:
        self.root = root

    def sign_certificate(self, _order: OrderRecord, _unix: float) -> None:
        return None

    def sign_list(self, _since: Mapping[int, float], _number: int, _unix: float, _life_s: float) -> None:
        return None


def sign_order(authority: Authority, order: OrderRecord, unix: float) -> bytes:
    """Returns the certificate that was ordered, its life beginning now. Raises as `Authority.issue_endpoint` does."""
    return authority.issue_endpoint(
        Request(order.name, order.public_key),
        order.name,
        addresses=(order.ipv4, ipv6_of(ula_prefix(authority.fingerprint), order.ipv4)),
        tags=order.tags,
        serial=order.serial,
        not_before=unix - backdate_s(order.life_s),
        not_after=unix + order.life_s,
    )


def backdate_s(life_s: float) -> float:
    """Returns by how much a certificate's life begins before it is signed: clocks differ."""
    return min(BACKDATE_S, life_s * BACKDATE_SHARE)
