"""The relay of a running service, over real UDP, TLS and WebSocket on loopback."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio_websocket import ConnectionClosed

from discovery.shell.config import Config, load_config, split_relay
from discovery.shell.relay import MAX_WAITING
from fabric.crypto.signature import Ed25519Signer
from fabric.errors import ConfigurationError
from fabric.wire.datagram import DATA_TYPE
from fabric.wire.relay import Refreshed, Refused, RefusedReason, encode_relay_message, wrap_relayed
from fabric.wire.rendezvous import Granted, RelayPlace, Withdrawn
from fabric.wire.stun import TRANSACTION_ID_BYTES, binding_request
from tests.discovery.guest import PATIENCE_S, Guest, House, open_house
from tests.discovery.test_server import UPGRADE, key_of
from tests.discovery.visitor import HELLO, Visitor, introduce, open_websocket, over_udp, over_websocket


@dataclass
class Quarter:
    """A running service with two guests that are introduced."""

    house: House
    guests: tuple[Guest, Guest]
    granted: tuple[Granted, Granted]

    async def udp(self, side: int, host: str = "127.0.0.1") -> Visitor:
        return await over_udp(self.house, self.guests[side].signer, self.granted[side].grant, host)

    async def websocket(self, side: int, host: str = "127.0.0.1") -> Visitor:
        return await over_websocket(self.house, self.guests[side].signer, self.granted[side].grant, host)


Open = Callable[..., object]


@asynccontextmanager
async def open_quarter(
    directory: Path, capsys: pytest.CaptureFixture[str], config: Config | None = None
) -> AsyncIterator[Quarter]:
    async with open_house(directory, config) as house:
        key = key_of(house, capsys)
        ada, bob = await house.guest(key, "ada"), await house.guest(key, "bob")
        yield Quarter(house, (ada, bob), await introduce(house, ada, bob))


@pytest.mark.parametrize("ways", [("udp", "udp"), ("udp", "websocket"), ("websocket", "udp"), ("websocket",) * 2])
async def test_two_introduced_hosts_reach_each_other_through_the_service(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], ways: tuple[str, str]
) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada, bob = [await getattr(quarter, way)(side) for side, way in enumerate(ways)]
        await ada.bind()
        await bob.bind()
        for payload in (HELLO, bytes((DATA_TYPE,)) + os.urandom(1400)):
            await ada.send(payload)
            assert await bob.hear() == payload
            await bob.send(payload)
            assert await ada.hear() == payload
        assert await ada.refresh() == Refreshed((ada.channel,))


async def test_the_granted_relays_are_the_service_itself_and_those_of_the_configuration(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(port=0, stun_port=0, listen=("127.0.0.1", "::1"), relays=("other.example:1:0", "[::2]:0:7"))
    async with open_quarter(tmp_path / "s", capsys, config) as quarter:
        own = {RelayPlace(host, quarter.house.ports.stun, quarter.house.ports.tcp) for host in ("127.0.0.1", "::1")}
        relays = quarter.granted[0].relays
        assert relays == quarter.granted[1].relays
        assert set(relays) == own | {RelayPlace("other.example", 1, 0), RelayPlace("::2", 0, 7)}
        assert relays[-1] in own, "the second address of one relay comes behind the first of each"


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("relay.example", RelayPlace("relay.example", 3478, 443)),
        ("Relay.Example:1:0", RelayPlace("relay.example", 1, 0)),
        ("192.0.2.1:0:8443", RelayPlace("192.0.2.1", 0, 8443)),
        ("[2001:DB8::1]", RelayPlace("2001:db8::1", 3478, 443)),
        ("[2001:db8::1]:5:6", RelayPlace("2001:db8::1", 5, 6)),
    ],
)
def test_a_relay_is_written_with_or_without_its_ports(text: str, place: RelayPlace) -> None:
    assert split_relay(text) == place


@pytest.mark.parametrize("text", ["", "a b", "relay.example:3478", "r:0:0", "r:70000:1", "r:1:99999", "2001:db8::1"])
def test_what_is_no_relay_is_a_mistake_of_configuration(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(f'relays = ["{text}"]')
    with pytest.raises(ConfigurationError, match="is no relay"):
        load_config(tmp_path, {})


async def test_an_end_on_ipv6_reaches_one_on_ipv4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada, bob = await quarter.udp(0, "::1"), await quarter.websocket(1, "127.0.0.1")
        await ada.bind()
        await bob.bind()
        await ada.send()
        assert await bob.hear() == HELLO
        await bob.send()
        assert await ada.hear() == HELLO


async def test_what_leaves_the_relay_comes_from_the_address_that_was_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sockets listen everywhere; both ends are connected to one address, and would hear nobody else."""
    config = Config(port=0, stun_port=0, listen=("0.0.0.0",), addresses=("127.0.0.1",))
    async with open_quarter(tmp_path / "s", capsys, config) as quarter:
        ada, bob = await quarter.udp(0, "127.0.0.3"), await quarter.udp(1, "127.0.0.4")
        await ada.bind()
        await bob.bind()
        await ada.send()
        assert await bob.hear() == HELLO


async def test_a_run_of_datagrams_arrives_whole_and_in_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of lengths that the kernel may join, and of such that it may not."""
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada, bob = await quarter.udp(0), await quarter.udp(1)
        await ada.bind()
        await bob.bind()
        lengths = [1400] * 70 + [900] + [1400] * 3 + [20, 1400, 21, 21, 22] + [64] * 5
        sent = [bytes((DATA_TYPE, number)) + bytes(length) for number, length in enumerate(lengths)]
        for payload in sent:
            await ada.send(payload)
        assert [await bob.hear() for _ in sent] == sent


async def test_a_stolen_grant_is_refused_by_a_real_relay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        thief = await over_udp(quarter.house, Ed25519Signer(b"t" * 32), quarter.granted[0].grant)
        answer = await thief.try_bind()
        assert isinstance(answer, Refused)
        assert answer.reason is RefusedReason.SIGNATURE


async def test_a_revoked_host_and_a_withdrawn_pair_are_forwarded_no_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada, bob = await quarter.udp(0), await quarter.udp(1)
        await ada.bind()
        await bob.bind()
        assert quarter.house.command("endpoint", "revoke", "bob") == 0
        while not isinstance(await quarter.guests[0].hear(), Withdrawn):
            pass
        for visitor in (ada, bob):
            assert await visitor.refresh() == Refreshed(())
            answer = await visitor.try_bind()
            assert isinstance(answer, Refused)
            assert answer.reason is RefusedReason.GRANT


async def test_who_was_revoked_before_the_service_started_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        assert quarter.house.command("endpoint", "revoke", "bob") == 0
    async with open_house(tmp_path / "s") as house:
        bob = await over_udp(house, quarter.guests[1].signer, quarter.granted[1].grant)
        answer = await bob.try_bind()
        assert isinstance(answer, Refused)


async def test_a_pair_has_the_same_name_at_relays_over_a_restart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        pass
    async with open_house(tmp_path / "s") as house:
        guests, old = quarter.guests, quarter.granted
        guests[0].house = house
        await guests[0].connect()
        message = await guests[0].hear()
        while not isinstance(message, Granted):
            message = await guests[0].hear()
        ada = await over_udp(house, guests[0].signer, message.grant)
        bob = await over_udp(house, guests[1].signer, old[1].grant)
        await ada.bind()
        await bob.bind()
        await bob.send()
        assert await ada.hear() == HELLO


async def test_stun_is_answered_on_the_port_of_the_relay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada = await quarter.udp(0)
        await ada.send_raw(binding_request(os.urandom(TRANSACTION_ID_BYTES)))
        assert (await ada.receive())[:2] == b"\x01\x01"


async def test_a_service_without_a_relay_names_none_and_answers_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = Config(port=0, stun_port=0, listen=("127.0.0.1", "::1"), relay=False)
    async with open_house(tmp_path / "s", config) as house:
        key = key_of(house, capsys)
        ada, bob = await house.guest(key, "ada"), await house.guest(key, "bob")
        await ada.state_intent(bob.name)
        await bob.state_intent(ada.name)
        await bob.hear()
        await bob.hear()
        await bob.state_intent("nobody.home")
        assert type(await bob.hear()).__name__ == "IntentNoted"
        assert await is_refused(house)


async def is_refused(house: House) -> bool:
    tls = await house.connect()
    await tls.send_all(UPGRADE.replace(b"/v1/channel", b"/v1/relay") + b"\r\n")
    answer = await tls.receive_some()
    await trio.aclose_forcefully(tls)
    return b" 403 " in answer


# WebSockets of strangers


async def ended(receive: Callable[[], object]) -> bool:
    with trio.fail_after(PATIENCE_S):
        try:
            while True:
                await receive()  # type: ignore[misc]
        except ConnectionClosed:
            return True


async def test_a_websocket_over_which_nothing_is_bound_is_closed_and_one_in_use_is_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("discovery.shell.relay.UNBOUND_S", 0.3)
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada = await quarter.websocket(0)
        await ada.bind()
        stranger = await open_websocket(quarter.house)
        await stranger.send_message(wrap_relayed(1, HELLO))
        assert await ended(stranger.get_message)
        assert await ada.refresh() == Refreshed((ada.channel,))


async def test_garbage_over_a_websocket_gets_no_answer_and_harms_nobody(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada = await quarter.websocket(0)
        for payload in (b"", b"\xf3", b"\xf4\x01", os.urandom(500), bytes(60_000)):
            await ada.send_raw(payload)
        await ada.bind()


async def test_a_websocket_that_ends_ends_its_binding(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada, bob = await quarter.websocket(0), await quarter.udp(1)
        await ada.bind()
        await bob.bind()
        await ada.send()
        assert await bob.hear() == HELLO
        quarter.house.streams[-1].socket.shutdown(socket.SHUT_RDWR)
        again = await quarter.websocket(0)
        await again.bind()
        await bob.send()
        assert await again.hear() == HELLO


async def test_one_source_opens_only_so_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = Config(port=0, stun_port=0, listen=("127.0.0.1", "::1"), max_channels_per_source=4)
    async with open_quarter(tmp_path / "s", capsys, config) as quarter:
        opened = [await open_websocket(quarter.house) for _ in range(4)]
        assert await is_refused(quarter.house)
        assert len(opened) == 4


async def test_a_reader_that_does_not_read_holds_up_nobody_and_gets_what_is_new(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async with open_quarter(tmp_path / "s", capsys) as quarter:
        ada, bob = await quarter.udp(0), await quarter.websocket(1)
        quarter.house.streams[-1].socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        await ada.bind()
        await bob.bind()
        sent = 16 * MAX_WAITING
        for number in range(sent):
            await ada.send(bytes((DATA_TYPE,)) + number.to_bytes(4) + bytes(1395))
            if number % 64 == 0:
                assert await ada.refresh() == Refreshed((ada.channel,))
        heard: list[int] = []
        while not heard or heard[-1] < sent - 1:
            heard.append(int.from_bytes((await bob.hear())[1:5]))
        assert heard == sorted(heard)
        assert heard[0] == 0
        assert len(heard) < sent
        assert heard[-MAX_WAITING // 2 :] == list(range(sent - MAX_WAITING // 2, sent))


async def test_nothing_that_is_encoded_for_a_relay_is_taken_for_stun() -> None:
    assert encode_relay_message(Refreshed((1,)))[0] == 0xF4
    assert wrap_relayed(1, HELLO)[0] == 0xF3
