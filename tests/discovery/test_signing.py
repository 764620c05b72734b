"""At the authority's key: a service in the wrong hands asks for what it should not have, and gets none of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from ipaddress import IPv4Address

import msgspec
import pytest

from discovery.core.orders import SERIAL_BYTES, CertificateRequest, ListRequest, Requests, ServiceRequest
from discovery.core.settings import DAY_S
from discovery.core.signatory import AWAY_LIFE_S
from discovery.core.signing import Journal, SignedCertificate, judge, sign
from fabric.identity.authority import Authority
from fabric.identity.certificate import Certificate, decode_certificate
from fabric.identity.request import NONCE_BYTES, make_request
from fabric.identity.revocation import open_revocations
from fabric.identity.service_certificate import service_certificate_of
from fabric.identity.x509_form import read_form
from tests.discovery.town import NETWORK, UNIX, make_authority

LIFE_S = 7 * DAY_S


@dataclass
class Vault:
    """The place where the key is kept, and a service that asks it for things."""

    random: random.Random = field(default_factory=lambda: random.Random(7))
    unix: float = UNIX
    journal: Journal = field(default_factory=Journal)
    authority: Authority = field(init=False)

    def __post_init__(self) -> None:
        self.authority = make_authority(self.random)

    def serial(self) -> bytes:
        return (self.random.getrandbits(127) | 1).to_bytes(SERIAL_BYTES)

    def request(self, name: str, seed: bytes, host: int = 1, **changes: object) -> CertificateRequest:
        fields: dict[str, object] = {
            "serial": self.serial(),
            "name": f"{name}.{NETWORK}",
            "ipv4": int(IPv4Address("100.64.0.0")) + host,
            "tags": (),
            "is_ephemeral": False,
            "request": make_request(seed, name),
            "predecessor": b"",
            "is_renewal": False,
            "key_id": "k1",
            "source": "192.0.2.1",
            "created": self.unix,
            "life_s": LIFE_S,
        }
        return CertificateRequest(**(fields | changes))  # type: ignore[arg-type]

    def renewal(self, before: Certificate, seed: bytes, nonce: int = 1, **changes: object) -> CertificateRequest:
        fields: dict[str, object] = {
            "ipv4": int(before.ipv4),
            "tags": before.tags,
            "request": make_request(seed, before.name, bytes((nonce,)) * NONCE_BYTES),
            "predecessor": before.der,
            "is_renewal": True,
            "key_id": "",
        }
        return self.request(before.name.partition(".")[0], seed, **(fields | changes))  # type: ignore[arg-type]

    def ask(
        self,
        *certificates: CertificateRequest,
        listed: ListRequest | None = None,
        service: ServiceRequest | None = None,
    ) -> tuple[list[Certificate], list[str]]:
        """Returns what was signed, and why what was not."""
        requests = Requests(NETWORK, self.authority.fingerprint, self.unix, certificates, service, listed)
        verdict = judge(requests, self.authority.root, self.journal, self.unix)
        answers, entries = sign(verdict, self.authority, self.journal, self.unix)
        self.journal.add(entries)
        faults = [why for _, why in verdict.refused]
        faults += [fault for fault in (verdict.list_fault, verdict.service_fault) if fault]
        assert verdict.is_clean == (not faults)
        return [decode_certificate(der) for _, der in answers.certificates], faults

    def listed(self, *serials: int, number: int = 100) -> ListRequest:
        entries = tuple((serial.to_bytes(SERIAL_BYTES), self.unix, "x.home") for serial in serials)
        return ListRequest(number, entries, AWAY_LIFE_S)


@pytest.fixture
def vault() -> Vault:
    return Vault()


SEED, OTHER = b"s" * 32, b"o" * 32


def test_an_enrolment_is_signed_from_now_on_for_the_life_that_was_asked(vault: Vault) -> None:
    vault.unix += 3 * DAY_S
    (certificate,), faults = vault.ask(vault.request("ada", SEED))
    assert faults == []
    assert certificate.name == "ada.home"
    assert certificate.not_before == vault.unix - 300
    assert certificate.not_after == vault.unix + LIFE_S


def test_a_name_that_lives_is_never_given_to_another_key(vault: Vault) -> None:
    vault.ask(vault.request("ada", SEED))
    issued, (fault,) = vault.ask(vault.request("ada", OTHER, host=2))
    assert issued == []
    assert "belongs to another key" in fault


def test_a_name_is_free_for_another_key_once_it_is_revoked_or_ended(vault: Vault) -> None:
    (ada,), _ = vault.ask(vault.request("ada", SEED))
    (again,), faults = vault.ask(vault.request("ada", OTHER), listed=vault.listed(ada.serial))
    assert faults == []
    vault.unix = again.not_after
    (third,), faults = vault.ask(vault.request("ada", b"t" * 32))
    assert faults == []
    assert third.public_key != again.public_key


def test_an_address_that_lives_is_never_given_to_another_name(vault: Vault) -> None:
    vault.ask(vault.request("ada", SEED, host=1))
    issued, (fault,) = vault.ask(vault.request("bob", OTHER, host=1))
    assert issued == []
    assert 'belongs to "ada.home"' in fault


def test_within_one_file_names_addresses_and_serial_numbers_are_unique(vault: Vault) -> None:
    ada = vault.request("ada", SEED, host=1)
    issued, faults = vault.ask(
        ada,
        vault.request("bob", OTHER, host=1),
        vault.request("ada", OTHER, host=2),
        vault.request("eve", OTHER, host=3, serial=ada.serial),
    )
    assert [certificate.name for certificate in issued] == ["ada.home"]
    assert len(faults) == 3


def test_the_name_is_the_one_that_the_host_asked_for(vault: Vault) -> None:
    issued, faults = vault.ask(vault.request("ada", SEED, request=make_request(SEED, "bob")))
    assert issued == []
    assert len(faults) == 1
    assert vault.ask(vault.request("ada", SEED, request=make_request(SEED, "ada.work")))[0] == []


def test_a_request_without_proof_of_its_key_is_refused(vault: Vault) -> None:
    forged = bytearray(make_request(SEED, "ada"))
    forged[-1] ^= 1
    assert vault.ask(vault.request("ada", SEED, request=bytes(forged)))[0] == []
    assert vault.ask(vault.request("ada", SEED, request=b"\x30\x03abc"))[0] == []


def test_a_renewal_follows_a_certificate_of_the_same_name_key_address_and_tags(vault: Vault) -> None:
    (ada,), _ = vault.ask(vault.request("ada", SEED, tags=("web",)))
    vault.unix += 5 * DAY_S
    (next_one,), faults = vault.ask(vault.renewal(ada, SEED))
    assert faults == []
    assert next_one.tags == ("web",)
    vault.unix += 5 * DAY_S
    for wrong in (
        vault.renewal(next_one, SEED, tags=("root",)),
        vault.renewal(next_one, SEED, ipv4=int(ada.ipv4) + 9),
        vault.renewal(next_one, OTHER),
        vault.renewal(next_one, SEED, predecessor=b""),
        vault.renewal(next_one, SEED, predecessor=make_authority(random.Random(1)).root_der),
    ):
        issued, faults = vault.ask(wrong)
        assert issued == []
        assert len(faults) == 1


def test_a_certificate_of_another_authority_is_renewed_for_nobody(vault: Vault) -> None:
    stranger = Vault(random.Random(8))
    (foreign,), _ = stranger.ask(stranger.request("ada", SEED))
    issued, faults = vault.ask(vault.renewal(foreign, SEED))
    assert issued == []
    assert len(faults) == 1


def test_a_certificate_is_renewed_once_whatever_the_service_says(vault: Vault) -> None:
    (ada,), _ = vault.ask(vault.request("ada", SEED))
    vault.unix += 5 * DAY_S
    first = vault.renewal(ada, SEED, nonce=1)
    assert vault.ask(first)[1] == []
    issued, (fault,) = vault.ask(vault.renewal(ada, SEED, nonce=2))
    assert issued == []
    assert "may be copied" in fault


def test_what_is_asked_again_gets_the_same_bytes_again(vault: Vault) -> None:
    request = vault.request("ada", SEED)
    (first,), _ = vault.ask(request)
    vault.unix += 100
    (second,), _ = vault.ask(request)
    assert second.der == first.der
    issued, (fault,) = vault.ask(vault.request("bob", OTHER, host=2, serial=request.serial))
    assert issued == []
    assert "serial number" in fault


def test_a_revoked_certificate_is_not_renewed(vault: Vault) -> None:
    (ada,), _ = vault.ask(vault.request("ada", SEED))
    vault.unix += 5 * DAY_S
    issued, faults = vault.ask(vault.renewal(ada, SEED), listed=vault.listed(ada.serial))
    assert issued == []
    assert faults == ["the certificate that it renews is revoked"]


def test_lists_grow_and_nobody_comes_back(vault: Vault) -> None:
    (ada,), _ = vault.ask(vault.request("ada", SEED))
    (bob,), _ = vault.ask(vault.request("bob", OTHER, host=2))
    assert vault.ask(listed=vault.listed(ada.serial, number=5))[1] == []
    (fault,) = vault.ask(listed=vault.listed(bob.serial, number=6))[1]
    assert '"ada.home"' in fault
    assert vault.ask(listed=vault.listed(ada.serial, bob.serial, number=5))[1] != []
    assert vault.ask(listed=vault.listed(ada.serial, bob.serial, bob.serial, number=6))[1] != []
    assert vault.ask(listed=vault.listed(ada.serial, bob.serial, number=6))[1] == []
    newest = vault.journal.newest_list
    assert newest is not None
    assert open_revocations(newest.der, vault.authority.root).serials == {ada.serial, bob.serial}
    vault.unix = max(ada.not_after, bob.not_after)
    assert vault.ask(listed=vault.listed(number=7))[1] == []


def test_the_services_own_certificate_is_signed_for_its_key_and_hosts(vault: Vault) -> None:
    request = ServiceRequest(vault.serial(), b"\7" * 32, ("service.example", "192.0.2.1"), AWAY_LIFE_S)
    requests = Requests(NETWORK, vault.authority.fingerprint, UNIX, (), request)
    verdict = judge(requests, vault.authority.root, vault.journal, UNIX)
    answers, _ = sign(verdict, vault.authority, vault.journal, UNIX)
    certificate = service_certificate_of(read_form(answers.service))
    assert certificate.hosts == ("service.example", "192.0.2.1")
    assert certificate.not_after == UNIX + AWAY_LIFE_S


def test_nothing_is_signed_for_longer_than_a_year_or_so(vault: Vault) -> None:
    assert vault.ask(vault.request("ada", SEED, life_s=500 * DAY_S))[0] == []
    forever = ServiceRequest(vault.serial(), b"\7" * 32, ("service.example",), 500 * DAY_S)
    assert len(vault.ask(service=forever)[1]) == 1


def test_what_was_signed_while_the_key_was_with_the_service_counts(vault: Vault) -> None:
    (ada,), _ = vault.ask(vault.request("ada", SEED))
    begun = Journal()
    begun.add(list(vault.journal.certificates.values()))
    vault.journal = begun
    issued, (fault,) = vault.ask(vault.request("ada", OTHER, host=2))
    assert issued == []
    assert "belongs to another key" in fault
    entry = vault.journal.certificates[ada.serial.to_bytes(SERIAL_BYTES)]
    assert msgspec.json.decode(msgspec.json.encode(entry), type=SignedCertificate) == entry


BAD = "\x1b]0;all is well\x07"


@pytest.mark.parametrize(
    "change",
    [
        {"name": BAD},
        {"source": BAD},
        {"key_id": "[red]" + BAD},
        {"tags": (BAD,)},
        {"life_s": float("nan")},
        {"life_s": -1.0},
        {"created": float("inf")},
        {"ipv4": 2**32},
        {"serial": bytes(15)},
    ],
)
def test_nothing_in_a_request_leads_the_person_who_reads_it_astray(vault: Vault, change: dict[str, object]) -> None:
    good = Requests(NETWORK, vault.authority.fingerprint, UNIX, (vault.request("ada", SEED),))
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(good), type=Requests) == good
    request = msgspec.structs.replace(vault.request("ada", SEED), **change)
    bad = Requests(NETWORK, vault.authority.fingerprint, UNIX, (request,))
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(bad), type=Requests)


def test_hosts_and_names_on_lists_are_what_they_should_be(vault: Vault) -> None:
    for part in (
        ServiceRequest(vault.serial(), b"\7" * 32, (BAD,), AWAY_LIFE_S),
        ListRequest(1, ((vault.serial(), UNIX, BAD),), AWAY_LIFE_S),
        ListRequest(1, ((vault.serial(), float("nan"), "ada.home"),), AWAY_LIFE_S),
    ):
        with pytest.raises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=type(part))


def test_a_hostile_service_that_asks_for_anything_gets_an_answer_and_no_crash(vault: Vault) -> None:
    """Walks of chance over what the file's form allows: all that is signed can be read, and holds to the journal."""
    owners: dict[str, bytes] = {}
    for _ in range(400):
        name, seed = vault.random.choice(("ada", "bob", "eve", "a" * 63)), vault.random.choice((SEED, OTHER))
        before = vault.random.choice([None, *vault.journal.certificates.values()])
        changes: dict[str, object] = {
            "tags": tuple(vault.random.choices(("web", "db", "--", "x" * 63), k=vault.random.choice((0, 1, 20)))),
            "life_s": vault.random.choice((1e-9, 60.0, LIFE_S, 4000 * DAY_S)),
            "predecessor": vault.random.choice((b"", b"\x30", before.der if before else b"")),
            "is_renewal": vault.random.random() < 0.5,
            "request": vault.random.choice((make_request(seed, name), make_request(seed, "eve"), b"\x30\x00")),
        }
        if before is not None and vault.random.random() < 0.2:
            changes["serial"] = before.serial
        request = vault.request(name, seed, host=vault.random.randrange(4), **changes)
        listed = None
        if vault.random.random() < 0.1:
            listed = ListRequest(vault.random.randrange(50), ((vault.serial(), UNIX, "x.home"),) * 2, AWAY_LIFE_S)
        vault.unix += vault.random.choice((0.0, 3600.0))
        for certificate in vault.ask(request, listed=listed)[0]:
            alive = [entry for entry in vault.journal.living(vault.unix) if entry.name == certificate.name]
            assert {entry.public_key for entry in alive} <= {certificate.public_key}
            owners[certificate.name] = certificate.public_key
    assert owners
