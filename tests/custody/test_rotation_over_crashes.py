"""A host changes its identity key, and loses power before any step that lasts: it starts, and ends with the next key.

The host is what the daemon has for it: custodian, database, papers and `fabric.shell.rotation`. The authority takes one
request for each certificate; a second and different one would be a theft.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import pytest

from fabric.core.identity import Identity
from fabric.crypto.signature import LABEL_HANDSHAKE_CLIENT, verify
from fabric.custody.identity_file import Surroundings
from fabric.custody.vault import Vault
from fabric.identity.certificate import Certificate
from fabric.identity.request import decode_request
from fabric.identity.rotation import leads, open_rotation
from fabric.shell.keystore import Keystore
from fabric.shell.papers import Network, load_papers, store_papers
from fabric.shell.rotation import Rotation, load_statements, take_over_if_due
from tests.custody.hardware import SoftTokens, end_library, loaded_tokens, needs, why_no_token
from tests.custody.token_objects import objects, powers_fail, require_one_pair
from tests.identity.household import ADDRESSES, LIFE_S, NOW, START, Household

pytestmark = needs(why_no_token())

NAME = "web-1.home"
HASHES = (b"t" * 32, b"c" * 32)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SoftTokens]:
    with loaded_tokens(tmp_path_factory.mktemp("softhsm"), "card") as made:
        yield made


@dataclass
class Office:
    """The authority: it answers the same request with the same certificate, for ever."""

    household: Household = field(default_factory=Household)
    requests: dict[int, bytes] = field(default_factory=dict)
    certificates: dict[bytes, bytes] = field(default_factory=dict)

    def certify(self, request: bytes) -> bytes:
        return self.household.authority.issue_endpoint(
            decode_request(request),
            NAME,
            addresses=ADDRESSES,
            tags=(),
            serial=next(self.household.serials),
            not_before=START,
            not_after=START + LIFE_S,
        )

    def renew(self, present: Certificate, request: bytes, statement: bytes) -> bytes:
        rotation = open_rotation(statement)
        assert rotation.new_key == decode_request(request).public_key
        if request not in self.certificates:
            assert rotation.old_key == present.public_key
            assert present.serial not in self.requests, "two requests for one certificate: a theft"
            self.requests[present.serial] = request
            self.certificates[request] = self.certify(request)
        return self.certificates[request]


class Host:
    """From its start until it loses power or ends."""

    def __init__(self, directory: Path, custody: str = "auto") -> None:
        self.directory = directory
        self.custodian = Vault(Surroundings(directory, None, {}), custody)

    def enrol(self, office: Office) -> None:
        store_papers(
            self.directory,
            certificate=office.certify(self.custodian.make_request(NAME)),
            authority=office.household.authority.root_der,
            revocations=office.household.crl(1),
            network=Network(service=("192.0.2.1:443",), stun=(), overlay=("100.64.0.0/10",)),
        )
        self.custodian.next_bundle(NAME, NOW)

    def rotate(self, office: Office) -> None:
        """What a daemon does from its start on, where its person wants another key."""
        with self._keystore() as keystore:
            rotation = self._started(keystore)
            rotation.begin(NOW)
            self._ask(office, rotation)

    def finish(self, office: Office) -> bool:
        """What it does by itself; returns whether anything was begun before."""
        with self._keystore() as keystore:
            rotation = self._started(keystore)
            was_asked = rotation.is_asked
            if was_asked:
                self._ask(office, rotation)
            self._require_at_work(keystore)
            return was_asked

    def _keystore(self) -> Keystore:
        return Keystore(self.directory, self.custodian.storage_key, os.urandom)

    def _started(self, keystore: Keystore) -> Rotation:
        papers = load_papers(self.directory)
        take_over_if_due(self.custodian, papers.certificate)
        custodian = self.custodian
        trust = papers.trust()
        self.identity = Identity(NAME, "home", papers.certificate, trust, custodian, custodian, custodian.bundle)
        return Rotation(self.directory, self.identity, keystore, custodian)

    def _ask(self, office: Office, rotation: Rotation) -> None:
        rotation.complete(office.renew(self.identity.certificate, *rotation.request(NOW)))

    def _require_at_work(self, keystore: Keystore) -> None:
        certificate, custodian = load_papers(self.directory).certificate, self.custodian
        assert certificate.public_key == self.identity.certificate.public_key == custodian.public_key
        signature = custodian.sign(LABEL_HANDSHAKE_CLIENT, *HASHES)
        verify(certificate.public_key, LABEL_HANDSHAKE_CLIENT, signature, *HASHES)
        statements = load_statements(keystore)
        if statements:
            assert leads(statements, NAME, open_rotation(statements[0]).old_key, certificate.public_key)
            assert custodian.bundle is None, "the bundle is under the key before"


def enrolled(tmp_path: Path, tokens: SoftTokens, kind: str, key: str) -> tuple[Path, Office]:
    directory, office = tmp_path / key, Office()
    directory.mkdir()
    Host(directory, tokens.uri("card", key) if kind == "token" else "file").enrol(office)
    return directory, office


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["token", "file"])
def test_power_lost_at_any_step_is_made_up_for_at_the_next_start(tokens: SoftTokens, tmp_path: Path, kind: str) -> None:
    seen: set[str] = set()
    outcomes = set()
    for fatal in count():
        key = f"host-{fatal}"
        directory, office = enrolled(tmp_path, tokens, kind, key)
        before = load_papers(directory).certificate.public_key
        lost, steps = powers_fail(Host(directory).rotate, office, fatal=fatal)
        seen.update(steps)
        was_asked = Host(directory).finish(office)
        after = load_papers(directory).certificate.public_key
        outcomes.add((was_asked, after != before))
        Host(directory).rotate(office)
        assert not Host(directory).finish(office), "nothing is left to be done"
        last = load_papers(directory).certificate.public_key
        assert last not in (before, after)
        if kind == "token":
            require_one_pair(key)
        if not lost:
            break
    assert seen >= {"write", "fsync", "replace", "note_fact"}
    assert ({"generate_pair", "destroy_pair"} <= seen) == (kind == "token")
    assert outcomes == {(False, False), (True, True), (False, True)}, "as before, finished then, finished before"


def test_a_key_that_the_token_keeps_is_told_of_in_a_line_of_the_log(
    tokens: SoftTokens, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    import pkcs11

    directory, office = enrolled(tmp_path, tokens, "token", "kept")
    for _, _, each in objects("kept"):
        each.copy({pkcs11.Attribute.DESTROYABLE: False, pkcs11.Attribute.LABEL: "kept"})
        each.destroy()
    end_library()
    with caplog.at_level(logging.INFO, "fabric.rotation"):
        Host(directory).rotate(office)
    told = "the pkcs11 token keeps the identity key that was in use before: nothing asks for it any more"
    assert [(each.levelname, each.getMessage()) for each in caplog.records] == [("WARNING", told)]
    assert not Host(directory).finish(office)
    assert len(caplog.records) == 1
