"""The service as the network sees it: real TLS, HTTP, WebSocket and SQLite on loopback."""

from __future__ import annotations

import json
import os
import socket
import ssl
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from discovery.shell.config import Config
from discovery.shell.driver import StoreFailedError
from discovery.shell.server import MAX_UNREAD_BYTES
from discovery.shell.store_sqlite import SqliteStore
from fabric.identity.enrolment_key import EnrolmentKey
from fabric.identity.root import decode_root
from fabric.identity.trust import Trust
from fabric.shell import clock
from fabric.shell.tls import context_to_look, context_under
from fabric.wire.rendezvous import (
    Authenticate,
    EnrolmentAnswer,
    EnrolmentRefusal,
    Granted,
    IntentNoted,
    Introduction,
    Revocations,
    Withdrawn,
    encode_message,
)
from tests.discovery.guest import PATIENCE_S, Guest, House, open_house

UPGRADE = (
    b"GET /v1/channel HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


def key_of(house: House, capsys: pytest.CaptureFixture[str], *options: str) -> EnrolmentKey:
    capsys.readouterr()
    assert house.command("key", "create", *options) == 0
    return EnrolmentKey.parse(capsys.readouterr().out)


async def ended(guest: Guest) -> bool:
    """Whether the channel ends within patience, whatever is said before."""
    try:
        with trio.fail_after(PATIENCE_S):
            while True:
                await guest.hear()
    except ConnectionClosed:
        return True


async def test_two_hosts_enrol_and_are_introduced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_house(tmp_path / "s") as house:
        key = key_of(house, capsys, "--uses", "2", "--tag", "web")
        assert key.authority_fingerprint == decode_root(house.root).fingerprint
        ada, bob = await house.guest(key, "ada"), await house.guest(key, "bob")
        assert ada.certificate.tags == ("web",)
        assert ada.answer.service == (f"127.0.0.1:{house.ports.tcp}", f"[::1]:{house.ports.tcp}")
        assert ada.answer.stun == (f"127.0.0.1:{house.ports.stun}", f"[::1]:{house.ports.stun}")
        await ada.state_intent(bob.name)
        assert await ada.hear() == IntentNoted(bob.name)
        await bob.state_intent(ada.name)
        assert await bob.hear() == IntentNoted(ada.name)
        about_ada, about_bob = await bob.hear(), await ada.hear()
        assert isinstance(about_ada, Introduction)
        assert isinstance(about_bob, Introduction)
        assert (about_ada.certificate, about_ada.bundle) == (ada.certificate.der, ada.bundle)
        assert (about_bob.certificate, about_bob.bundle) == (bob.certificate.der, bob.bundle)


async def test_a_revocation_by_the_command_line_takes_effect_while_the_service_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_house(tmp_path / "s") as house:
        key = key_of(house, capsys)
        ada, eve = await house.guest(key, "ada"), await house.guest(key, "eve")
        await ada.state_intent(eve.name)
        await eve.state_intent(ada.name)
        assert [type(await ada.hear()) for _ in range(3)] == [IntentNoted, Introduction, Granted]
        with trio.fail_after(2):
            assert house.command("endpoint", "revoke", "eve") == 0
            crl = await ada.hear()
            assert await ada.hear() == Withdrawn(eve.name)
        assert isinstance(crl, Revocations)
        assert Trust(house.root, "home", crl.crl).is_revoked(eve.certificate)
        assert await ended(eve)
        capsys.readouterr()
        assert house.command("endpoint", "list", "--json") == 0
        listed = {e["name"]: e["state"] for e in json.loads(capsys.readouterr().out)["endpoints"]}
        assert listed == {"ada.home": "enrolled", "eve.home": "revoked"}


async def test_a_key_that_was_revoked_while_the_service_runs_enrols_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_house(tmp_path / "s") as house:
        key = key_of(house, capsys)
        assert house.command("key", "revoke", key.key_id) == 0
        refusal = await house.enrol(key, "ada", os.urandom(32))
        assert isinstance(refusal, EnrolmentRefusal)
        assert refusal.code == "key"


async def test_concurrent_enrolments_get_addresses_of_their_own_also_over_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    addresses: list[object] = []

    async def enrol(house: House, key: EnrolmentKey, name: str) -> None:
        answer = await house.enrol(key, name, os.urandom(32))
        assert isinstance(answer, EnrolmentAnswer), answer
        addresses.append(Guest(house, os.urandom(32), answer).certificate.ipv4)

    for run in range(2):
        async with open_house(tmp_path / "s") as house:
            key = key_of(house, capsys)
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    nursery.start_soon(enrol, house, key, f"host-{run}-{number}")
    assert len(set(addresses)) == len(addresses) == 24


async def test_a_stopped_service_lets_its_ports_go_and_comes_back_with_everything(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_house(tmp_path / "s") as house:
        ada = await house.guest(key_of(house, capsys), "ada")
        bob = await house.guest(key_of(house, capsys), "bob")
        await ada.state_intent(bob.name)
        await bob.state_intent(ada.name)
        assert [type(await bob.hear()) for _ in range(2)] == [IntentNoted, Introduction]
        ports = house.ports
    config = Config(port=ports.tcp, stun_port=ports.stun, listen=("127.0.0.1", "::1"))
    async with open_house(tmp_path / "s", config) as house:
        ada.house = house
        await ada.connect()
        assert isinstance(await ada.hear(), Introduction)


async def test_the_service_speaks_tls_1_3_under_the_root_on_ipv4_and_ipv6(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:
        for host in ("127.0.0.1", "::1"):
            tls = await house.connect(host)
            await trio.aclose_forcefully(tls)
        async with house.client() as client:
            response = await client.get("/v1/authority")
        assert (response.status_code, response.content) == (200, house.root)
        old = context_under(house.root)
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_2
        tcp = await trio.open_tcp_stream("127.0.0.1", house.ports.tcp)
        with pytest.raises(trio.BrokenResourceError):
            await trio.SSLStream(tcp, old, server_hostname="127.0.0.1").do_handshake()
        await trio.aclose_forcefully(tcp)


async def test_the_chain_that_is_shown_contains_the_root_that_a_key_pins(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:

        def look() -> list[bytes]:
            with (
                socket.create_connection(("127.0.0.1", house.ports.tcp)) as tcp,
                context_to_look().wrap_socket(tcp) as tls,
            ):
                chain = tls._sslobj.get_unverified_chain()  # type: ignore[attr-defined]
                return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]

        assert (await trio.to_thread.run_sync(look))[-1] == house.root


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/v1/enrol", b"", 400),
        ("/v1/enrol", b"\xff" * 500, 400),
        ("/v1/enrol", b"\0" * 100_000, 400),
        ("/v1/authority", b"", 405),
        ("/", b"", 404),
        ("/v1/channel", b"", 404),
    ],
)
async def test_garbage_over_http_is_refused(tmp_path: Path, path: str, body: bytes, status: int) -> None:
    async with open_house(tmp_path / "s") as house, house.client() as client:
        assert (await client.post(path, content=body)).status_code == status


async def test_attempts_to_enrol_are_limited(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(port=0, stun_port=0, listen=("127.0.0.1",), enrolment_burst=3, enrolment_rate=0.001)
    async with open_house(tmp_path / "s", config) as house:
        right = key_of(house, capsys)
        wrong = EnrolmentKey(right.addresses, right.authority_fingerprint, right.key_id, bytes(32))
        for _ in range(3):
            refusal = await house.enrol(wrong, "ada", os.urandom(32))
            assert isinstance(refusal, EnrolmentRefusal)
            assert refusal.code == "key"
        refusal = await house.enrol(right, "ada", os.urandom(32))
        assert isinstance(refusal, EnrolmentRefusal)
        assert refusal.code == "limit"


async def test_connections_of_one_source_are_bounded(tmp_path: Path) -> None:
    config = Config(port=0, stun_port=0, listen=("127.0.0.1", "::1"), max_connections_per_source=4)
    async with open_house(tmp_path / "s", config) as house:
        streams = [await house.connect() for _ in range(4)]
        with pytest.raises((trio.BrokenResourceError, OSError)):
            await house.connect()
        other = await house.connect("::1")
        for stream in (*streams, other):
            await trio.aclose_forcefully(stream)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"\xc1",
        b"\xff" * 60_000,
        encode_message(Authenticate(b"", bytes(32), bytes(64))),
        "text",
    ],
)
async def test_garbage_on_the_channel_ends_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], said: bytes | str
) -> None:
    async with open_house(tmp_path / "s") as house:
        ada = await house.guest(key_of(house, capsys), "ada")
        stranger = Guest(house, os.urandom(32), ada.answer)
        await stranger.open()
        assert stranger.socket is not None
        await stranger.socket.send_message(said)
        assert await ended(stranger)
        await ada.state_intent("bob.home")
        assert await ada.hear() == IntentNoted("bob.home")


async def test_a_message_too_long_or_without_end_costs_the_stranger_his_connection(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_house(tmp_path / "s") as house:
        ada = await house.guest(key_of(house, capsys), "ada")
        tls = await house.connect()
        await tls.send_all(UPGRADE + b"\r\n")
        assert b"101" in await tls.receive_some()
        # One binary message in fragments that never end, each masked with zeros.
        fragment = b"\xfe" + (16_384).to_bytes(2) + bytes(4) + bytes(16_384)

        async def feed() -> None:
            await tls.send_all(b"\x02" + fragment[1:])
            for _ in range(64 * MAX_UNREAD_BYTES // len(fragment)):
                await tls.send_all(b"\x00" + fragment[1:])

        with pytest.raises(trio.BrokenResourceError), trio.fail_after(PATIENCE_S):
            await feed()
        await trio.aclose_forcefully(tls)
        await ada.state_intent("bob.home")
        assert await ada.hear() == IntentNoted("bob.home")


async def test_a_channel_that_asks_for_compression_is_not_opened(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:
        tls = await house.connect()
        await tls.send_all(UPGRADE + b"Sec-WebSocket-Extensions: permessage-deflate\r\n\r\n")
        assert b" 403 " in await tls.receive_some()
        await trio.aclose_forcefully(tls)


async def test_who_never_speaks_is_let_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.shell.server.IDLE_S", 0.2)
    async with open_house(tmp_path / "s") as house:
        tls = await house.connect()
        with trio.fail_after(PATIENCE_S):
            assert await tls.receive_some() == b""
        await trio.aclose_forcefully(tls)


async def test_the_service_certificate_is_kept_over_a_restart_and_replaced_when_it_is_due(tmp_path: Path) -> None:
    async def shown(house: House) -> bytes:
        tls = await house.connect()
        certificate = bytes(tls.getpeercert(binary_form=True) or b"")
        await trio.aclose_forcefully(tls)
        return certificate

    async with open_house(tmp_path / "s") as house:
        first = await shown(house)
    async with open_house(tmp_path / "s") as house:
        assert await shown(house) == first
    config = Config(port=0, stun_port=0, listen=("127.0.0.1",), addresses=("127.0.0.1", "svc.example"))
    async with open_house(tmp_path / "s", config) as house:
        second = await shown(house)
        assert second != first
        Trust(house.root, "home", None).check_service(second, "svc.example", clock.now() + clock.wall_offset())
    assert ((tmp_path / "s" / "service.pem").stat().st_mode & 0o777) == 0o600
    assert ((tmp_path / "s" / "authority.key").stat().st_mode & 0o777) == 0o600


@pytest.mark.slow
async def test_the_service_certificate_is_renewed_while_the_service_runs(tmp_path: Path) -> None:
    config = Config(port=0, stun_port=0, listen=("127.0.0.1",), service_certificate_life_s=3.0)
    async with open_house(tmp_path / "s", config) as house:
        seen: set[object] = set()
        with trio.fail_after(PATIENCE_S):
            while len(seen) < 2:
                tls = await house.connect()
                seen.add(tls.getpeercert(binary_form=True))
                await trio.aclose_forcefully(tls)
                await trio.sleep(0.2)


async def test_a_service_that_can_not_store_promises_nothing_and_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / "s"
    with pytest.RaisesGroup(pytest.RaisesExc(StoreFailedError), flatten_subgroups=True):
        async with open_house(directory) as house:
            ada = await house.guest(key_of(house, capsys), "ada")
            other = SqliteStore(directory)
            with other.change():
                other._connection.execute("DROP TABLE intents")
            other.close()
            await ada.state_intent("bob.home")
            assert await ended(ada)
            await trio.sleep_forever()


async def test_a_stranger_who_asks_and_never_reads_can_not_keep_the_service_from_stopping(tmp_path: Path) -> None:
    async with open_house(tmp_path / "s") as house:
        tls = await house.connect()
        await tls.send_all(UPGRADE + b"\r\n")
        assert b"101" in await tls.receive_some()
        ping = b"\x89\xfd" + bytes(4) + bytes(125)
        with trio.move_on_after(1.0):
            while True:
                await tls.send_all(ping * 100)
                await trio.lowlevel.checkpoint()
        began = trio.current_time()
        house.nursery.cancel_scope.cancel()
    assert trio.current_time() - began < 2.0
