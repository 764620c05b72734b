"""Writes `schedule.json`: every step from two key exchanges to the traffic keys. Run it from the top of the tree.

The inputs are fixed; what ML-KEM's encapsulation drew in an earlier run is kept. Byte strings are hexadecimal.
`tests/crypto/test_schedule.py` recomputes each step with hashlib and bare X25519.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

from fabric.crypto.exchange import KemPair, base_keys_as_client, encapsulate, kx_pair
from fabric.crypto.schedule import (
    FIRST_ROOT,
    handshake_keys,
    next_root,
    root_keys,
    root_proof,
    traffic_keys,
)

PATH = Path(__file__).with_name("schedule.json")
Vectors = dict[str, dict[str, str]]


def main() -> None:
    published = json.loads(PATH.read_text()) if PATH.exists() else None
    PATH.write_text(json.dumps(make(published), indent=1) + "\n")
    sys.stdout.write(f"{PATH}\n")


def fixed(label: str, count: int) -> bytes:
    """Returns the bytes that stand for a random draw in the vectors."""
    return hashlib.shake_256(f"fabric test vector: {label}".encode()).digest(count)


def make(published: Vectors | None) -> Vectors:
    client, server = kx_pair(fixed("client exchange seed", 32)), kx_pair(fixed("server exchange seed", 32))
    kem = KemPair(fixed("kem seed", 64))
    ciphertext = bytes.fromhex(published["inputs"]["kem_ciphertext"]) if published else encapsulate(kem.public)[0]
    kem_secret = kem.decapsulate(ciphertext)
    base = base_keys_as_client(client, server.public)
    th2, th3, th4 = (fixed(name, 32) for name in ("th2", "th3", "th4"))
    certificate_hash = fixed("certificate hash", 32)
    first = root_keys(FIRST_ROOT)
    shake = handshake_keys(base, kem_secret, th2)
    traffic = traffic_keys(base, kem_secret, th4, first.mix)
    following = next_root(first, traffic.exporter)
    second = root_keys(following)
    return _in_hex(
        {
            "inputs": {
                "client_seed": fixed("client exchange seed", 32),
                "server_seed": fixed("server exchange seed", 32),
                "kem_seed": fixed("kem seed", 64),
                "kem_ciphertext": ciphertext,
                "th2": th2,
                "th3": th3,
                "th4": th4,
                "certificate_hash": certificate_hash,
            },
            "exchange": {
                "client_public": client.public,
                "client_secret": client.secret,
                "server_public": server.public,
                "server_secret": server.secret,
                "kem_public": kem.public,
                "kem_secret": kem_secret,
                "base_client_to_server": base.client_to_server,
                "base_server_to_client": base.server_to_client,
            },
            "handshake": {
                "client_to_server": shake.client_to_server,
                "server_to_client": shake.server_to_client,
            },
            "first_root": {"root": FIRST_ROOT, "proof": first.proof, "mix": first.mix, "next": first.next},
            "traffic": {
                "client_to_server": traffic.client_to_server,
                "server_to_client": traffic.server_to_client,
                "exporter": traffic.exporter,
            },
            "second_root": {"root": following, "proof": second.proof, "mix": second.mix, "next": second.next},
            "proofs": {
                "server": root_proof(second, b"server", th2, certificate_hash),
                "client": root_proof(second, b"client", th3, certificate_hash),
            },
        }
    )


def _in_hex(steps: dict[str, dict[str, bytes]]) -> Vectors:
    return {step: {name: value.hex() for name, value in values.items()} for step, values in steps.items()}


if __name__ == "__main__":
    main()
