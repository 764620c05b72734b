"""The published vectors, computed a second time from `docs/protocol.md` alone, without any code of the fabric."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from nacl.bindings import (
    crypto_aead_chacha20poly1305_ietf_encrypt,
    crypto_scalarmult,
    crypto_scalarmult_base,
)

VECTORS = Path(__file__).parents[1] / "vectors"
CASES = json.loads((VECTORS / "handshake.json").read_text())
PROTOCOL_PARTS = {"wire", "crypto", "identity", "core"}
NOT_ON_THE_WIRE = {"fabric/1 enrolment key", "fabric/1 safety number"}
"""A checksum, and digits that two people compare."""


def joined(*fields: bytes) -> bytes:
    return b"".join(len(field).to_bytes(4, "big") + field for field in fields)


def hashed(*fields: bytes, size: int = 32, key: bytes = b"") -> bytes:
    return hashlib.blake2b(joined(*fields), digest_size=size, key=key).digest()


def sealed_by(suite: int, key: bytes, counter: int, inside: bytes, header: bytes) -> bytes:
    nonce = bytes(4) + counter.to_bytes(8, "big")
    if suite == 1:
        return AESGCM(key).encrypt(nonce, inside, header)
    return bytes(crypto_aead_chacha20poly1305_ietf_encrypt(inside, header, nonce, key))


def exchange(seed: bytes) -> tuple[bytes, bytes]:
    secret = hashlib.blake2b(seed, digest_size=32).digest()
    return secret, crypto_scalarmult_base(secret)


class SecondReading:
    """Walks down the page once, from the inputs of a case, and keeps every step under its name."""

    def __init__(self, given: dict[str, Any]) -> None:
        def raw(name: str) -> bytes:
            return bytes.fromhex(given[name])

        self.suite: int = given["suite"]
        self.root = None if given["root"] is None else raw("root")
        root = hashed(b"fabric/1 first root") if self.root is None else self.root
        k_proof, k_mix, k_next = (hashed(b"fabric/1 root " + use, key=root) for use in (b"proof", b"mix", b"next"))
        client_index, server_index = given["client_index"].to_bytes(4, "big"), given["server_index"].to_bytes(4, "big")

        client_secret, client_public = exchange(raw("client_kx_seed"))
        _, server_public = exchange(raw("server_kx_seed"))
        kem = MLKEM768PrivateKey.from_seed_bytes(raw("kem_seed"))
        offered = given["offered_suites"]
        hello = b"\x01\x01" + client_index + given["unix_ms"].to_bytes(8, "big") + client_public
        hello += kem.public_key().public_bytes_raw() + raw("client_challenge") + bytes((len(offered), *offered))
        names = [given[part].encode() for part in ("network", "client_name", "server_name")]
        th1 = hashed(b"fabric/1", *names, hello)

        shared = crypto_scalarmult(client_secret, server_public)
        both = hashlib.blake2b(shared + client_public + server_public, digest_size=64).digest()
        server_to_client, client_to_server = both[:32], both[32:]
        base = client_to_server + server_to_client
        kem_secret = kem.decapsulate(raw("kem_ciphertext"))

        clear = b"\x02\x01" + client_index + server_index + server_public + raw("kem_ciphertext")
        clear += raw("server_challenge") + bytes((self.suite,)) + b"\0\0"
        th2 = hashed(th1, clear)
        handshake = hashed(b"fabric/1 handshake secret", kem_secret, th2, size=64, key=base)
        to_server = hashed(b"fabric/1 handshake key client to server", key=handshake)
        to_client = hashed(b"fabric/1 handshake key server to client", key=handshake)
        answer_sealed = sealed_by(
            self.suite, to_client, 0, self.credentials(raw, "server", th2, k_proof, none=1), clear
        )
        th3 = hashed(th2, answer_sealed)
        finish_clear = b"\x03\x01" + server_index
        finish_sealed = sealed_by(
            self.suite, to_server, 0, self.credentials(raw, "client", th3, k_proof, none=2), finish_clear
        )
        th4 = hashed(th3, finish_sealed)

        traffic = hashed(b"fabric/1 traffic secret", kem_secret, th4, k_mix, size=64, key=base)
        record_key = hashed(b"fabric/1 traffic key server to client", key=traffic)
        exporter = hashed(b"fabric/1 exporter secret", key=traffic)
        header = b"\xf1\0\0\0" + client_index + bytes(8)
        gate = hashed(b"fabric/1 gate", names[0], names[1], names[2], key=raw("gate_share"))
        self.steps = {
            "hello": hello.hex(),
            "th1": th1.hex(),
            "base_client_to_server": client_to_server.hex(),
            "base_server_to_client": server_to_client.hex(),
            "kem_secret": kem_secret.hex(),
            "th2": th2.hex(),
            "handshake_client_to_server": to_server.hex(),
            "handshake_server_to_client": to_client.hex(),
            "answer": (clear + answer_sealed).hex(),
            "th3": th3.hex(),
            "finish": (finish_clear + finish_sealed).hex(),
            "th4": th4.hex(),
            "k_mix": k_mix.hex(),
            "traffic_client_to_server": hashed(b"fabric/1 traffic key client to server", key=traffic).hex(),
            "traffic_server_to_client": record_key.hex(),
            "exporter": exporter.hex(),
            "next_root": hashed(exporter, key=k_next).hex(),
            "first_record": (header + sealed_by(self.suite, record_key, 0, b"", header)).hex(),
            "gate_key": gate.hex(),
            "hello_datagrams": [
                datagram.hex() for datagram in self.datagrams(hello, given["unix_ms"], gate, given["gate_index"])
            ],
        }

    def credentials(self, raw: Any, role: str, th: bytes, k_proof: bytes, none: int) -> bytes:
        certificate: bytes = raw(f"{role}_certificate")
        identity = Ed25519PrivateKey.from_private_bytes(raw(f"{role}_identity_seed"))
        label = f"fabric/1 handshake {role}".encode()
        signature = identity.sign(joined(label, th, hashed(certificate)))
        proof = bytes((none,)) + bytes(32)
        if self.root is not None:
            proof = b"\x03" + hashed(role.encode(), th, hashed(certificate), key=k_proof)
        return len(certificate).to_bytes(2, "big") + certificate + signature + proof

    @staticmethod
    def datagrams(message: bytes, unix_ms: int, gate: bytes, index: int) -> list[bytes]:
        slices = [message[:1148], message[1148:]]
        made = []
        for number, content in enumerate(slices):
            body = bytes((4, message[0], number, len(slices))) + unix_ms.to_bytes(8, "big")
            body += hashed(message)[:16] + content
            mac = hashlib.blake2b(body, digest_size=16, key=gate).digest()
            made.append(b"\xf2\0\0\0" + index.to_bytes(4, "big") + mac + body)
        return made


@pytest.mark.parametrize("case", CASES, ids=[case["name"] for case in CASES])
def test_every_step_of_a_published_handshake_comes_out_of_the_page_alone(case: dict[str, Any]) -> None:
    steps = SecondReading(case["inputs"]).steps
    assert steps.keys() == case["steps"].keys()
    for name, value in steps.items():
        assert value == case["steps"][name], name


def test_the_code_still_makes_the_published_handshakes() -> None:
    spec = importlib.util.spec_from_file_location("make_handshake", VECTORS / "make_handshake.py")
    assert spec is not None
    assert spec.loader is not None
    generator = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(generator)
    assert generator.make_all(CASES) == CASES


def test_every_label_of_the_code_stands_on_the_page() -> None:
    root = VECTORS.parents[1]
    page = (root / "docs" / "protocol.md").read_text()
    sources = [path.read_text() for path in (root / "fabric").rglob("*.py") if path.parent.name in PROTOCOL_PARTS]
    labels = {label for source in sources for label in re.findall(r'b"(fabric/1[a-z ]*)"', source)}
    assert len(labels) > 20
    assert {label for label in labels if f'"{label}"' not in page} == NOT_ON_THE_WIRE
