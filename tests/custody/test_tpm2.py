"""Secrets sealed to a TPM 2.0: the programs of tpm2-tss, and swtpm in the place of the chip."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.custody.provider import Provider, Rank
from fabric.custody.providers.tpm2 import DEVICE, Tpm2, open_provider
from fabric.errors import ConfigurationError
from tests.custody.hardware import SoftTpm, needs, running_tpm, why_no_tpm
from tests.custody.unloadable import WHY, said_without

pytestmark = needs(why_no_tpm())

SECRET = b"identity seed and storage key ".ljust(64, b".")


@pytest.fixture
def shelf() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="tpm") as directory:
        yield Path(directory)


@pytest.fixture
def tpm(shelf: Path) -> Iterator[SoftTpm]:
    with running_tpm(shelf / "1") as made:
        yield made


@pytest.fixture
def other_tpm(shelf: Path) -> Iterator[SoftTpm]:
    with running_tpm(shelf / "2") as made:
        yield made


def test_what_is_sealed_is_unsealed_here(tpm: SoftTpm) -> None:
    provider: Provider = open_provider(tpm.tcti, tpm.directory)
    assert (provider.name, provider.place, provider.rank) == ("tpm2", tpm.tcti, Rank.TPM2)
    assert provider.is_available()
    for secret in (SECRET, b"", bytes(4096)):
        assert provider.unseal(provider.seal(secret)) == secret


def test_the_blob_shows_nothing_of_the_secret(tpm: SoftTpm) -> None:
    blob = Tpm2(tpm.tcti).seal(SECRET)
    assert SECRET[:8] not in blob
    assert len(blob) < 512


def test_the_blob_opens_after_the_tpm_was_off(tpm: SoftTpm) -> None:
    blob = Tpm2(tpm.tcti).seal(SECRET)
    tpm.stop()
    tpm.start()
    assert Tpm2(tpm.tcti).unseal(blob) == SECRET


def test_the_blob_is_of_no_use_with_another_tpm(tpm: SoftTpm, other_tpm: SoftTpm) -> None:
    blob = Tpm2(tpm.tcti).seal(SECRET)
    with pytest.raises(ConfigurationError, match=r"another TPM.*enrol anew"):
        Tpm2(other_tpm.tcti).unseal(blob)
    assert Tpm2(tpm.tcti).unseal(blob) == SECRET


def test_another_tpm_refuses_the_blob_itself_where_the_name_in_it_was_forged(tpm: SoftTpm, other_tpm: SoftTpm) -> None:
    blob, foreign = Tpm2(tpm.tcti).seal(SECRET), Tpm2(other_tpm.tcti).seal(b"")
    name = slice(14, 14 + 2 + 34)
    forged = blob[: name.start] + foreign[name] + blob[name.stop :]
    assert forged != blob
    with pytest.raises(ConfigurationError, match="damaged"):
        Tpm2(other_tpm.tcti).unseal(forged)


def test_a_tpm_that_was_cleared_says_so(tpm: SoftTpm) -> None:
    from tpm2_pytss import ESAPI, ESYS_TR

    blob = Tpm2(tpm.tcti).seal(SECRET)
    with ESAPI(tpm.tcti) as device:
        device.clear(ESYS_TR.LOCKOUT)
    with pytest.raises(ConfigurationError, match="cleared"):
        Tpm2(tpm.tcti).unseal(blob)


def test_bytes_turned_in_the_blob_are_noticed(tpm: SoftTpm) -> None:
    blob = Tpm2(tpm.tcti).seal(SECRET)
    for at in range(0, len(blob), 7):
        with pytest.raises(ConfigurationError):
            Tpm2(tpm.tcti).unseal(blob[:at] + bytes((blob[at] ^ 1,)) + blob[at + 1 :])
    assert Tpm2(tpm.tcti).unseal(blob) == SECRET


def test_nothing_stays_loaded_however_often_it_is_asked(tpm: SoftTpm) -> None:
    """A TPM has room for three objects and some sessions: what a blob that fails leaves there is missing soon."""
    provider = Tpm2(tpm.tcti)
    blob = provider.seal(SECRET)
    damaged = blob[:100] + bytes((blob[100] ^ 1,)) + blob[101:]
    for _ in range(10):
        with pytest.raises(ConfigurationError):
            provider.unseal(damaged)
        assert provider.unseal(blob) == SECRET


def test_nobody_who_listens_on_the_bus_reads_the_key(
    tpm: SoftTpm, shelf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The recorder that tpm2-tss has takes down all traffic: the public part is found in it, the key is not."""
    from fabric.custody.providers.tpm2_primary import opened_primary

    recorded, key = shelf / "traffic", b"<key of the secret, on its way>!"
    monkeypatch.setenv("TCTI_PCAP_FILE", str(recorded))
    with opened_primary(f"pcap:{tpm.tcti}") as primary:
        wrapped = primary.wrap(key)
        assert primary.unwrap(wrapped) == key
    traffic = recorded.read_bytes()
    assert wrapped[36:84] in traffic
    assert key[:8] not in traffic


@pytest.mark.skipif(DEVICE.exists(), reason="this machine has a TPM")
def test_a_machine_without_a_tpm_is_told_so_in_one_sentence(tpm: SoftTpm) -> None:
    blob = Tpm2(tpm.tcti).seal(SECRET)
    assert not Tpm2().is_available()
    for provider in (Tpm2(), Tpm2("swtpm:path=/nowhere")):
        with pytest.raises(
            ConfigurationError, match=r"^no TPM answers at (device|swtpm):\S+ \(.*\): switch it on"
        ) as told:
            provider.unseal(blob)
        assert "\n" not in str(told.value)


def test_a_tpm_that_went_away_is_not_available(tpm: SoftTpm, capfd: pytest.CaptureFixture[str]) -> None:
    tpm.stop()
    assert not Tpm2(tpm.tcti).is_available()
    with pytest.raises(ConfigurationError, match="no TPM answers"):
        Tpm2(tpm.tcti).seal(SECRET)
    assert capfd.readouterr().err == ""


def test_a_library_that_can_not_be_loaded_is_said_to_be_the_reason(tpm: SoftTpm, tmp_path: Path) -> None:
    said = said_without("tpm2_pytss", "tpm2", tpm.tcti, tmp_path)
    assert said == ["False", f"tpm2 needs tpm2-pytss and the libraries of tpm2-tss: {WHY}"]


def test_an_owner_s_password_is_said_to_be_the_reason(tpm: SoftTpm) -> None:
    from tpm2_pytss import ESAPI, ESYS_TR

    with ESAPI(tpm.tcti) as device:
        device.hierarchy_change_auth(ESYS_TR.OWNER, b"password")
    assert not Tpm2(tpm.tcti).is_available()
    with pytest.raises(ConfigurationError, match="a password was set"):
        Tpm2(tpm.tcti).seal(SECRET)
