"""Endpoints whose identity a TPM seals, and lies in a token: real daemons, swtpm and SoftHSM2.

( internet )----[discovery]
   |    |
  kim  lea        kim: state under a TPM        lea: identity key in a PKCS#11 token
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay
from fabric.lab.overlay import await_connected, connect, start_all
from fabric.lab.product import installed, until
from fabric.lab.traffic import Pings
from fabric.shell.exit_code import ExitCode
from tests.custody.hardware import SoftTokens, SoftTpm, needs, running_tpm, why_no_token, why_no_tpm

ROTATES_S = 15.0
"""The authority certifies no two keys of one name within ten seconds."""

pytestmark = [pytest.mark.timeout(120), needs(why_no_tpm()), needs(why_no_token())]


@pytest.fixture(scope="module")
def tpm(lab: Lab) -> Iterator[SoftTpm]:
    with running_tpm(lab.directory / "t") as made:
        yield made


@pytest.fixture(scope="module")
def other_tpm(lab: Lab) -> Iterator[SoftTpm]:
    with running_tpm(lab.directory / "o") as made:
        yield made


@pytest.fixture(scope="module")
def tokens(lab: Lab) -> SoftTokens:
    made = SoftTokens(lab.directory)
    made.make("card")
    return made


@pytest.fixture(scope="module")
def pair(lab: Lab, overlay: Overlay, tpm: SoftTpm, tokens: SoftTokens) -> Iterator[tuple[Endpoint, Endpoint]]:
    kim, lea = (Endpoint(lab, lab.site(f"s-{name}", Nat.PUBLIC).host(name)) for name in ("kim", "lea"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(tokens.settings))
        for endpoint, custody in ((kim, f"tpm2:{tpm.tcti}"), (lea, tokens.uri("card"))):
            key = overlay.discovery.create_key()
            endpoint.command("enrol", key, "--name", endpoint.name, "--custody", custody).must()
        start_all([kim, lea])
        connect(kim, lea)
        yield kim, lea


def test_they_meet_and_status_says_what_keeps_each_key(pair: tuple[Endpoint, Endpoint]) -> None:
    kim, lea = pair
    assert [endpoint.status()["endpoint"]["custody"] for endpoint in pair] == ["tpm2", "pkcs11"]
    assert kim.reaches(lea.overlay_ip())


def test_they_meet_again_after_a_restart(pair: tuple[Endpoint, Endpoint]) -> None:
    for endpoint in pair:
        endpoint.stop()
    start_all(list(pair))
    await_connected(*pair)


def test_a_key_in_a_token_changes_while_frames_flow_and_only_the_new_one_is_left(
    pair: tuple[Endpoint, Endpoint], tokens: SoftTokens
) -> None:
    kim, lea = pair
    until(lambda: kim.reaches(lea.overlay_ip()), "frames flow", 20)
    before = lea.status()["endpoint"]["fingerprint"]
    pings = Pings(kim.host, lea.overlay_ip())
    until(lambda: lea.command("rotate").code == ExitCode.DONE, "the authority certifies the next key", ROTATES_S)
    new = lea.status()["endpoint"]["fingerprint"]
    until(lambda: kim.peer("lea")["trust"]["fingerprint"] == new, "the peer knows the new key", 10)  # type: ignore[index]
    answered = pings.finish()
    assert answered.sent == answered.received > 0
    assert new != before
    assert len(tokens.private_keys("card")) == 1
    for endpoint in pair:
        endpoint.stop()
    start_all(list(pair))
    await_connected(*pair)
    assert lea.status()["endpoint"]["fingerprint"] == new


def test_a_stolen_state_directory_does_not_even_start_on_another_machine(
    pair: tuple[Endpoint, Endpoint], tpm: SoftTpm, other_tpm: SoftTpm, tmp_path: Path
) -> None:
    """There the TPM of that machine is at the same place: it opens nothing, and the thief's daemon says why."""
    kim, _ = pair
    stolen = tmp_path / "stolen"
    shutil.copytree(kim.state, stolen, ignore=lambda _, names: [name for name in names if name.endswith(".sock")])
    path = stolen / "identity.key"
    path.write_bytes(path.read_bytes().replace(tpm.tcti.encode(), other_tpm.tcti.encode()))
    tried = kim.host.run(installed("fabricd"), "--state", str(stolen), "--port", "0")
    assert tried.code == ExitCode.WRONG_CONFIGURATION
    assert "it is sealed to another TPM" in tried.errors


def test_a_key_moves_out_of_the_tpm_and_back_and_stays_the_same(pair: tuple[Endpoint, Endpoint], tpm: SoftTpm) -> None:
    kim, lea = pair
    for custody, told in (("file", "key-file"), (f"tpm2:{tpm.tcti}", "tpm2")):
        kim.stop()
        kim.command("custody", "move", custody).must()
        kim.start()
        assert kim.status()["endpoint"]["custody"] == told
        await_connected(kim, lea)


def test_a_daemon_whose_token_is_pulled_out_may_be_started_again_when_it_is_back(
    overlay: Overlay, pair: tuple[Endpoint, Endpoint], tokens: SoftTokens
) -> None:
    """A session goes on without the token, and so does a next one by its ticket; the service asks for a signature."""
    kim, lea = pair
    lea.process.lasting = False
    overlay.discovery.stop()  # it, and the relay in it, may still be asking for signatures about what was before
    until(lambda: lea.status()["endpoint"]["discovery"] == "unreachable", "the loss of the service")
    with tokens.unplugged():
        assert kim.reaches(lea.overlay_ip())
        overlay.discovery.start()
        assert lea.process.wait(30) == ExitCode.UNREACHABLE
        assert "'card'" in lea.last_words()
    lea.start()
    await_connected(kim, lea)
