"""Rows of DIR/discovery.db as records: the columns in the order of `store_sqlite`, serial numbers as 16 bytes."""

from __future__ import annotations

from ipaddress import IPv4Address
from typing import Any

from discovery.core.records import CertificateRecord, EndpointRecord, IntentRecord, KeyRecord, OrderRecord

SERIAL_BYTES = 16


def packed(serial: int) -> bytes:
    return serial.to_bytes(SERIAL_BYTES)


def key(row: tuple[Any, ...]) -> KeyRecord:
    key_id, secret, created, uses_left, expires, tags, is_ephemeral, is_revoked, used = row
    words = tuple(tags.split())
    return KeyRecord(key_id, secret, created, uses_left, expires, words, bool(is_ephemeral), bool(is_revoked), used)


def endpoint(row: tuple[Any, ...]) -> EndpointRecord:
    name, public_key, ipv4, tags, is_ephemeral, enrolled, certificate, serial, not_after, *rest = row
    bundle, revoked, why, last_seen, sources = rest
    return EndpointRecord(
        name=name,
        public_key=public_key,
        ipv4=IPv4Address(ipv4),
        tags=tuple(tags.split()),
        is_ephemeral=bool(is_ephemeral),
        enrolled=enrolled,
        certificate=certificate,
        serial=int.from_bytes(serial),
        not_after=not_after,
        bundle=bundle,
        revoked=revoked,
        why=why,
        last_seen=last_seen,
        sources=tuple(sources.split()),
    )


def certificate(row: tuple[Any, ...]) -> CertificateRecord:
    serial, name, der, issued, not_after, request_digest, predecessor, key_id, revoked, source = row
    before = None if predecessor is None else int.from_bytes(predecessor)
    return CertificateRecord(
        int.from_bytes(serial), name, der, issued, not_after, request_digest, before, key_id, revoked, source
    )


def order(row: tuple[Any, ...]) -> OrderRecord:
    serial, name, public_key, ipv4, tags, is_ephemeral, request, predecessor, *rest = row
    before = None if predecessor is None else int.from_bytes(predecessor)
    words = tuple(tags.split())
    number, address = int.from_bytes(serial), IPv4Address(ipv4)
    return OrderRecord(number, name, public_key, address, words, bool(is_ephemeral), request, before, *rest)


def intent(row: tuple[Any, ...]) -> IntentRecord:
    sender, recipient, created, not_before, expires, intent, was_introduced = row
    return IntentRecord(sender, recipient, created, not_before, expires, intent, bool(was_introduced))
