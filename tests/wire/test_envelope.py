"""Envelopes, outside and in: the layout, and what only the right recipient of the right sender opens."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fabric.crypto.sealing import SealingPair
from fabric.crypto.signature import Ed25519Signer
from fabric.errors import AuthenticationError, DecodeError
from fabric.identity.envelope import Envelope, open_envelope, peek_envelope, seal_envelope
from fabric.wire.envelope import MAX_LIFE_S, EnvelopeHeader, EnvelopeKind, decode_head, encode_head, encode_header

SENDER = Ed25519Signer(b"s" * 32)
OTHER = Ed25519Signer(b"o" * 32)
PAIR = SealingPair(bytes(range(96)))
OTHER_PAIR = SealingPair(bytes(range(96))[::-1])
ID = bytes(range(16))


def sealed(
    payload: bytes = b"an offer",
    *,
    signer: Ed25519Signer = SENDER,
    network: str = "home",
    recipient: str = "web-2.home",
    metadata: bytes = b"",
) -> bytes:
    return seal_envelope(
        signer,
        network=network,
        recipient=recipient,
        kind=EnvelopeKind.OFFER,
        id16=ID,
        created=1_800_000_000.125,
        life_s=300,
        bundle_serial=7,
        recipient_key=PAIR.public,
        payload=payload,
        metadata=metadata,
    )


def opened(
    data: bytes,
    *,
    sender: Ed25519Signer = SENDER,
    network: str = "home",
    recipient: str = "web-2.home",
    pair: SealingPair = PAIR,
) -> Envelope:
    return open_envelope(data, sender_key=sender.public_key, network=network, recipient=recipient, opener=pair)


headers = st.builds(
    EnvelopeHeader,
    kind=st.sampled_from(EnvelopeKind),
    network=st.text(max_size=60),
    sender_key=st.binary(min_size=32, max_size=32),
    recipient=st.text(max_size=60),
    id=st.binary(min_size=16, max_size=16),
    bundle_serial=st.integers(0, 2**64 - 1),
    created=st.integers(0, 2**45).map(lambda milliseconds: milliseconds / 1000),
    life_s=st.integers(0, MAX_LIFE_S),
    length=st.integers(0, 2**64 - 1),
)


@given(headers, st.binary(max_size=100), st.binary(min_size=64, max_size=64), st.binary(max_size=100))
def test_a_head_comes_back_from_its_bytes(header: EnvelopeHeader, box: bytes, mark: bytes, rest: bytes) -> None:
    header_bytes = encode_header(header)
    head, stream = decode_head(encode_head(header_bytes, box, mark) + rest)
    assert (head.header, head.header_bytes, head.sealed, head.signature) == (header, header_bytes, box, mark)
    assert stream == rest


@given(st.binary(max_size=400) | st.binary(max_size=400).map(lambda tail: b"\1\1\0\0" + tail))
def test_any_bytes_decode_or_raise_a_decode_error(data: bytes) -> None:
    try:
        decode_head(data)
    except DecodeError:
        return


@given(headers)
def test_a_head_cut_short_anywhere_is_refused(header: EnvelopeHeader) -> None:
    whole = encode_head(encode_header(header), b"box", bytes(64))
    for length in range(len(whole)):
        with pytest.raises(DecodeError):
            decode_head(whole[:length])


@pytest.mark.parametrize(
    ("field", "value"),
    [("life_s", MAX_LIFE_S + 1), ("life_s", -1), ("sender_key", b""), ("id", b""), ("recipient", "r" * 256)],
)
def test_a_header_out_of_bounds_is_not_written(field: str, value: object) -> None:
    header = peek_envelope(sealed())
    with pytest.raises(DecodeError):
        encode_header(dataclasses.replace(header, **{field: value}))  # type: ignore[arg-type]


def test_unknown_versions_and_kinds_are_refused() -> None:
    data = sealed()
    for at, value in ((0, 2), (1, 0), (1, 99), (2, 1)):
        with pytest.raises(DecodeError):
            decode_head(data[:at] + bytes((value,)) + data[at + 1 :])


@pytest.mark.parametrize("payload", [b"", b"an offer", bytes(200_000)])
def test_the_recipient_opens_what_the_sender_sealed(payload: bytes) -> None:
    envelope = opened(sealed(payload, metadata=b"name"))
    assert envelope == Envelope(EnvelopeKind.OFFER, ID, 1_800_000_000.125, 300, payload, b"name")


def test_a_carrier_reads_the_header_and_none_of_the_rest() -> None:
    data = sealed(b"the LAN address", metadata=b"the name of a file")
    header = peek_envelope(data)
    assert (header.network, header.recipient, header.bundle_serial) == ("home", "web-2.home", 7)
    assert header.sender_key == SENDER.public_key
    assert header.length == len(b"the LAN address")
    assert b"the LAN address" not in data
    assert b"the name of a file" not in data


def test_nothing_opens_for_another_sender_recipient_network_or_key() -> None:
    data = sealed()
    with pytest.raises(AuthenticationError, match="another sender"):
        opened(data, sender=OTHER)
    with pytest.raises(AuthenticationError, match="another recipient"):
        opened(data, recipient="web-3.home")
    with pytest.raises(AuthenticationError, match="another recipient"):
        opened(data, network="work")
    with pytest.raises(AuthenticationError, match="does not open"):
        opened(data, pair=OTHER_PAIR)


def test_an_envelope_under_another_senders_name_does_not_hold() -> None:
    forged = sealed(signer=OTHER).replace(OTHER.public_key, SENDER.public_key)
    with pytest.raises(AuthenticationError):
        opened(forged)


def test_every_byte_of_an_envelope_counts() -> None:
    data = sealed()
    for at in range(len(data)):
        with pytest.raises((AuthenticationError, DecodeError)):
            opened(data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :])


def test_an_envelope_cut_short_or_made_longer_does_not_open() -> None:
    data = sealed()
    for altered in (*(data[:length] for length in range(0, len(data), 7)), data[:-1], data + b"\0"):
        with pytest.raises((AuthenticationError, DecodeError)):
            opened(altered)


def test_the_payload_of_one_envelope_does_not_fit_another() -> None:
    one, other = sealed(b"one"), sealed(b"two")
    head, _ = decode_head(one)
    _, stream = decode_head(other)
    with pytest.raises(AuthenticationError):
        opened(encode_head(head.header_bytes, head.sealed, head.signature) + stream)


@settings(max_examples=50)
@given(st.binary(max_size=2000))
def test_no_envelope_made_of_noise_opens(data: bytes) -> None:
    with pytest.raises((AuthenticationError, DecodeError)):
        opened(data)


def test_mail_and_offers_are_told_apart() -> None:
    assert [kind.is_mail for kind in EnvelopeKind] == [False, False, True, True]
