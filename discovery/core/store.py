"""What the service asks of a store, and the one in memory that simulations use.

Every record is replaced whole. What is done inside `change()` becomes durable together when the block ends, before
anybody is answered, or not at all when it raises; inside of another it is a part that can fail alone. Others, in
other processes too, see all of a change or nothing, and change nothing while one is open: what was read inside of it
still holds there.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Protocol

from discovery.core.records import (
    CertificateRecord,
    EndpointRecord,
    IntentRecord,
    KeyRecord,
    OrderRecord,
    RevocationsRecord,
)


class Store(Protocol):
    """Sequences are copies: what is put while one is walked does not disturb it."""

    def change(self) -> AbstractContextManager[None]: ...

    def key(self, key_id: str) -> KeyRecord | None: ...
    def keys(self) -> Iterable[KeyRecord]: ...
    def put_key(self, record: KeyRecord) -> None: ...

    def endpoint(self, name: str) -> EndpointRecord | None: ...
    def endpoints(self) -> Iterable[EndpointRecord]: ...
    def put_endpoint(self, record: EndpointRecord) -> None:
        """Raises `ExhaustedError` where another name has the address: the caller looked before, so this is a race."""
        ...

    def delete_endpoint(self, name: str) -> None: ...
    def is_taken(self, ipv4: int) -> bool:
        """Whether an endpoint has the address, or an order is for it."""
        ...

    def highest_ipv4(self) -> int | None: ...

    def certificate(self, serial: int) -> CertificateRecord | None: ...
    def successor(self, serial: int) -> CertificateRecord | None: ...
    def certificates_of(self, name: str) -> Iterable[CertificateRecord]: ...
    def revoked_certificates(self, unix: float) -> Iterable[CertificateRecord]:
        """Those whose life has not ended at `unix`."""
        ...

    def put_certificate(self, record: CertificateRecord) -> None: ...
    def delete_certificates(self, ended_before: float) -> None: ...

    def order(self, serial: int) -> OrderRecord | None: ...
    def order_of(self, name: str) -> OrderRecord | None: ...
    def orders(self) -> Iterable[OrderRecord]:
        """All that wait, the oldest first."""
        ...

    def count_enrolments(self, key_id: str | None) -> int:
        """How many of them are enrolments: by one key, or by any."""
        ...

    def put_order(self, record: OrderRecord) -> None:
        """One a name: the caller looked before."""
        ...

    def delete_order(self, serial: int) -> None: ...

    def intent(self, sender: str, recipient: str) -> IntentRecord | None: ...
    def intents_from(self, sender: str) -> Iterable[IntentRecord]: ...
    def intents_towards(self, recipient: str) -> Iterable[IntentRecord]: ...
    def count_intents(self, sender: str) -> int: ...
    def expired_intents(self, unix: float) -> Iterable[IntentRecord]: ...
    def put_intent(self, record: IntentRecord) -> None: ...
    def delete_intent(self, sender: str, recipient: str) -> None: ...

    def revocations(self) -> RevocationsRecord | None: ...
    def put_revocations(self, record: RevocationsRecord) -> None: ...


class MemoryStore:
    """A `Store` that lives as long as the process: the world's disk in a simulation."""

    def __init__(self) -> None:
        self._keys: dict[str, KeyRecord] = {}
        self._endpoints: dict[str, EndpointRecord] = {}
        self._holders: dict[int, str] = {}
        self._certificates: dict[int, CertificateRecord] = {}
        self._successors: dict[int, int] = {}
        self._serials: dict[str, list[int]] = {}
        self._orders: dict[int, OrderRecord] = {}
        self._intents: dict[str, dict[str, IntentRecord]] = {}
        self._revocations: RevocationsRecord | None = None

    def change(self) -> AbstractContextManager[None]:
        """Nothing in memory fails half-way: callers compute first and write last."""
        return nullcontext()

    def key(self, key_id: str) -> KeyRecord | None:
        return self._keys.get(key_id)

    def keys(self) -> Iterable[KeyRecord]:
        return list(self._keys.values())

    def put_key(self, record: KeyRecord) -> None:
        self._keys[record.key_id] = record

    def endpoint(self, name: str) -> EndpointRecord | None:
        return self._endpoints.get(name)

    def endpoints(self) -> Iterable[EndpointRecord]:
        return list(self._endpoints.values())

    def put_endpoint(self, record: EndpointRecord) -> None:
        self._endpoints[record.name] = record
        self._holders[int(record.ipv4)] = record.name

    def delete_endpoint(self, name: str) -> None:
        record = self._endpoints.pop(name)
        del self._holders[int(record.ipv4)]
        self._intents.pop(name, None)

    def is_taken(self, ipv4: int) -> bool:
        return ipv4 in self._holders or any(int(order.ipv4) == ipv4 for order in self._orders.values())

    def highest_ipv4(self) -> int | None:
        ordered = (int(order.ipv4) for order in self._orders.values())
        return max((*self._holders, *ordered), default=None) if self._orders else max(self._holders, default=None)

    def certificate(self, serial: int) -> CertificateRecord | None:
        return self._certificates.get(serial)

    def successor(self, serial: int) -> CertificateRecord | None:
        successor = self._successors.get(serial)
        return None if successor is None else self._certificates.get(successor)

    def certificates_of(self, name: str) -> Iterable[CertificateRecord]:
        return [self._certificates[serial] for serial in self._serials.get(name, ())]

    def revoked_certificates(self, unix: float) -> Iterable[CertificateRecord]:
        records = self._certificates.values()
        return [record for record in records if record.revoked is not None and record.not_after > unix]

    def put_certificate(self, record: CertificateRecord) -> None:
        if record.serial not in self._certificates:
            self._serials.setdefault(record.name, []).append(record.serial)
        self._certificates[record.serial] = record
        if record.predecessor is not None:
            self._successors[record.predecessor] = record.serial

    def delete_certificates(self, ended_before: float) -> None:
        for record in [record for record in self._certificates.values() if record.not_after < ended_before]:
            del self._certificates[record.serial]
            self._serials[record.name].remove(record.serial)
            if record.predecessor is not None:
                self._successors.pop(record.predecessor, None)

    def order(self, serial: int) -> OrderRecord | None:
        return self._orders.get(serial)

    def order_of(self, name: str) -> OrderRecord | None:
        return next((order for order in self._orders.values() if order.name == name), None)

    def orders(self) -> Iterable[OrderRecord]:
        return sorted(self._orders.values(), key=lambda order: (order.created, order.serial))

    def count_enrolments(self, key_id: str | None) -> int:
        enrolments = (order for order in self._orders.values() if order.key_id)
        return sum(key_id is None or order.key_id == key_id for order in enrolments)

    def put_order(self, record: OrderRecord) -> None:
        self._orders[record.serial] = record

    def delete_order(self, serial: int) -> None:
        self._orders.pop(serial, None)

    def intent(self, sender: str, recipient: str) -> IntentRecord | None:
        return self._intents.get(sender, {}).get(recipient)

    def intents_from(self, sender: str) -> Iterable[IntentRecord]:
        return list(self._intents.get(sender, {}).values())

    def intents_towards(self, recipient: str) -> Iterable[IntentRecord]:
        return [intents[recipient] for intents in self._intents.values() if recipient in intents]

    def count_intents(self, sender: str) -> int:
        return len(self._intents.get(sender, {}))

    def expired_intents(self, unix: float) -> Iterable[IntentRecord]:
        records = (record for intents in self._intents.values() for record in intents.values())
        return [record for record in records if record.expires <= unix]

    def put_intent(self, record: IntentRecord) -> None:
        self._intents.setdefault(record.sender, {})[record.recipient] = record

    def delete_intent(self, sender: str, recipient: str) -> None:
        self._intents.get(sender, {}).pop(recipient, None)

    def revocations(self) -> RevocationsRecord | None:
        return self._revocations

    def put_revocations(self, record: RevocationsRecord) -> None:
        self._revocations = record
