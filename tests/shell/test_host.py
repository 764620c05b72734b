"""Names of hosts and places that somebody else has made up."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.shell.host import check_host, split_host
from fabric.shell.proxy import DIRECT
from fabric.shell.stun import StunNames
from fabric.wire.address import Address

STRANGE_HOSTS = ["", "a..b", ".example", "a" * 64 + ".example", "a\0b", "a\nb", "\udcff"]


def test_hosts_are_split_from_ports() -> None:
    assert split_host("example.net:443") == ("example.net", 443)
    assert split_host("[2001:db8::1]:3478") == ("2001:db8::1", 3478)


@pytest.mark.parametrize("text", ["", "x", "x:", "x:0", "x:65536", "x:-1", "x:\xb2", "x:9999999999", ":1", "a..b:1"])
def test_what_is_no_place_is_a_decode_error(text: str) -> None:
    with pytest.raises(DecodeError):
        split_host(text)


@given(st.text(max_size=80))
def test_no_text_is_anything_worse(text: str) -> None:
    for read in (check_host, split_host):
        try:
            read(text)
        except DecodeError:
            continue


@pytest.mark.parametrize("host", STRANGE_HOSTS)
async def test_connecting_to_a_host_that_cannot_be_is_an_error_of_the_network(host: str) -> None:
    """Which every caller bears: the service names relays, and may name anything."""
    with pytest.raises(OSError, match="no name of a host"):
        await DIRECT.connect(host, 443)


async def test_a_stun_server_with_an_impossible_name_hides_no_other(nursery: trio.Nursery) -> None:
    found: list[Address] = []
    names = [f"{host}:3478" for host in STRANGE_HOSTS] + ["no port", "192.0.2.1:99999", "192.0.2.1:3478"]
    nursery.start_soon(StunNames(names, found.extend).run)
    with trio.fail_after(10):
        while not found:
            await trio.testing.wait_all_tasks_blocked(0.001)
    assert found == [Address("192.0.2.1", 3478)]
    nursery.cancel_scope.cancel()
