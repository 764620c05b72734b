"""Names, fingerprints, safety numbers and what follows from an overlay address."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fabric.errors import DecodeError
from fabric.identity.fingerprint import fingerprint_of, parse_fingerprint, safety_number
from fabric.identity.name import network_of, parse_name, parse_network, system_of
from fabric.identity.overlay import ipv6_of, mac_of, ula_prefix


@pytest.mark.parametrize(
    ("text", "network", "name"),
    [
        ("web-1", "home", "web-1.home"),
        ("web-1.home", "home", "web-1.home"),
        ("web-1.home", None, "web-1.home"),
        ("a.lab.example.org", "lab.example.org", "a.lab.example.org"),
        ("9", "home", "9.home"),
        ("a" * 63, "b" * 63, "a" * 63 + "." + "b" * 63),
    ],
)
def test_a_name_is_completed_with_the_network(text: str, network: str | None, name: str) -> None:
    assert parse_name(text, network) == name
    assert system_of(name) + "." + network_of(name) == name


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("web-1", None),
        ("web-1.work", "home"),
        ("", "home"),
        (".home", "home"),
        ("web-1.", "home"),
        ("web-1.", None),
        ("Web-1", "home"),
        ("-web", "home"),
        ("web-", "home"),
        ("web_1", "home"),
        ("wéb", "home"),
        ("web 1", "home"),
        ("web-1\n", "home"),
        ("a" * 64, "home"),
        ("web-1", "b" * 64),
        ("1.2.3.4", None),
        ("a..b", None),
    ],
)
def test_what_is_no_name_is_refused(text: str, network: str | None) -> None:
    with pytest.raises(DecodeError):
        parse_name(text, network)


@given(st.text(max_size=80))
def test_any_text_is_a_name_or_a_decode_error_fit_to_print(text: str) -> None:
    try:
        name = parse_name(text, "home")
    except DecodeError as error:
        name = str(error)
    assert name.isprintable()


def test_an_address_is_no_network() -> None:
    assert parse_network("4.lab") == "4.lab"
    with pytest.raises(DecodeError):
        parse_network("10.0.0.1")


def test_a_fingerprint_is_read_as_people_type_it() -> None:
    printed = fingerprint_of(b"k" * 32)
    assert len(printed.split("-")) == 8
    for typed in (printed, printed.upper(), printed.replace("-", ""), f"  {printed.replace('-', ' ')}\n"):
        assert parse_fingerprint(typed) == printed
    for bad in ("", printed[:-1], printed + "a", printed.replace(printed[0], "1")):
        with pytest.raises(DecodeError):
            parse_fingerprint(bad)
    assert fingerprint_of(b"K" * 32) != printed


def test_a_safety_number_is_the_same_from_both_ends_and_another_for_others() -> None:
    number = safety_number("home", b"a" * 32, b"b" * 32)
    assert number == safety_number("home", b"b" * 32, b"a" * 32)
    assert len(number.replace(" ", "")) == 30
    assert number.replace(" ", "").isdigit()
    assert len({number, safety_number("work", b"a" * 32, b"b" * 32), safety_number("home", b"a" * 32, b"c" * 32)}) == 3


def test_mac_and_ipv6_follow_from_the_ipv4() -> None:
    ipv4 = IPv4Address("100.64.1.2")
    assert mac_of(ipv4).hex(":") == "02:fa:64:40:01:02"
    prefix = ula_prefix(bytes(32))
    assert prefix.prefixlen == 64
    assert prefix.subnet_of(IPv6Network("fd00::/8"))
    assert ipv6_of(prefix, ipv4) in prefix
    assert ipv6_of(IPv6Network("fd00:1:2:3::/64"), ipv4) == IPv6Address("fd00:1:2:3::6440:102")
    assert ula_prefix(b"\1" * 32) != prefix
