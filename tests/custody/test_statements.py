"""What an identity key is asked to sign is a statement of the protocol, in the own name, or it is not signed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.crypto import signature
from fabric.crypto.signature import SIGNATURE_BYTES, Ed25519Signer, verify
from fabric.custody.identity_file import Surroundings
from fabric.custody.statements import Speaker, check_statement, labels
from fabric.custody.vault import Vault
from fabric.errors import DecodeError, PolicyError
from fabric.identity.bundle import bundle_of, make_bundle, sign_bundle
from fabric.identity.envelope import seal_envelope
from fabric.identity.intent import Intent, sign_intent
from fabric.wire.envelope import EnvelopeKind, decode_head
from fabric.wire.relay import COOKIE_BYTES, GRANT_ID_BYTES

NAME, OTHER = "web-1.home", "web-2.home"
SIGNER, STRANGER = Ed25519Signer(b"1" * 32), Ed25519Signer(b"2" * 32)
NOW = 1_800_000_000.0
_, SECRETS = make_bundle(SIGNER, NAME, lambda count: bytes(count - 1) + b"\1", NOW, None)
SPEAKER = Speaker(NAME, SIGNER.public_key, (SECRETS,))
HASH = bytes(32)

ALL_LABELS = sorted(value for name, value in vars(signature).items() if name.startswith("LABEL_"))
REFUSED = {signature.LABEL_GRANT, signature.LABEL_CONTROL_SERVER}


def intent(sender: str = NAME, recipient: str = OTHER) -> bytes:
    stated = Intent("home", sender, recipient, NOW, NOW, NOW + 60, (("a", "b"),))
    return sign_intent(SIGNER, stated)[SIGNATURE_BYTES:]


def bundle(name: str = NAME, secrets: object = SECRETS) -> bytes:
    return sign_bundle(SIGNER, bundle_of(name, secrets))[SIGNATURE_BYTES:]  # type: ignore[arg-type]


def envelope(signer: Ed25519Signer = SIGNER, network: str = "home") -> tuple[bytes, bytes]:
    head, _ = decode_head(
        seal_envelope(
            signer,
            network=network,
            recipient=OTHER,
            kind=EnvelopeKind.OFFER,
            id16=bytes(16),
            created=NOW,
            life_s=60,
            bundle_serial=1,
            recipient_key=SECRETS.offer.public,
            payload=b"offer",
        )
    )
    return head.header_bytes, head.sealed


HEADER, SEALED = envelope()

STATEMENTS: dict[bytes, tuple[bytes, ...]] = {
    signature.LABEL_INTENT: (intent(),),
    signature.LABEL_BUNDLE: (bundle(),),
    signature.LABEL_ENVELOPE: (HEADER, SEALED),
    signature.LABEL_HANDSHAKE_CLIENT: (HASH, HASH),
    signature.LABEL_HANDSHAKE_SERVER: (HASH, HASH),
    signature.LABEL_CONTROL_CLIENT: (b"home", HASH, HASH, HASH, HASH),
    signature.LABEL_RELAY: (b"home", bytes(COOKIE_BYTES), bytes(GRANT_ID_BYTES)),
}


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    made = Vault(Surroundings(tmp_path_factory.mktemp("vault"), None, {}))
    made.begin(NAME)
    return made


@pytest.mark.parametrize("label", STATEMENTS, ids=bytes.decode)
def test_each_statement_of_the_protocol_is_signed_as_it_is(vault: Vault, label: bytes) -> None:
    fields = STATEMENTS[label]
    check_statement(SPEAKER, label, fields)
    if label in (signature.LABEL_BUNDLE, signature.LABEL_ENVELOPE):
        return  # the vault's own key is another
    verify(vault.public_key, label, vault.sign(label, *fields), *fields)


def test_every_label_that_there_is_was_decided_about() -> None:
    assert set(ALL_LABELS) - set(labels()) == REFUSED | {signature.LABEL_ROTATION}
    assert set(labels()) == STATEMENTS.keys()


@pytest.mark.parametrize("label", [*sorted(REFUSED), b"", b"fabric/1 intent ", b"fabric/2 intent", b"X" * 64])
@pytest.mark.parametrize("fields", [(), (HASH, HASH), *STATEMENTS.values()])
def test_what_is_the_services_or_unknown_is_never_signed(vault: Vault, label: bytes, fields: tuple[bytes, ...]) -> None:
    with pytest.raises(PolicyError):
        vault.sign(label, *fields)


@pytest.mark.parametrize("label", STATEMENTS, ids=bytes.decode)
def test_fields_of_another_number_or_size_are_refused(label: bytes) -> None:
    fields = STATEMENTS[label]
    wrong: list[tuple[bytes, ...]] = [(), (*fields, b""), fields[:-1], (b"".join(fields),), (b"", *fields)]
    for at, field in enumerate(fields):
        wrong += [(*fields[:at], changed, *fields[at + 1 :]) for changed in (field + b"\0", field[:-1], b"")]
    for each in wrong:
        if each == fields:
            continue
        if label == signature.LABEL_ENVELOPE and len(each) == 2 and each[0] == HEADER and each[1]:
            continue  # what is sealed has no length of its own: see below
        with pytest.raises((PolicyError, DecodeError)):
            check_statement(SPEAKER, label, each)


@pytest.mark.parametrize("length", [0, 1135, 8193])
def test_a_sealed_head_of_an_impossible_length_is_refused(length: int) -> None:
    with pytest.raises(PolicyError):
        check_statement(SPEAKER, signature.LABEL_ENVELOPE, (HEADER, bytes(length)))


@pytest.mark.parametrize(
    ("label", "fields"),
    [
        (signature.LABEL_INTENT, (intent(sender=OTHER, recipient=NAME),)),
        (signature.LABEL_BUNDLE, (bundle(name=OTHER),)),
        (signature.LABEL_ENVELOPE, envelope(signer=STRANGER)),
        (signature.LABEL_ENVELOPE, envelope(network="away")),
        (signature.LABEL_CONTROL_CLIENT, (b"away", HASH, HASH, HASH, HASH)),
        (signature.LABEL_RELAY, (b"away", bytes(COOKIE_BYTES), bytes(GRANT_ID_BYTES))),
    ],
)
def test_a_statement_of_somebody_else_or_for_another_network_is_refused(
    label: bytes, fields: tuple[bytes, ...]
) -> None:
    with pytest.raises(PolicyError):
        check_statement(SPEAKER, label, fields)


def test_a_bundle_with_keys_of_whoever_asks_is_refused() -> None:
    """Who took over the daemon would read, long after he is gone, what is sealed to keys of his own."""
    _, foreign = make_bundle(SIGNER, NAME, os.urandom, NOW, None)
    with pytest.raises(PolicyError, match="other keys"):
        check_statement(SPEAKER, signature.LABEL_BUNDLE, (bundle(secrets=foreign),))


def test_nothing_is_said_before_a_name_is_and_the_name_stays(tmp_path: Path) -> None:
    around = Surroundings(tmp_path, None, {})
    fresh = Vault(around)
    with pytest.raises(PolicyError, match="not said its name"):
        fresh.sign(signature.LABEL_HANDSHAKE_CLIENT, HASH, HASH)
    fresh.begin(NAME)
    for vault in (fresh, Vault(around)):
        assert vault.name == NAME
        for other in (OTHER, "web-1.away"):
            with pytest.raises(PolicyError, match=r"web-1\.home's"):
                vault.begin(other)
            with pytest.raises(PolicyError, match=r"web-1\.home's"):
                vault.make_request(other)
        assert vault.make_request("web-1") != vault.make_request(NAME)


@given(st.sampled_from(ALL_LABELS), st.lists(st.binary(max_size=300), max_size=6))
def test_any_fields_are_signed_or_refused_and_nothing_else(label: bytes, fields: list[bytes]) -> None:
    try:
        check_statement(SPEAKER, label, tuple(fields))
    except (PolicyError, DecodeError):
        return
    assert label not in REFUSED


@given(st.integers(0, len(intent()) - 1), st.integers(1, 255))
def test_an_intent_with_a_byte_turned_names_this_sender_still_or_is_refused(at: int, flip: int) -> None:
    body = bytearray(intent())
    body[at] ^= flip
    try:
        check_statement(SPEAKER, signature.LABEL_INTENT, (bytes(body),))
    except (PolicyError, DecodeError):
        return
    assert NAME.encode() in body
