"""A relay that runs alone: one file makes it, the root tells it whose grants hold, and it passes as nobody else."""

from __future__ import annotations

import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import trio

from discovery.cli.main import main
from discovery.shell.config import Config
from discovery.shell.daemon import Ports
from discovery.shell.relay_daemon import Papers, serve
from discovery.shell.relay_state import RELAY_FILE, invite, load_relay
from discovery.shell.state import open_state
from fabric.errors import CertificateError, ConfigurationError
from fabric.identity.certificate import decode_certificate
from fabric.identity.grant import Grant, open_grant, sign_grant
from fabric.identity.trust import Trust
from fabric.wire.relay import Refused, RefusedReason
from fabric.wire.stun import TRANSACTION_ID_BYTES, binding_request, decode_binding_success
from tests.discovery.guest import House, open_house
from tests.discovery.test_server import key_of
from tests.discovery.visitor import HELLO, introduce, over_udp, over_websocket

CONFIG = Config(port=0, stun_port=0, listen=("127.0.0.1",))


def make_file(house: House, directory: Path, *words: str) -> Path:
    """As an operator does it."""
    directory.mkdir(exist_ok=True)
    path = directory / RELAY_FILE
    assert house.command("relay-invite", str(path), "--address", "127.0.0.1", *words) == 0
    return path


@asynccontextmanager
async def open_relay(house: House, directory: Path) -> AsyncIterator[House]:
    """Runs a relay alone; yields it in the form of a house, for visitors to go to."""
    async with trio.open_nursery() as nursery:
        ports: Ports = await nursery.start(serve, Papers(directory), CONFIG)
        yield replace(house, ports=ports)
        nursery.cancel_scope.cancel()


async def test_a_pair_meets_at_a_relay_that_knows_nothing_but_the_root(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_house(tmp_path / "s") as house:
        key = key_of(house, capsys)
        ada, bob = await house.guest(key, "ada"), await house.guest(key, "bob")
        granted = await introduce(house, ada, bob)
        path = make_file(house, tmp_path / "r")
        assert path.stat().st_mode & 0o777 == 0o600
        async with open_relay(house, tmp_path / "r") as relay:
            one = await over_udp(relay, ada.signer, granted[0].grant)
            other = await over_websocket(relay, bob.signer, granted[1].grant)
            await one.bind()
            await other.bind()
            await one.send()
            assert await other.hear() == HELLO
            await other.send()
            assert await one.hear() == HELLO


async def test_a_relay_alone_shows_endpoints_what_their_nat_does_and_where_their_tcp_is_seen(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:
        make_file(house, tmp_path / "r")
        async with open_relay(house, tmp_path / "r") as relay:
            question = binding_request(bytes(TRANSACTION_ID_BYTES))
            with trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM) as udp, trio.fail_after(5):
                await udp.sendto(question, ("127.0.0.1", relay.ports.stun))
                seen = decode_binding_success(await udp.recv(1000))
            assert seen.other is not None
            assert seen.other.port != relay.ports.stun
            for port in (relay.ports.stun, seen.other.port):
                with trio.fail_after(5):
                    stream = await trio.open_tcp_stream("127.0.0.1", port)
                    await stream.send_all(question)
                    answer = decode_binding_success(bytes(await stream.receive_some(1000)))
                assert answer.address.port == stream.socket.getsockname()[1]
                await stream.aclose()


async def test_a_relay_of_another_network_takes_no_grant(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_house(tmp_path / "s") as house, open_house(tmp_path / "t") as foreign:
        key = key_of(house, capsys)
        ada, bob = await house.guest(key, "ada"), await house.guest(key, "bob")
        granted = await introduce(house, ada, bob)
        make_file(foreign, tmp_path / "r")
        async with open_relay(house, tmp_path / "r") as relay:
            answer = await (await over_udp(relay, ada.signer, granted[0].grant)).try_bind()
            assert isinstance(answer, Refused)
            assert answer.reason is RefusedReason.GRANT


async def test_the_certificate_of_a_relay_is_neither_the_services_nor_an_endpoints_and_signs_no_grant(
    tmp_path: Path,
) -> None:
    async with open_house(tmp_path / "s") as house:
        make_file(house, tmp_path / "r")
        unix = time.time()
        papers = load_relay(tmp_path / "r", unix)
        identity = papers.serving.identity
        trust = Trust(house.root, "home", None)
        for believed in (
            lambda: trust.check_service(identity.certificate, "127.0.0.1", unix),
            lambda: decode_certificate(identity.certificate),
        ):
            with pytest.raises(CertificateError):
                believed()
        assert trust.check_relay(identity.certificate, "127.0.0.1", unix).hosts == ("127.0.0.1",)
        with pytest.raises(CertificateError):
            trust.check_relay(identity.certificate, "127.0.0.2", unix)
        grant = Grant("home", bytes(16), 0, bytes(32), unix, unix + 60, 1, 1)
        with pytest.raises(CertificateError):
            open_grant(sign_grant(identity.signer, identity.certificate, grant), trust, unix)


async def test_openssl_takes_it_for_a_tls_server_under_the_root(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:
        path = make_file(house, tmp_path / "r")
        (tmp_path / "root.pem").write_text(ssl.DER_cert_to_PEM_cert(house.root))
        check = ["openssl", "verify", "-purpose", "sslserver", "-verify_ip", "127.0.0.1"]
        await trio.run_process([*check, "-CAfile", str(tmp_path / "root.pem"), str(path)], capture_stdout=True)


async def test_a_new_file_is_taken_while_the_relay_runs_and_a_bad_one_is_not(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house, open_house(tmp_path / "t") as foreign:
        path = make_file(house, tmp_path / "r", "--life", "2d")
        papers = Papers(tmp_path / "r")
        first = papers.current
        async with open_relay(house, tmp_path / "r") as relay:
            assert (await shown(relay)) == first.serving.identity.certificate
        make_file(house, tmp_path / "r")
        papers.look()
        second = papers.current
        assert second.serving.identity.certificate != first.serving.identity.certificate
        make_file(foreign, tmp_path / "r")
        papers.look()
        path.write_text("nonsense")
        papers.look()
        path.unlink()
        papers.look()
        assert papers.current is second


async def shown(relay: House) -> bytes:
    tls = await relay.connect()
    certificate = bytes(tls.getpeercert(binary_form=True) or b"")
    await trio.aclose_forcefully(tls)
    return certificate


async def test_a_file_that_is_over_mixed_up_or_missing_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:
        path = make_file(house, tmp_path / "r")
        whole = path.read_text()
        with open_state(tmp_path / "s") as state:
            other = invite(state.authority(Config()), ["127.0.0.1"], 3600, time.time()).decode()
        key, certificates = whole.split("-----BEGIN CERTIFICATE", 1)
        for text in (
            "",
            key,
            whole + other,
            other.split("-----BEGIN CERTIFICATE", 1)[0] + "-----BEGIN CERTIFICATE" + certificates,
        ):
            path.write_text(text)
            with pytest.raises(ConfigurationError):
                load_relay(tmp_path / "r", time.time())
        path.write_text(whole)
        load_relay(tmp_path / "r", time.time())
        for unix in (time.time() + 366 * 86_400, time.time() - 3600):
            with pytest.raises(ConfigurationError):
                load_relay(tmp_path / "r", unix)
        path.unlink()
        assert main(["relay", "--state", str(tmp_path / "r")]) == 78


def test_an_invitation_can_be_printed_to_be_piped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = str(tmp_path / "s")
    assert main(["init", "--state", state, "--network", "home", "--address", "127.0.0.1"]) == 0
    capsys.readouterr()
    assert main(["relay-invite", "-", "--address", "relay.example", "--state", state]) == 0
    (tmp_path / RELAY_FILE).write_text(capsys.readouterr().out)
    load_relay(tmp_path, time.time())
