"""What a person brings back from the authority: held against the root and against what was asked, then entered."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

from discovery.core.authority import Ledger
from discovery.core.orders import Answers
from discovery.core.records import OrderRecord, RevocationsRecord
from fabric.errors import AuthenticationError, DecodeError, PolicyError
from fabric.identity.authority import BACKDATE_S
from fabric.identity.certificate import Certificate
from fabric.identity.overlay import ipv6_of, ula_prefix
from fabric.identity.revocation import open_revocations
from fabric.identity.root import Root
from fabric.identity.trust import Trust

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Taken:
    """What came of the answers: whose certificates were entered and whose requests refused, and what was no answer.

    `faults` has one sentence for each that can't be used; nothing of those was entered.
    """

    issued: tuple[str, ...]
    refused: tuple[str, ...]
    faults: tuple[str, ...]
    is_list_new: bool


def take_answers(ledger: Ledger, answers: Answers, unix: float) -> Taken:
    """Enters all that is what was asked for, in one change of the store. What nobody waits for any more is passed
    over: the same file may be taken twice."""
    trust = Trust(ledger.signatory.root.der, ledger.signatory.root.network, None)
    issued, refused, faults = [], [], []
    with ledger.store.change():
        for order, der in _waiting(ledger, answers.certificates):
            try:
                _check(order, trust.check(der, name=order.name, unix=unix, pinned_key=order.public_key), trust.root)
            except (AuthenticationError, DecodeError, PolicyError) as error:
                faults.append(f'the certificate for "{order.name}" is refused here: {error}')
                continue
            ledger.complete(order, der, unix)
            issued.append(order.name)
        for order, why in _waiting(ledger, answers.refused):
            ledger.store.put_order(replace(order, fault=why))
            refused.append(order.name)
        try:
            is_list_new = bool(answers.revocations) and _take_list(ledger, answers.revocations, unix)
        except (AuthenticationError, DecodeError) as error:
            is_list_new = False
            faults.append(f"the revocation list is refused here: {error}")
    return Taken(tuple(issued), tuple(refused), tuple(faults), is_list_new)


def _waiting(ledger: Ledger, answers: Iterable[tuple[bytes, T]]) -> Iterator[tuple[OrderRecord, T]]:
    for serial, answer in answers:
        order = ledger.store.order(int.from_bytes(serial))
        if order is not None:
            yield order, answer


def _check(order: OrderRecord, certificate: Certificate, root: Root) -> None:
    """Raises `PolicyError` unless it is what was ordered, in all but its dates, and those within the life ordered."""
    if certificate.serial != order.serial:
        raise PolicyError("it has another serial number")
    if certificate.addresses != (order.ipv4, ipv6_of(ula_prefix(root.fingerprint), order.ipv4)):
        raise PolicyError("it has other addresses")
    if certificate.tags != order.tags:
        raise PolicyError("it has other tags")
    if certificate.not_after - certificate.not_before > order.life_s + BACKDATE_S + 1:
        raise PolicyError("it is good for longer than was asked")


def _take_list(ledger: Ledger, der: bytes, unix: float) -> bool:
    """Returns whether it is newer than the one that stands."""
    opened = open_revocations(der, ledger.signatory.root)
    newest = ledger.store.revocations()
    if newest is not None and opened.number <= newest.number:
        return False
    ledger.store.put_revocations(RevocationsRecord(opened.number, unix, der, opened.serials))
    return True
