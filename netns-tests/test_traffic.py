"""The laboratory's own traffic arrives, and its counts are right: on a plain LAN, without the product.

[ann]----[router]----[bob]
"""

from __future__ import annotations

import socket
import time

import pytest

from fabric.lab import Host, Lab, LabError, Nat, mdns
from fabric.lab.product import until
from fabric.lab.traffic import (
    ETHERTYPE_ALL,
    Pings,
    Transfer,
    frame,
    multicast_listener,
    multicast_sender,
    raw_socket,
    received,
    received_in_vlan,
    tagged_frame,
)

BROADCAST, ANN = "ff:ff:ff:ff:ff:ff", "02:00:00:00:00:01"


@pytest.fixture(scope="module")
def hosts(lab: Lab) -> tuple[Host, Host]:
    site = lab.site("plain", Nat.PORT_RESTRICTED)
    return site.host("ann"), site.host("bob")


def test_a_file_arrives_and_is_compared(hosts: tuple[Host, Host], lab: Lab) -> None:
    ann, bob = hosts
    sent = Transfer(ann, bob, bob.ip, 3_000_001, lab.directory).finish()
    assert sent.intact
    assert sent.length_bytes == 3_000_001
    assert sent.mbit_per_s > 1


def test_a_file_to_nobody_fails(hosts: tuple[Host, Host], lab: Lab) -> None:
    ann, bob = hosts
    bob.unplug()
    try:
        with pytest.raises(LabError, match="did not arrive"):
            Transfer(ann, bob, bob.ip, 1000, lab.directory).finish(1)
    finally:
        bob.plug_in()


def test_pings_count_what_was_lost_and_how_long(hosts: tuple[Host, Host]) -> None:
    ann, bob = hosts
    steady = Pings(ann, bob.ip, 0.02)
    until(lambda: len(steady.answers_unix()) > 20, "twenty answers")
    assert steady.finish().lost == 0
    assert steady.longest_gap_s() < 0.5
    torn = Pings(ann, bob.ip, 0.02)
    until(torn.answers_unix, "an answer")
    bob.unplug()
    time.sleep(1)
    bob.plug_in()
    before = len(torn.answers_unix())
    until(lambda: len(torn.answers_unix()) > before, "answers again")
    assert torn.finish().lost > 10
    assert torn.longest_gap_s() > 0.9


def test_multicast_is_heard_by_members_and_mdns_is_understood(hosts: tuple[Host, Host]) -> None:
    ann, bob = hosts
    with multicast_listener(bob, bob.ip, mdns.GROUP, mdns.PORT) as listener, multicast_sender(ann, ann.ip) as sender:
        sender.sendto(mdns.query("bob.local"), (mdns.GROUP, mdns.PORT))
        assert received(listener, mdns.query("bob.local"))
        assert not received(listener, b"anything", within_s=0.1)
    assert mdns.answered_address(mdns.answer("bob.local", "10.1.2.3"), "bob.local") == "10.1.2.3"
    assert mdns.answered_address(mdns.answer("ann.local", "10.1.2.3"), "bob.local") is None


def test_raw_frames_pass_with_and_without_a_tag(hosts: tuple[Host, Host]) -> None:
    ann, bob = hosts
    with raw_socket(ann, "eth0") as sender, raw_socket(bob, "eth0", ETHERTYPE_ALL) as listener:
        sender.send(frame(BROADCAST, ANN, b"plain"))
        assert received_in_vlan(listener, b"plain") == 0
        sender.send(tagged_frame(BROADCAST, ANN, 42, b"tagged"))
        assert received_in_vlan(listener, b"tagged") == 42
        assert received_in_vlan(listener, b"unsent", within_s=0.1) is None


def test_a_deaf_socket_hears_nothing() -> None:
    left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with left, right:
        left.send(b"something else")
        assert not received(right, b"wanted", within_s=0.1)
