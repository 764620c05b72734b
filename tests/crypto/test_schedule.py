"""The key schedule against its published vectors, recomputed here with hashlib and bare X25519."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from nacl.bindings import crypto_scalarmult

from fabric.crypto.exchange import BaseKeys, KemPair, base_keys_as_client, base_keys_as_server, kx_pair
from fabric.crypto.schedule import FIRST_ROOT, handshake_keys, next_root, root_keys, traffic_keys
from tests.vectors import make_schedule


def joined(*fields: bytes) -> bytes:
    data = b""
    for field in fields:
        data += len(field).to_bytes(4, "big") + field
    return data


def b256(*fields: bytes, key: bytes = b"") -> str:
    return hashlib.blake2b(joined(*fields), key=key, digest_size=32).hexdigest()


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, str]]:
    path = Path(make_schedule.__file__).with_name("schedule.json")
    vectors: dict[str, dict[str, str]] = json.loads(path.read_text())
    return vectors


@pytest.fixture(scope="module")
def step(published: dict[str, dict[str, str]]) -> dict[str, dict[str, bytes]]:
    return {name: {key: bytes.fromhex(value) for key, value in part.items()} for name, part in published.items()}


def test_code_still_makes_the_published_vectors(published: Any) -> None:
    assert make_schedule.make(published) == published


def test_base_keys_are_the_formula_of_crypto_kx(step: Any) -> None:
    exchange = step["exchange"]
    shared = crypto_scalarmult(exchange["client_secret"], exchange["server_public"])
    material = shared + exchange["client_public"] + exchange["server_public"]
    rx_tx = hashlib.blake2b(material, digest_size=64).digest()
    assert exchange["base_server_to_client"] == rx_tx[:32]
    assert exchange["base_client_to_server"] == rx_tx[32:]


def test_both_ends_agree_on_the_published_keys(step: Any) -> None:
    client, server = kx_pair(step["inputs"]["client_seed"]), kx_pair(step["inputs"]["server_seed"])
    assert base_keys_as_client(client, server.public) == base_keys_as_server(server, client.public)
    kem = KemPair(step["inputs"]["kem_seed"])
    assert kem.decapsulate(step["inputs"]["kem_ciphertext"]) == step["exchange"]["kem_secret"]


def test_handshake_keys_follow_from_the_page(step: Any) -> None:
    key = step["exchange"]["base_client_to_server"] + step["exchange"]["base_server_to_client"]
    message = joined(b"fabric/1 handshake secret", step["exchange"]["kem_secret"], step["inputs"]["th2"])
    secret = hashlib.blake2b(message, key=key, digest_size=64).digest()
    keys = step["handshake"]
    assert keys["client_to_server"].hex() == b256(b"fabric/1 handshake key client to server", key=secret)
    assert keys["server_to_client"].hex() == b256(b"fabric/1 handshake key server to client", key=secret)


def test_traffic_keys_follow_from_the_page(step: Any) -> None:
    key = step["exchange"]["base_client_to_server"] + step["exchange"]["base_server_to_client"]
    mix = step["first_root"]["mix"]
    message = joined(b"fabric/1 traffic secret", step["exchange"]["kem_secret"], step["inputs"]["th4"], mix)
    secret = hashlib.blake2b(message, key=key, digest_size=64).digest()
    keys = step["traffic"]
    assert keys["client_to_server"].hex() == b256(b"fabric/1 traffic key client to server", key=secret)
    assert keys["server_to_client"].hex() == b256(b"fabric/1 traffic key server to client", key=secret)
    assert keys["exporter"].hex() == b256(b"fabric/1 exporter secret", key=secret)


def test_root_secrets_follow_from_the_page(step: Any) -> None:
    first, second = step["first_root"], step["second_root"]
    assert first["root"].hex() == b256(b"fabric/1 first root")
    assert second["root"].hex() == b256(step["traffic"]["exporter"], key=first["next"])
    for root in (first, second):
        for use in ("proof", "mix", "next"):
            assert root[use].hex() == b256(f"fabric/1 root {use}".encode(), key=root["root"])
    for role, th in ((b"server", "th2"), (b"client", "th3")):
        expected = b256(role, step["inputs"][th], step["inputs"]["certificate_hash"], key=second["proof"])
        assert step["proofs"][role.decode()].hex() == expected


def test_no_two_keys_of_a_handshake_are_equal(step: Any) -> None:
    secrets = [
        value
        for name in ("handshake", "traffic", "first_root", "second_root", "proofs")
        for value in step[name].values()
    ]
    assert len(set(secrets)) == len(secrets)


def test_handshake_keys_know_nothing_of_the_root_and_traffic_keys_do() -> None:
    base = BaseKeys(b"c" * 32, b"s" * 32)
    first = root_keys(FIRST_ROOT)
    second = root_keys(next_root(first, b"e" * 32))
    assert traffic_keys(base, b"k" * 32, b"t" * 32, first.mix) != traffic_keys(base, b"k" * 32, b"t" * 32, second.mix)
    assert handshake_keys(base, b"k" * 32, b"t" * 32) != handshake_keys(base, b"K" * 32, b"t" * 32)
    assert handshake_keys(base, b"k" * 32, b"t" * 32) != handshake_keys(base, b"k" * 32, b"T" * 32)


def test_no_key_shows_in_a_repr() -> None:
    pair = kx_pair(bytes(32))
    base = base_keys_as_client(pair, kx_pair(b"1" * 32).public)
    keys = (pair, base, handshake_keys(base, b"k", b"t"), root_keys(FIRST_ROOT), traffic_keys(base, b"k", b"t", b"m"))
    shown = repr(keys)
    for secret in (pair.secret, base.client_to_server, keys[2].client_to_server, keys[3].proof, keys[4].exporter):
        assert repr(secret) not in shown
