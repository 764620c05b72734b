"""One network namespace: made, entered, furnished with devices, addresses and routes, and taken down again.

It is held by a bind mount under /run/netns, so `ip netns exec NAME ...` works on it. Work inside is done by a thread
that enters it and ends: a socket stays in the namespace that it was made in, and a child process starts in that of
the thread that forks it, so neither needs a process of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from typing import Any, TypeVar

from pyroute2 import IPRoute, NFCTSocket  # type: ignore[import-untyped]

from fabric.errors import FabricError
from fabric.lab import kernel

NAMED = Path("/run/netns")
IFA_F_NODAD = 0x02
SEARCH_PATH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin:/usr/bin:/bin"

T = TypeVar("T")
AnyInterface = IPv4Interface | IPv6Interface
AnyNetwork = IPv4Network | IPv6Network


class LabError(FabricError):
    """The laboratory could not be built, or something is left of it."""


@dataclass(frozen=True, slots=True)
class Counters:
    """What passed a device since it was made, as the kernel counts it."""

    rx_bytes: int
    tx_bytes: int
    rx_packets: int
    tx_packets: int

    def since(self, earlier: Counters) -> Counters:
        return Counters(
            self.rx_bytes - earlier.rx_bytes,
            self.tx_bytes - earlier.tx_bytes,
            self.rx_packets - earlier.rx_packets,
            self.tx_packets - earlier.tx_packets,
        )

    @property
    def bytes(self) -> int:
        """Both directions together."""
        return self.rx_bytes + self.tx_bytes


class Namespace:
    """A network namespace of the given name. `OSError` where the kernel does not allow one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.path = NAMED / name
        self.path.touch(exist_ok=False)
        try:
            in_thread(self._create)
            self._descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            self.path.unlink()
            raise
        self._destroyed = False
        self._settle()

    def _create(self) -> None:
        kernel.enter_new_network()
        kernel.bind_mount(Path("/proc/thread-self/ns/net"), self.path)

    def _settle(self) -> None:
        """Loopback up; bridges that do not pass through the packet filter; IPv6 addresses usable at once."""
        self.set_up("lo")
        for protocol in ("iptables", "ip6tables", "arptables"):
            self.sysctl(f"net/bridge/bridge-nf-call-{protocol}", 0, must=False)
        for which in ("all", "default"):
            self.sysctl(f"net/ipv6/conf/{which}/accept_dad", 0, must=False)
            self.sysctl(f"net/ipv6/conf/{which}/keep_addr_on_down", 1, must=False)

    def inside(self, act: Callable[[], T]) -> T:
        """Does `act` in a thread that stands in this namespace, and returns what it returns."""

        def enter_and_act() -> T:
            kernel.enter_network(self._descriptor)
            return act()

        return in_thread(enter_and_act)

    def netlink(self, act: Callable[[Any], T]) -> T:
        """Does `act` with a pyroute2 `IPRoute` of this namespace."""

        def with_socket() -> T:
            with IPRoute() as route:
                return act(route)

        return self.inside(with_socket)

    # -- devices ------------------------------------------------------------------------------------------------

    def connect(self, device: str, other: Namespace, other_device: str, mtu: int = 1500) -> None:
        """Joins the two namespaces by a virtual cable, both ends up."""
        peer = {"ifname": other_device, "net_ns_fd": other._descriptor, "mtu": mtu}
        self.netlink(lambda route: route.link("add", ifname=device, kind="veth", peer=peer, mtu=mtu))
        self.set_up(device)
        other.set_up(other_device)

    def add_bridge(self, device: str) -> None:
        """Makes a learning bridge without spanning tree, up."""
        self.netlink(lambda route: route.link("add", ifname=device, kind="bridge"))
        self.set_up(device)

    def enslave(self, device: str, bridge: str) -> None:
        def act(route: Any) -> None:
            route.link("set", index=_index(route, device), master=_index(route, bridge))

        self.netlink(act)

    def remove_device(self, device: str) -> None:
        self.netlink(lambda route: route.link("del", index=_index(route, device)))

    def set_up(self, device: str) -> None:
        self.netlink(lambda route: route.link("set", index=_index(route, device), state="up"))

    def set_down(self, device: str) -> None:
        self.netlink(lambda route: route.link("set", index=_index(route, device), state="down"))

    def set_mtu(self, device: str, mtu: int) -> None:
        self.netlink(lambda route: route.link("set", index=_index(route, device), mtu=mtu))

    def stop_offloads(self, device: str) -> None:
        """Makes a device do what a cable needs itself: whole checksums, and no packet longer than its MTU."""
        self.inside(lambda: kernel.stop_offloads(device))

    def has_device(self, device: str) -> bool:
        return bool(self.netlink(lambda route: route.link_lookup(ifname=device)))

    def counters(self, device: str) -> Counters:
        def act(route: Any) -> Counters:
            (link,) = route.get_links(_index(route, device))
            stats = link.get_attr("IFLA_STATS64")
            return Counters(stats["rx_bytes"], stats["tx_bytes"], stats["rx_packets"], stats["tx_packets"])

        return self.netlink(act)

    def checksum_errors(self) -> int:
        """How many TCP segments and UDP datagrams came here with a wrong checksum."""

        def read() -> int:
            lines = [line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines()]
            tables = [dict(zip(*pair, strict=True)) for pair in zip(lines[::2], lines[1::2], strict=True)]
            more = dict(line.split() for line in Path("/proc/thread-self/net/snmp6").read_text().splitlines())
            counts = [table["InCsumErrors"] for table in tables if table.keys() & {"Tcp:", "Udp:"}]
            return sum(map(int, [*counts, more.get("Udp6InCsumErrors", 0)]))

        return self.inside(read)

    # -- addresses and routes -----------------------------------------------------------------------------------

    def add_address(self, device: str, address: AnyInterface) -> None:
        def act(route: Any) -> None:
            flags = IFA_F_NODAD if address.version == 6 else 0
            where = {"index": _index(route, device), "address": str(address.ip), "prefixlen": address.network.prefixlen}
            route.addr("add", **where, flags=flags)

        self.netlink(act)

    def remove_address(self, device: str, address: AnyInterface) -> None:
        def act(route: Any) -> None:
            length = address.network.prefixlen
            route.addr("del", index=_index(route, device), address=str(address.ip), prefixlen=length)

        self.netlink(act)

    def add_route(self, to: AnyNetwork, via: AnyInterface, *, metric: int | None = None) -> None:
        """Routes `to` over the gateway `via`; replaces a route of that metric that is there. The lowest one counts."""
        more = {} if metric is None else {"priority": metric}
        self.netlink(lambda route: route.route("replace", dst=str(to), gateway=str(via.ip), **more))

    def route_from(self, source: AnyInterface, via: AnyInterface, table: int) -> None:
        """What has the address `source` leaves over the gateway `via`, whatever the other routes say."""

        def act(route: Any) -> None:
            everywhere = "0.0.0.0/0" if source.version == 4 else "::/0"
            route.route("replace", dst=everywhere, gateway=str(via.ip), table=table)
            family = socket.AF_INET if source.version == 4 else socket.AF_INET6
            route.rule("add", src=str(source.ip), src_len=source.max_prefixlen, table=table, family=family)

        self.netlink(act)

    def add_black_hole(self, to: AnyNetwork) -> None:
        """Drops in silence what goes to `to` and has no better route."""
        self.netlink(lambda route: route.route("add", dst=str(to), type="blackhole"))

    # -- packet filter and settings -----------------------------------------------------------------------------

    def load_rules(self, rules: str) -> None:
        """Replaces the whole packet filter by the nftables text `rules`, learned maps included."""
        self.add_rules("flush ruleset\n" + rules)

    def add_rules(self, rules: str) -> None:
        """Does what the nftables text `rules` says, and leaves alone what it does not name."""
        done = self.inside(
            lambda: subprocess.run(
                ["nft", "-f", "-"], input=rules, text=True, capture_output=True, check=False, env={"PATH": SEARCH_PATH}
            )
        )
        if done.returncode != 0:
            raise LabError(f"nft refused the rules of {self.name}: {done.stderr.strip()}")

    def forget_connections(self) -> None:
        """Flushes connection tracking: what a NAT forgets when it loses power."""

        def act() -> None:
            with NFCTSocket() as tracking:
                tracking.flush()

        self.inside(act)

    def sysctl(self, key: str, value: int, *, must: bool = True) -> None:
        """Sets `key` (with slashes) below /proc/sys; without `must`, lets it be where the kernel has no such key."""

        def act() -> None:
            Path("/proc/sys", key).write_text(str(value))

        with contextlib.nullcontext() if must else contextlib.suppress(OSError):
            self.inside(act)

    # -- the end ------------------------------------------------------------------------------------------------

    def processes(self) -> list[int]:
        """The ids of all processes that stand in this namespace now."""
        return processes_in(self.path)

    def destroy(self) -> None:
        """Ends every process that stands inside, then lets go of the namespace; the kernel takes its devices."""
        if self._destroyed:
            return
        self._destroyed = True
        os.close(self._descriptor)
        destroy_named(self.path)


def _index(route: Any, device: str) -> int:
    found = route.link_lookup(ifname=device)
    if not found:
        raise LabError(f"there is no device {device} here")
    return int(found[0])


def in_thread(act: Callable[[], T]) -> T:
    """Does `act` in a thread made for it, and returns or raises what it does."""
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(act())
        except BaseException as error:
            outcome.set_exception(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    return outcome.result()


def processes_in(path: Path) -> list[int]:
    """The ids of all processes whose network namespace is the one that is mounted on `path`."""
    with contextlib.suppress(FileNotFoundError):
        wanted = path.stat()
        return [pid for pid in _all_processes() if _network_of(pid) == (wanted.st_dev, wanted.st_ino)]
    return []


def _all_processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _network_of(pid: int) -> tuple[int, int] | None:
    with contextlib.suppress(OSError):
        status = Path(f"/proc/{pid}/ns/net").stat()
        return status.st_dev, status.st_ino
    return None


def destroy_named(path: Path, patience_s: float = 5.0) -> None:
    """Ends the processes inside the namespace mounted on `path`, unmounts it and removes its name."""
    deadline = time.monotonic() + patience_s
    sent = signal.SIGTERM
    while (inside := processes_in(path)) and time.monotonic() < deadline:
        for pid in inside:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, sent)
                os.kill(pid, signal.SIGCONT)
        time.sleep(0.05)
        sent = signal.SIGTERM if time.monotonic() < deadline - patience_s / 2 else signal.SIGKILL
    with contextlib.suppress(OSError):
        kernel.unmount(path)
    path.unlink(missing_ok=True)
