"""Writes `handshake.json`: whole handshakes in numbers, every step of them. Run it from the top of the tree.

The inputs are fixed. ML-KEM encapsulation draws its own randomness in the library, so what an earlier run drew is
kept; everything else must come out the same in every run. `tests/core/test_handshake_vectors.py` recomputes each
step from the inputs with other code. The certificates are opaque bytes here: their inside is no matter of the
handshake.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from fabric.core.gate import gate_key, wrap
from fabric.core.handshake import CheckPeer, ClientHandshake, Party, ServerHandshake
from fabric.core.pieces import split
from fabric.crypto.aead import Suite, seal
from fabric.crypto.digest import blake2b_256
from fabric.crypto.exchange import KemPair, base_keys_as_client, encapsulate, kx_pair
from fabric.crypto.schedule import FIRST_ROOT, handshake_keys, next_root, root_keys, traffic_keys
from fabric.crypto.signature import Ed25519Signer
from fabric.errors import CertificateError
from fabric.identity.certificate import Certificate
from fabric.wire.datagram import DATA_HEADER, DATA_TYPE
from fabric.wire.handshake import ProofKind, decode_answer, decode_finish

PATH = Path(__file__).with_name("handshake.json")
NETWORK, CLIENT, SERVER = "home", "alpha.home", "beta.home"
CLIENT_INDEX, SERVER_INDEX, UNIX_MS = 0x11223344, 0x55667788, 1_800_000_000_000


def main() -> None:
    earlier = json.loads(PATH.read_text()) if PATH.exists() else []
    cases = make_all(earlier)
    PATH.write_text(json.dumps(cases, indent=1) + "\n")
    sys.stdout.write(f"{PATH}: {len(cases)} handshakes\n")


def make_all(published: list[dict[str, Any]]) -> list[dict[str, Any]]:
    earlier = {case["name"]: case for case in published}
    return [
        make("first meeting, aes-256-gcm", Suite.AES_256_GCM, None, earlier),
        make("first meeting, chacha20-poly1305", Suite.CHACHA20_POLY1305, None, earlier),
        make("with a root secret, chacha20-poly1305", Suite.CHACHA20_POLY1305, fixed("root", 32), earlier),
    ]


def fixed(label: str, count: int) -> bytes:
    """Returns the bytes that stand for a random draw in the vectors."""
    return hashlib.shake_256(f"fabric test vector: {label}".encode()).digest(count)


def certificate(name: str, public_key: bytes) -> Certificate:
    return Certificate(
        der=f"certificate of {name}".encode(),
        name=name,
        public_key=public_key,
        serial=1,
        not_before=0.0,
        not_after=4e9,
        addresses=(),
        tags=(),
    )


def expecting(expected: Certificate) -> CheckPeer:
    def check(der: bytes) -> Certificate:
        if der != expected.der:
            raise CertificateError("another certificate")
        return expected

    return check


def make(name: str, suite: Suite, root: bytes | None, earlier: dict[str, Any]) -> dict[str, Any]:
    client_signer, server_signer = Ed25519Signer(fixed("client identity", 32)), Ed25519Signer(fixed("server id", 32))
    client_certificate = certificate(CLIENT, client_signer.public_key)
    server_certificate = certificate(SERVER, server_signer.public_key)
    client_kx, kem_seed, client_challenge = fixed("e_c", 32), fixed("kem", 64), fixed("challenge_c", 32)
    server_kx, server_challenge = fixed("e_s", 32), fixed("challenge_s", 32)
    offered = (suite,) if suite is Suite.CHACHA20_POLY1305 else (Suite.AES_256_GCM, Suite.CHACHA20_POLY1305)
    roots = root_keys(FIRST_ROOT if root is None else root)

    kem = KemPair(kem_seed)
    if name in earlier:
        kem_ciphertext = bytes.fromhex(earlier[name]["inputs"]["kem_ciphertext"])
        kem_secret = kem.decapsulate(kem_ciphertext)
    else:
        kem_ciphertext, kem_secret = encapsulate(kem.public)

    client_draws = iter([client_kx, kem_seed, client_challenge])
    server_draws = iter([server_kx, server_challenge])
    client = ClientHandshake(
        Party(CLIENT, NETWORK, client_certificate.der, client_signer, offered),
        SERVER,
        expecting(server_certificate),
        CLIENT_INDEX,
        UNIX_MS,
        lambda _: next(client_draws),
    )
    server = ServerHandshake(
        Party(SERVER, NETWORK, server_certificate.der, server_signer, tuple(Suite)),
        CLIENT,
        expecting(client_certificate),
        SERVER_INDEX,
        lambda _: next(server_draws),
        encapsulate=lambda _: (kem_ciphertext, kem_secret),
    )
    answer = server.handle_hello(client.hello, roots, ProofKind.NONE if root is None else ProofKind.PROOF)
    client.handle_answer(answer)
    established = client.finish(roots, ProofKind.FIRST if root is None else ProofKind.PROOF)
    finish = established.finish_message
    server.handle_finish(finish)
    if server.establish(roots).exporter != established.exporter:
        raise AssertionError("the two sides disagree")

    _, clear, sealed = decode_answer(answer)
    th1 = blake2b_256(b"fabric/1", NETWORK.encode(), CLIENT.encode(), SERVER.encode(), client.hello)
    th2 = blake2b_256(th1, clear)
    th3 = blake2b_256(th2, sealed)
    th4 = blake2b_256(th3, decode_finish(finish)[2])
    base = base_keys_as_client(kx_pair(client_kx), kx_pair(server_kx).public)
    handshake, traffic = handshake_keys(base, kem_secret, th2), traffic_keys(base, kem_secret, th4, roots.mix)
    header = DATA_HEADER.pack(DATA_TYPE, CLIENT_INDEX, 0)
    share = fixed("gate share of the server", 32)
    gate = gate_key(share, NETWORK, CLIENT, SERVER)
    return {
        "name": name,
        "inputs": {
            "network": NETWORK,
            "client_name": CLIENT,
            "server_name": SERVER,
            "client_index": CLIENT_INDEX,
            "server_index": SERVER_INDEX,
            "unix_ms": UNIX_MS,
            "offered_suites": list(offered),
            "suite": int(suite),
            "client_identity_seed": fixed("client identity", 32).hex(),
            "server_identity_seed": fixed("server id", 32).hex(),
            "client_certificate": client_certificate.der.hex(),
            "server_certificate": server_certificate.der.hex(),
            "client_kx_seed": client_kx.hex(),
            "server_kx_seed": server_kx.hex(),
            "kem_seed": kem_seed.hex(),
            "kem_ciphertext": kem_ciphertext.hex(),
            "client_challenge": client_challenge.hex(),
            "server_challenge": server_challenge.hex(),
            "root": None if root is None else root.hex(),
            "gate_index": 0x99AABBCC,
            "gate_share": share.hex(),
        },
        "steps": {
            "hello": client.hello.hex(),
            "th1": th1.hex(),
            "base_client_to_server": base.client_to_server.hex(),
            "base_server_to_client": base.server_to_client.hex(),
            "kem_secret": kem_secret.hex(),
            "th2": th2.hex(),
            "handshake_client_to_server": handshake.client_to_server.hex(),
            "handshake_server_to_client": handshake.server_to_client.hex(),
            "answer": answer.hex(),
            "th3": th3.hex(),
            "finish": finish.hex(),
            "th4": th4.hex(),
            "k_mix": roots.mix.hex(),
            "traffic_client_to_server": traffic.client_to_server.hex(),
            "traffic_server_to_client": traffic.server_to_client.hex(),
            "exporter": traffic.exporter.hex(),
            "next_root": next_root(roots, traffic.exporter).hex(),
            "first_record": (header + seal(suite, traffic.server_to_client, bytes(12), b"", header)).hex(),
            "gate_key": gate.hex(),
            "hello_datagrams": [wrap(0x99AABBCC, gate, body).hex() for body in split(client.hello, UNIX_MS)],
        },
    }


if __name__ == "__main__":
    main()
