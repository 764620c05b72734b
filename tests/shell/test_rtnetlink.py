"""rtnetlink's bytes, and what the kernel answers to them."""

from __future__ import annotations

import errno
import struct

import pytest

from fabric.shell import rtnetlink
from fabric.shell.rtnetlink import LINK, Message


def test_a_request_says_how_long_it_is() -> None:
    assert rtnetlink.request(18, b"body", 0x300) == struct.pack("=IHHII", 20, 18, 0x301, 1, 0) + b"body"


@pytest.mark.parametrize("length", range(9))
def test_attributes_begin_at_multiples_of_four_and_come_back_as_they_were(length: int) -> None:
    value = bytes(range(length))
    packed = rtnetlink.attribute(1, value) + rtnetlink.attribute(2, b"next")
    assert len(rtnetlink.attribute(1, value)) % 4 == 0
    assert rtnetlink.attributes(bytes(LINK.size) + packed, LINK) == {1: value, 2: b"next"}


def test_the_flags_of_an_attribute_are_not_its_kind() -> None:
    """NLA_F_NESTED and NLA_F_NET_BYTEORDER are the two highest bits."""
    body = bytes(LINK.size) + rtnetlink.attribute(0x8000 | 26, b"nest")
    assert rtnetlink.attributes(body, LINK) == {26: b"nest"}


def test_a_read_has_several_messages() -> None:
    one, two = rtnetlink.request(16, b"12345"), rtnetlink.request(3, b"")
    assert list(rtnetlink.messages(one + bytes(-len(one) % 4) + two)) == [Message(16, b"12345"), Message(3, b"")]


@pytest.mark.parametrize("kind", [2, 3])
def test_an_error_and_an_end_close_an_answer(kind: int) -> None:
    assert Message(kind, b"").is_last
    assert not Message(16, b"").is_last


def test_what_is_cut_off_or_of_no_length_ends_the_reading() -> None:
    for length in (0, 1, 15, 16, 17, 1 << 31):
        list(rtnetlink.messages(struct.pack("=IHHII", length, 16, 0, 1, 0)))
        rtnetlink.attributes(bytes(LINK.size) + struct.pack("=HH", length & 0xFFFF, 1), LINK)


def test_a_number_is_one_of_four_bytes_in_the_hosts_order() -> None:
    assert rtnetlink.number(struct.pack("=I", 0xC0000205)) == 0xC0000205
    assert rtnetlink.number(None) is None


def test_the_kernel_refuses_with_its_own_reason() -> None:
    with rtnetlink.open_netlink() as netlink, pytest.raises(OSError, match=r"^\[Errno") as raised:
        rtnetlink.set_link(netlink, 1 << 30, mac=bytes(6), mtu=1400)
    assert raised.value.errno in (errno.ENODEV, errno.EPERM)


def test_a_socket_for_news_hears_of_its_groups() -> None:
    with rtnetlink.open_netlink(rtnetlink.RTMGRP_LINK | rtnetlink.RTMGRP_IPV4_IFADDR) as news:
        assert news.getsockname()[1] == rtnetlink.RTMGRP_LINK | rtnetlink.RTMGRP_IPV4_IFADDR
