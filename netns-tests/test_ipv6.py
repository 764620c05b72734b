"""IPv6 is used wherever both have it, through stateful firewalls, and joined with IPv4 by a relay where only one has.

            ( internet, both families )----[discovery, relay: both families]
        |           |            |            |            |            |
    symmetric   symmetric     IPv6 only    IPv6 only    IPv4 only   symmetric    and a second of the last
     + IPv6      + IPv6          |            |            |        + IPv6,
        |           |            |            |            |        no UDP
        |           |            |            |            |            |
      amy          ben          cat          dov          eli          flo, gil

Every router lets out and answers in, in both families; IPv4 is translated, IPv6 is not.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from fabric.lab import Endpoint, Lab, Nat, Overlay, Site
from fabric.lab.overlay import await_path, await_reach, describe, introduce
from fabric.lab.product import until
from fabric.lab.traffic import Transfer

FILE_BYTES = 2_000_000
FALL_BACK_WITHIN_S = 15.0

pytestmark = pytest.mark.timeout(150)


@pytest.fixture(scope="module")
def overlay(lab: Lab) -> Overlay:
    host = lab.site("s-discovery", Nat.PUBLIC, ipv6=True).host("discovery")
    assert host.address_6 is not None
    return Overlay(lab, host=host, addresses=(host.ip, str(host.address_6.ip)))


@pytest.fixture(scope="module")
def people(lab: Lab, overlay: Overlay) -> dict[str, Endpoint]:
    return overlay.endpoints(
        {
            "amy": lab.site("s-amy", Nat.SYMMETRIC, ipv6=True),
            "ben": lab.site("s-ben", Nat.SYMMETRIC, ipv6=True),
            "cat": lab.site("s-cat", Nat.FIREWALL, ipv4=False, ipv6=True),
            "dov": lab.site("s-dov", Nat.FIREWALL, ipv4=False, ipv6=True),
            "eli": lab.site("s-eli", Nat.PORT_RESTRICTED),
            "flo": without_udp(lab.site("s-flo", Nat.SYMMETRIC, ipv6=True)),
            "gil": without_udp(lab.site("s-gil", Nat.SYMMETRIC, ipv6=True)),
            "hue": lab.site("s-hue", Nat.PORT_RESTRICTED, ipv6=True),
            "ivy": lab.site("s-ivy", Nat.PORT_RESTRICTED, ipv6=True),
        }
    )


def without_udp(site: Site) -> Site:
    site.block_udp()
    return site


def remote_ip(here: Endpoint, there: Endpoint) -> str:
    peer = here.peer(there.name)
    assert peer is not None
    assert peer["path"] is not None
    return str(peer["path"]["remote"]).rpartition(":")[0].strip("[]")


def assert_over_ipv6(one: Endpoint, other: Endpoint, kind: str = "direct-udp") -> None:
    """Both ends send straight to the other's own global address."""
    await_path(one, other, kind)
    for here, there in ((one, other), (other, one)):
        assert there.host.address_6 is not None
        assert remote_ip(here, there) == str(there.host.address_6.ip), describe(one, other)
    assert one.reaches(other.overlay_ip(), count=2)
    assert other.reaches(one.overlay_ip_6(), count=2)


@pytest.mark.parametrize(
    ("one", "other", "why"),
    [
        ("amy", "ben", "two symmetric IPv4 NATs would need a relay"),
        ("cat", "dov", "they have nothing else"),
        ("amy", "cat", "one has nothing else"),
        ("hue", "ivy", "it is better than an IPv4 path, which there is too"),
    ],
)
def test_two_who_have_ipv6_use_it(people: dict[str, Endpoint], one: str, other: str, why: str) -> None:
    introduce(people[one], people[other])
    assert_over_ipv6(people[one], people[other])


def test_tcp_opens_over_ipv6_where_udp_is_blocked(people: dict[str, Endpoint]) -> None:
    introduce(people["flo"], people["gil"])
    assert_over_ipv6(people["flo"], people["gil"], "direct-tcp")


def test_ipv6_alone_and_ipv4_alone_meet_at_a_relay(people: dict[str, Endpoint], lab: Lab) -> None:
    cat, eli = people["cat"], people["eli"]
    introduce(cat, eli)
    await_path(cat, eli, "relay-udp")
    assert ":" in remote_ip(cat, eli)
    assert ":" not in remote_ip(eli, cat)
    sent = Transfer(cat.host, eli.host, eli.overlay_ip(), FILE_BYTES, lab.directory).finish()
    assert sent.intact


def test_ipv6_that_dies_in_silence_gives_way_to_ipv4_and_comes_back(
    people: dict[str, Endpoint], figure: Callable[[str], None]
) -> None:
    """The hosts keep their addresses and routes, so that nothing but silence tells."""
    hue, ivy = people["hue"], people["ivy"]
    introduce(hue, ivy)
    assert_over_ipv6(hue, ivy)
    site = hue.host.site
    site.block_ipv6()
    gap_s = await_reach(hue, ivy, FALL_BACK_WITHIN_S)
    await_path(hue, ivy, "direct-udp")
    assert ":" not in remote_ip(hue, ivy)
    site.pass_ipv6()
    back_s = await_path_over_ipv6(hue, ivy)
    figure(f"IPv6: blocked: over IPv4 after {gap_s:.1f} s; free again: back on it after {back_s:.1f} s")


def await_path_over_ipv6(one: Endpoint, other: Endpoint) -> float:
    started = time.monotonic()
    until(lambda: ":" in remote_ip(one, other), "a path over IPv6", 90)
    return time.monotonic() - started


def test_a_network_with_a_new_prefix_keeps_the_connection(people: dict[str, Endpoint], lab: Lab) -> None:
    dov = people["dov"]
    introduce(people["cat"], dov)
    assert_over_ipv6(people["cat"], dov)
    dov.host.move(lab.site("six-cafe", Nat.FIREWALL, ipv4=False, ipv6=True))
    await_reach(people["cat"], dov, 10)
    assert_over_ipv6(people["cat"], dov)
