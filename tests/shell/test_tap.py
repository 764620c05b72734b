"""The TAP device, in a network namespace of its own.

( nothing )----[ fabric7 ]  02:fa:64:40:00:01   100.64.0.1/10   fd00::1/64
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from typing import Any

import pytest

from fabric.errors import ConfigurationError
from fabric.shell.tap import BATCH, BATCH_BYTES, GSO_MAX_BYTES, OFFLOADS, Tap, open_tap
from fabric.wire.vnet import GSO_UDP, decode_vnet

IN_A_NAMESPACE = ["unshare", "--user", "--map-root-user", "--net"]
MAC = "02:fa:64:40:00:01"
SCRIPT = """
import ipaddress, json, os, subprocess, trio
from fabric.dataplane.contract import Drop
from fabric.shell.tap import open_tap

def shown(*words):
    return json.loads(subprocess.run(["ip", "-j", *words], capture_output=True, check=True).stdout or "[]")

mac = bytes.fromhex("02fa64400001")
addresses = [ipaddress.ip_interface("100.64.0.1/10"), ipaddress.ip_interface("fd00::1/64")]
tap = open_tap("fabric7", mac)
early = shown("addr")[-1]["address"]
for _ in range(2):
    trio.run(tap.configure, mac, 1399, addresses)
up = shown("addr", "show", "dev", "fabric7")[0]
subprocess.run(["ip", "link", "set", "dev", "fabric7", "address", "02:00:00:00:00:99"], check=True)
trio.run(tap.configure, mac, 1399, addresses)
restored = shown("link", "show", "dev", "fabric7")[0]["address"]
subprocess.run(["ping", "-c1", "-W1", "100.64.0.2"], capture_output=True)
frames = [item[10:] for item in tap.read_batch()]
asked = [f.hex() for f in frames if f[12:14] == b"\\x08\\x06"]
tap.write_batch([b"", bytes(10) + b"\\xff" * 60])
malformed = tap.drops[Drop.MALFORMED]
subprocess.run(["ip", "link", "set", "dev", "fabric7", "down"], check=True)
while tap.read_batch():
    pass
idle = tap.read_batch()
tap.write_batch([bytes(70)])
down = tap.drops[Drop.NO_PATH]
subprocess.run(["ip", "link", "del", "dev", "fabric7"], check=True)
try:
    lost = tap.read_batch() and None
except OSError as error:
    lost = error.errno
tap.close()
seen = dict(early=early, up=up, restored=restored, asked=asked, idle=len(idle))
print(json.dumps(seen | dict(malformed=malformed, down=down, lost=lost)))
"""

SUPER_FRAMES = """
import ipaddress, json, select, socket, subprocess, trio
from fabric.shell.tap import open_tap
from tests.dataplane.superframes import Stream

stream = Stream(is_udp=True, length=4500, gso_size=1000)
mac = bytes.fromhex(stream.destination_mac.replace(":", ""))
tap = open_tap("fabric8", mac)
trio.run(tap.configure, mac, 1399, [ipaddress.ip_interface("10.0.0.2/8")])
link = json.loads(subprocess.run(["ip", "-j", "-d", "link", "show", "fabric8"], capture_output=True).stdout)[0]

def received():
    sizes = []
    while select.select([near], [], [], 0.5)[0] and len(sizes) < 5:
        datagram = near.recv(9000)
        start = sum(sizes)
        assert datagram == stream.payload[start : start + len(datagram)]
        sizes.append(len(datagram))
    return sizes

near = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
near.bind(("10.0.0.2", 5000))
tap.write_batch([stream.vnet(hdr_len=stream.headers) + stream.whole()])
taken = received()
tap.write_batch([stream.vnet(hdr_len=65_535) + stream.whole()])  # a kernel refuses that
cut = received()
drops = sum(tap.drops.values())
tap.write_batch([b"\\1\\1" + bytes(80)])
subprocess.run(["ip", "neigh", "add", "10.0.0.1", "lladdr", "02:fa:0a:00:00:01", "dev", "fabric8"], check=True)
near.setsockopt(17, 103, 1000)  # UDP_SEGMENT
near.sendto(stream.payload, ("10.0.0.1", 4000))
select.select([tap.fd], [], [], 5)
sent = [item[:10].hex() for item in tap.read_batch() if stream.payload in item]
seen = dict(offloads=tap.offloads, gso=link["gso_max_size"])
print(json.dumps(seen | dict(taken=taken, cut=cut, drops=drops, wrong=sum(tap.drops.values()), sent=sent)))
"""


@pytest.fixture(scope="module")
def seen() -> dict[str, Any]:
    return run(SCRIPT)


@pytest.fixture(scope="module")
def super_frames() -> dict[str, Any]:
    return run(SUPER_FRAMES)


def run(script: str) -> dict[str, Any]:
    """Runs a program in a namespace of its own; returns what it says at the end."""
    if subprocess.run([*IN_A_NAMESPACE, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody make a namespace")
    done = subprocess.run(
        [*IN_A_NAMESPACE, sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.netns
def test_the_device_has_its_mac_from_the_first_moment(seen: dict[str, Any]) -> None:
    assert seen["early"] == seen["up"]["address"] == MAC


@pytest.mark.netns
def test_it_is_up_with_its_mtu_and_addresses_ready_to_use(seen: dict[str, Any]) -> None:
    assert "UP" in seen["up"]["flags"]
    assert seen["up"]["mtu"] == 1399
    addresses = {each["local"]: each for each in seen["up"]["addr_info"]}
    assert (addresses["100.64.0.1"]["prefixlen"], addresses["100.64.0.1"]["broadcast"]) == (10, "100.127.255.255")
    assert addresses["fd00::1"]["prefixlen"] == 64
    assert not addresses["fd00::1"].get("tentative")
    assert "fe80::fa:64ff:fe40:1" in addresses


@pytest.mark.netns
def test_configuring_again_restores_what_another_has_changed(seen: dict[str, Any]) -> None:
    assert seen["restored"] == MAC


@pytest.mark.netns
def test_frames_of_the_kernel_are_read_and_bad_ones_counted(seen: dict[str, Any]) -> None:
    request = "ffffffffffff02fa64400001" + "0806" + "0001080006040001" + "02fa64400001" + "64400001"
    assert any(frame.startswith(request) for frame in seen["asked"])
    assert seen["malformed"] == 1


@pytest.mark.netns
def test_a_device_that_is_down_counts_and_a_deleted_one_raises(seen: dict[str, Any]) -> None:
    assert (seen["idle"], seen["down"]) == (0, 1)
    assert seen["lost"] is not None


@pytest.mark.netns
def test_the_kernel_makes_super_frames_that_fit_one_send(super_frames: dict[str, Any]) -> None:
    assert super_frames["offloads"] in OFFLOADS
    assert super_frames["gso"] == GSO_MAX_BYTES


@pytest.mark.netns
def test_a_super_frame_of_the_kernel_is_read_whole(super_frames: dict[str, Any]) -> None:
    if not super_frames["offloads"] & 0x20:
        pytest.skip("this kernel cuts UDP itself")
    (vnet,) = super_frames["sent"]
    header = decode_vnet(bytes.fromhex(vnet))
    assert (header.gso_type, header.gso_size, header.csum_start, header.csum_offset) == (GSO_UDP, 1000, 34, 6)


@pytest.mark.netns
def test_a_super_frame_that_the_kernel_refuses_is_written_in_plain_frames(super_frames: dict[str, Any]) -> None:
    assert super_frames["taken"] == super_frames["cut"] == [1000, 1000, 1000, 1000, 500]
    assert (super_frames["drops"], super_frames["wrong"]) == (0, 1)


def test_a_batch_ends_at_its_bounds_and_says_that_there_may_be_more() -> None:
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    tap = Tap(near.detach(), "pair")
    with far:
        for _ in range(3):
            far.send(bytes(BATCH_BYTES // 2 + 1))
        assert (len(tap.read_batch()), tap.has_more) == (2, True)
        assert (len(tap.read_batch()), tap.has_more) == (1, False)
        for _ in range(BATCH + 1):
            far.send(bytes(70))
        assert (len(tap.read_batch()), tap.has_more) == (BATCH, True)
        assert (len(tap.read_batch()), tap.has_more) == (1, False)
    tap.close()


@pytest.mark.parametrize("name", ["", "a-name-that-is-far-too-long"])
def test_a_name_that_no_device_can_have_is_the_operators_mistake(name: str) -> None:
    with pytest.raises(ConfigurationError, match="device"):
        open_tap(name, bytes(6))
