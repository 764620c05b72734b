"""Which of the host's addresses a peer might reach."""

from __future__ import annotations

from ipaddress import ip_interface

import pytest

from fabric.shell.links import (
    HostAddress,
    Link,
    UnderlayLink,
    read_underlay,
    read_underlay_links,
    underlay,
    underlay_links,
)

UP, LOOPBACK, RUNNING, MULTICAST = 0x1, 0x8, 0x40, 0x1000
DADFAILED, DEPRECATED, TENTATIVE = 0x08, 0x20, 0x40
CARD = Link(2, "eth0", UP | RUNNING, "52:54:00:00:00:01")


def of(link: Link, *texts: str, flags: int = 0) -> list[HostAddress]:
    return [HostAddress(link.index, ip_interface(text), flags) for text in texts]


def test_addresses_of_a_card_in_use_are_taken_with_their_networks() -> None:
    addresses = of(CARD, "192.0.2.7/24", "2001:db8::7/64")
    assert underlay([CARD], addresses, "fabric0") == (ip_interface("192.0.2.7/24"), ip_interface("2001:db8::7/64"))


@pytest.mark.parametrize(
    "link",
    [
        Link(1, "lo", UP | RUNNING | LOOPBACK, "00:00:00:00:00:00"),
        Link(3, "fabric0", UP | RUNNING, "aa:bb:cc:dd:ee:ff"),
        Link(4, "other0", UP | RUNNING, "02:fa:64:40:00:09"),
        Link(5, "down0", RUNNING, "52:54:00:00:00:02"),
        Link(6, "unplugged0", UP, "52:54:00:00:00:03"),
    ],
    ids=lambda link: link.name,
)
def test_a_link_that_no_peer_is_behind_is_left_out(link: Link) -> None:
    assert underlay([CARD, link], of(link, "203.0.113.1/24"), "fabric0") == ()


@pytest.mark.parametrize("text", ["169.254.3.4/16", "fe80::1/64", "127.0.0.2/8", "::1/128"])
def test_addresses_that_go_nowhere_are_left_out(text: str) -> None:
    assert underlay([CARD], of(CARD, text), "fabric0") == ()


@pytest.mark.parametrize("flags", [DADFAILED, DEPRECATED, TENTATIVE])
def test_addresses_that_the_kernel_will_not_use_are_left_out(flags: int) -> None:
    assert underlay([CARD], of(CARD, "2001:db8::7/64", flags=flags), "fabric0") == ()


def test_an_address_without_its_link_is_left_out() -> None:
    assert underlay([], of(CARD, "192.0.2.7/24"), "fabric0") == ()


def test_links_come_with_their_own_addresses_and_only_where_there_are_some() -> None:
    wide = Link(3, "eth1", UP | RUNNING | MULTICAST, "52:54:00:00:00:02")
    bare = Link(4, "eth2", UP | RUNNING | MULTICAST, "52:54:00:00:00:03")
    addresses = [*of(wide, "198.51.100.1/24", "fe80::1/64"), *of(CARD, "192.0.2.7/24"), *of(bare, "fe80::2/64")]
    assert underlay_links([CARD, wide, bare], addresses, "fabric0") == (
        UnderlayLink(2, "eth0", False, (ip_interface("192.0.2.7/24"),)),
        UnderlayLink(3, "eth1", True, (ip_interface("198.51.100.1/24"),)),
    )


async def test_links_and_addresses_are_of_one_look() -> None:
    links = await read_underlay_links("fabric0")
    assert {address for link in links for address in link.addresses} == set(await read_underlay("fabric0"))


async def test_the_kernel_is_asked_and_understood() -> None:
    for interface in await read_underlay("fabric0"):
        assert not interface.ip.is_loopback
        assert not interface.ip.is_link_local
        assert interface.network.prefixlen > 0
