"""What a request to renew has to be: for the endpoint's own name, over its key, or over the next by its own word."""

from __future__ import annotations

from dataclasses import dataclass, replace

from discovery.core.authority import Ledger
from discovery.core.records import CertificateRecord, EndpointRecord, OrderRecord
from discovery.core.store import Store
from fabric.errors import PolicyError
from fabric.identity.certificate import decode_certificate
from fabric.identity.name import parse_name
from fabric.identity.request import decode_request
from fabric.identity.rotation import open_rotation
from fabric.wire.rendezvous import Renew


@dataclass(frozen=True, slots=True)
class Renewal:
    """The next certificate, or the order for it while the authority is away. `is_rotation`: it is for another key."""

    outcome: CertificateRecord | OrderRecord
    is_rotation: bool


def renew_untrusted(
    ledger: Ledger, record: EndpointRecord, current: CertificateRecord, message: Renew, unix: float, source: str
) -> Renewal:
    """Renews `current`, that was shown by who asks from this IP address.

    Raises `RenewedTwiceError` for a second, different request, and `DecodeError`, `AuthenticationError` or
    `PolicyError` for one that is not acted on.
    """
    decoded = decode_request(message.request)
    if parse_name(decoded.name, ledger.signatory.root.network) != record.name:
        raise PolicyError("the request is not for the endpoint's own name")
    is_rotation = decoded.public_key != record.public_key
    has_handed_over = decode_certificate(current.der).public_key != record.public_key
    if is_rotation and not has_handed_over:  # else it is a second renewal, and the ledger knows what that means
        _check_rotation(ledger, record, decoded.public_key, message.rotation)
        record = replace(record, public_key=decoded.public_key)
    outcome = ledger.renew(record, current, message.request, unix, source, is_rotation=is_rotation)
    if is_rotation:
        _forget_signed_by_old_key(ledger.store, record.name)
    return Renewal(outcome, is_rotation)


def _check_rotation(ledger: Ledger, record: EndpointRecord, public_key: bytes, statement: bytes) -> None:
    """Raises `PolicyError`, `AuthenticationError` or `DecodeError` unless the present key hands over."""
    if not statement:
        raise PolicyError("the request is not for the endpoint's own key")
    rotation = open_rotation(statement)
    if (rotation.name, rotation.old_key, rotation.new_key) != (record.name, record.public_key, public_key):
        raise PolicyError("the rotation is not from the endpoint's key to that of the request")
    if not ledger.signatory.is_present:
        raise PolicyError("the authority's key is away: a key is rotated while it is there")


def _forget_signed_by_old_key(store: Store, name: str) -> None:
    """Intents are stated anew under the new key, at once. Only who connects meanwhile is told of their end, and is
    introduced again a moment later."""
    for intent in store.intents_from(name):
        store.delete_intent(name, intent.recipient)
