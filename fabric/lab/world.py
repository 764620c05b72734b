"""The laboratory: one internet, sites behind routers, hosts at the sites.

                     internet (a router with no way out; private addresses are black holes)
          5.0.1.1/28 |             | 5.0.2.1/28             | 5.0.3.1/28
                 wan |         wan |                    wan |
          5.0.1.2 [router]  5.0.2.2 [router]       5.0.3.2 [carrier] 100.64.3.1/24
             (public) |        (NAT) |                          | wan 100.64.3.2
        5.1.1.1/24  lan 192.168.2.1/24  lan                  [router]
                      |              |                          | lan 192.168.3.1/24
                 eth0 |         eth0 |                     eth0 |
             5.1.1.10 [host]      .10 [host]                .10 [host]

Public addresses are ordinary global ones (5.0.0.0/8, 2a00:5::/32), because programs treat documentation ranges as
private; none of these namespaces is connected to anything real. Host number n of a site has .9+n. Closing the
laboratory ends what runs in it, takes it down, and raises LabError if any of it is left.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network
from pathlib import Path
from types import TracebackType
from typing import NoReturn

from fabric.lab import kernel
from fabric.lab import nat as nat_rules
from fabric.lab.namespace import NAMED, SEARCH_PATH, Counters, LabError, Namespace, destroy_named, processes_in
from fabric.lab.nat import Nat
from fabric.lab.program import Finished, Program, run

PREFIX = "fab-"
UNSHARED = "FABRIC_LAB_UNSHARED"
PRIVATE = [IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]
EVERYWHERE_4 = IPv4Network("0.0.0.0/0")
EVERYWHERE_6 = IPv6Network("::/0")
DEFAULT_MAPPING_S = 120
FIRST_HOST = 10


def why_not() -> str | None:
    """None where a laboratory can be built; else one sentence: what is missing, and what to do about it."""
    if shutil.which("nft", path=SEARCH_PATH) is None:
        return "nft is not installed: apt-get install nftables"
    if os.geteuid() != 0:
        return "network namespaces need root, or user namespaces: run as root, or under `unshare -Urnm`"
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return (
            f"/dev/net/tun cannot be opened ({error.strerror}): modprobe tun, chmod 0666 /dev/net/tun, or run as root"
        )
    try:
        _prepare_names()
        Namespace(f"{PREFIX}{os.getpid()}-try").destroy()
    except OSError as error:
        return f"the kernel refuses a network namespace ({error}): run as root, or allow user namespaces"
    return None


def become_able(arguments: Sequence[str]) -> None:
    """Returns if we are root; else starts `arguments` again inside namespaces of our own, where we are."""
    if os.geteuid() != 0 and UNSHARED not in os.environ:
        _unshare(arguments)


def _unshare(arguments: Sequence[str]) -> NoReturn:
    program = shutil.which("unshare", path=SEARCH_PATH)
    if program is None:
        raise LabError("unshare is not installed: apt-get install util-linux, or run as root")
    sys.stdout.flush()
    os.execve(program, ["unshare", "-Urnm", "--", *arguments], {**os.environ, UNSHARED: "1"})  # noqa: S606


def _prepare_names() -> None:
    """Makes sure that names can be made under /run/netns: inside `unshare -Urnm`, on a tmpfs of our own."""
    with contextlib.suppress(OSError):
        NAMED.mkdir(mode=0o755, exist_ok=True)
    if os.access(NAMED, os.W_OK):
        return
    if not NAMED.is_dir():
        kernel.mount_tmpfs(NAMED.parent)
        NAMED.mkdir(mode=0o755)
    else:
        kernel.mount_tmpfs(NAMED)


class Host:
    """A machine at a site: one device `eth0`, one IPv4 (and, where the site has it, IPv6) address, one gateway."""

    def __init__(self, lab: Lab, name: str, site: Site, number: int | None) -> None:
        self.name = name
        self.namespace = lab.namespace(name)
        self._lab = lab
        self._plug_into(site, number)

    def _plug_into(self, site: Site, number: int | None) -> None:
        self.site = site
        self.address, self.address_6 = site.next_addresses(number)
        port = f"p-{self.name}"[:15]
        site.router.connect(port, self.namespace, "eth0")
        site.router.enslave(port, "lan")
        self.namespace.add_address("eth0", self.address)
        self.namespace.add_route(EVERYWHERE_4, site.gateway)
        if self.address_6 is not None and site.gateway_6 is not None:
            self.namespace.add_address("eth0", self.address_6)
            self.namespace.add_route(EVERYWHERE_6, site.gateway_6)

    @property
    def ip(self) -> str:
        return str(self.address.ip)

    def move(self, to: Site, number: int | None = None) -> None:
        """Pulls the cable here and plugs it in at another site, with an address of that site: roaming."""
        self.namespace.remove_device("eth0")
        self._plug_into(to, number)

    def unplug(self) -> None:
        self.namespace.set_down("eth0")

    def plug_in(self) -> None:
        self.namespace.set_up("eth0")
        self.namespace.add_route(EVERYWHERE_4, self.site.gateway)
        if self.site.gateway_6 is not None:
            self.namespace.add_route(EVERYWHERE_6, self.site.gateway_6)

    def run(
        self,
        *arguments: str,
        timeout_s: float = 30.0,
        environment: Mapping[str, str] | None = None,
        feed: str | None = None,
    ) -> Finished:
        """Runs a program here to its end."""
        return run(self.namespace, arguments, timeout_s=timeout_s, environment=environment, feed=feed)

    def start(self, *arguments: str, log: str, environment: Mapping[str, str] | None = None) -> Program:
        """Starts a program here; its output goes to `log` in the laboratory's directory."""
        return self._lab.start(self.namespace, arguments, log, environment)


class Site:
    """A router with hosts behind it."""

    def __init__(self, lab: Lab, name: str, kind: Nat, *, number: int, lan: IPv4Network, ipv6: bool) -> None:
        self.name, self.kind, self.number, self.lan = name, kind, number, lan
        self.gateway = IPv4Interface((lan[1], lan.prefixlen))
        self.wan = IPv4Interface(f"5.0.{number}.2/28")
        self.lan_6 = IPv6Network(f"2a00:5:{number:x}::/64") if ipv6 else None
        self.gateway_6 = IPv6Interface((self.lan_6[1], 64)) if self.lan_6 is not None else None
        self._lab = lab
        self._hosts = 0
        self._mapping_s = DEFAULT_MAPPING_S
        self.carrier = self._make_carrier() if kind is Nat.CARRIER else None
        self.router = self._make_router()
        self.outermost = self.carrier or self.router
        self._load_rules()

    # -- building -----------------------------------------------------------------------------------------------

    def _make_router(self) -> Namespace:
        router = self._lab.router(f"{self.name}-router")
        router.add_bridge("lan")
        router.add_address("lan", self.gateway)
        if self.carrier is None:
            self._wire_to_internet(router)
        else:
            inner = IPv4Interface(f"100.64.{self.number}.2/24")
            self.carrier.connect("lan", router, "wan")
            self.carrier.add_address("lan", IPv4Interface((inner.network[1], 24)))
            router.add_address("wan", inner)
            router.add_route(EVERYWHERE_4, IPv4Interface((inner.network[1], 24)))
        return router

    def _make_carrier(self) -> Namespace:
        carrier = self._lab.router(f"{self.name}-carrier")
        self._wire_to_internet(carrier)
        return carrier

    def _wire_to_internet(self, router: Namespace) -> None:
        internet = self._lab.internet
        internet.connect(self.upstream_device, router, "wan")
        internet.add_address(self.upstream_device, self._upstream)
        router.add_address("wan", self.wan)
        router.add_route(EVERYWHERE_4, self._upstream)
        if not self.kind.translates:
            internet.add_route(self.lan, self.wan)
        if self.lan_6 is not None and self.gateway_6 is not None:
            near, far = (IPv6Interface(f"2a00:5:ffff:{self.number:x}::{end}/64") for end in (1, 2))
            internet.add_address(self.upstream_device, near)
            internet.add_route(self.lan_6, far)
            router.add_address("wan", far)
            router.add_route(EVERYWHERE_6, near)
            router.add_address("lan", self.gateway_6)

    @property
    def upstream_device(self) -> str:
        """The internet's device towards this site."""
        return f"to-{self.name}"[:15]

    @property
    def _upstream(self) -> IPv4Interface:
        return IPv4Interface((self.wan.network[1], self.wan.network.prefixlen))

    def _load_rules(self) -> None:
        for router in self._routers():
            router.load_rules(nat_rules.rules(self.kind, self.wan.ip, self._mapping_s))

    def _routers(self) -> list[Namespace]:
        return [self.router] if self.carrier is None else [self.carrier, self.router]

    def next_addresses(self, number: int | None) -> tuple[IPv4Interface, IPv6Interface | None]:
        if number is None:
            number, self._hosts = FIRST_HOST + self._hosts, self._hosts + 1
        address_6 = IPv6Interface((self.lan_6[number], 64)) if self.lan_6 is not None else None
        return IPv4Interface((self.lan[number], self.lan.prefixlen)), address_6

    def host(self, name: str, number: int | None = None) -> Host:
        """Adds a host to this site, at the next free address or at the one of that number."""
        return self._lab.host(name, self, number)

    # -- what happens to routers --------------------------------------------------------------------------------

    def shorten_mappings(self, lifetime_s: int) -> None:
        """From now on an idle UDP mapping is forgotten after `lifetime_s`. Forgets those that stand."""
        self._mapping_s = lifetime_s
        for router in self._routers():
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout", lifetime_s)
            router.sysctl("net/netfilter/nf_conntrack_udp_timeout_stream", lifetime_s)
        self.reboot()

    def reboot(self) -> None:
        """Power lost and back: every mapping and every remembered connection is gone."""
        self._load_rules()
        for router in self._routers():
            router.forget_connections()

    def renumber(self) -> IPv4Address:
        """The provider hands out another address; the router restarts with it. Returns the new address."""
        old, new = self.wan, IPv4Interface((self.wan.ip + 1, self.wan.network.prefixlen))
        self.outermost.remove_address("wan", old)
        self.outermost.add_address("wan", new)
        self.wan = new
        self.outermost.add_route(EVERYWHERE_4, self._upstream)
        if not self.kind.translates:
            self._lab.internet.add_route(self.lan, new)
        self.reboot()
        return new.ip

    def unplug(self) -> None:
        """The line to the internet goes dead."""
        self._lab.internet.set_down(self.upstream_device)

    def plug_in(self) -> None:
        self._lab.internet.set_up(self.upstream_device)
        if not self.kind.translates:
            self._lab.internet.add_route(self.lan, self.wan)

    def wan_counters(self) -> Counters:
        """What went over the line between this site and the internet."""
        return self.outermost.counters("wan")


class Lab:
    """The internet and everything on it. A context manager; `name` becomes part of the namespaces' names."""

    def __init__(self, name: str | None = None) -> None:
        reason = why_not()
        if reason is not None:
            raise LabError(reason)
        reap_abandoned()
        self.prefix = f"{PREFIX}{name or os.getpid()}-"
        self.directory = Path(tempfile.mkdtemp(prefix=self.prefix, dir="/tmp"))
        self._namespaces: list[Namespace] = []
        self._programs: list[Program] = []
        self._sites = 0
        self.hosts: dict[str, Host] = {}
        self.sites: dict[str, Site] = {}
        try:
            self.internet = self._make_internet()
        except BaseException:
            self.close()
            raise

    def _make_internet(self) -> Namespace:
        internet = self.router("internet")
        for network in PRIVATE:
            internet.add_black_hole(network)
        return internet

    def namespace(self, name: str) -> Namespace:
        made = Namespace(self.prefix + name)
        self._namespaces.append(made)
        return made

    def router(self, name: str) -> Namespace:
        made = self.namespace(name)
        made.sysctl("net/ipv4/ip_forward", 1)
        made.sysctl("net/ipv6/conf/all/forwarding", 1, must=False)
        return made

    def site(self, name: str, kind: Nat, lan: str | None = None, *, ipv6: bool = False) -> Site:
        """Adds a site. Its LAN is 192.168.N.0/24 behind a NAT and 5.1.N.0/24 else, unless `lan` says."""
        self._sites += 1
        number = self._sites
        own = f"192.168.{number}.0/24" if kind.translates else f"5.1.{number}.0/24"
        self.sites[name] = Site(self, name, kind, number=number, lan=IPv4Network(lan or own), ipv6=ipv6)
        return self.sites[name]

    def host(self, name: str, site: Site, number: int | None = None) -> Host:
        self.hosts[name] = Host(self, name, site, number)
        return self.hosts[name]

    def start(
        self, namespace: Namespace, arguments: Sequence[str], log: str, environment: Mapping[str, str] | None = None
    ) -> Program:
        program = Program(namespace, arguments, self.directory / log, environment=environment)
        self._programs.append(program)
        return program

    def lose(self, per_mille: int) -> None:
        """The internet loses so many of a thousand packets from now on; 0 heals it."""
        self.internet.load_rules(nat_rules.loss_rules(per_mille) if per_mille else "")

    @property
    def stands(self) -> bool:
        """Whether there is anything that `close` would take down."""
        return bool(self._namespaces)

    def leave_standing(self) -> None:
        """Lets go of everything without taking it down; `destroy_lab(name)` does that another day."""
        self._programs.clear()
        self._namespaces.clear()

    def close(self) -> None:
        """Ends every program, destroys every namespace, and raises LabError if anything is left. Once is enough."""
        if not self.stands:
            return
        for program in self._programs:
            if program.running:
                program.resume()
                os.kill(program.pid, signal.SIGTERM)
        for program in self._programs:
            program.terminate()
        for namespace in self._namespaces:
            namespace.destroy()
        self.leave_standing()
        left = leftovers(self.prefix)
        shutil.rmtree(self.directory, ignore_errors=True)
        if left:
            raise LabError("the laboratory left behind: " + ", ".join(left))

    def __enter__(self) -> Lab:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def leftovers(prefix: str) -> list[str]:
    """What still stands of a laboratory: names, mounts and processes."""
    names = list(NAMED.glob(f"{prefix}*"))
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if prefix in line]
    processes = [f"process {pid} in {path.name}" for path in names for pid in processes_in(path)]
    return [str(path) for path in names] + mounts + processes


def reap_abandoned() -> None:
    """Takes down laboratories named after a process that no longer lives: their run was killed."""
    owners = {path.name.split("-")[1] for path in NAMED.glob(f"{PREFIX}*")}
    for owner in owners:
        if owner.isdigit() and not Path("/proc", owner).exists():
            destroy_lab(owner)


def destroy_lab(name: str) -> list[str]:
    """Takes down a laboratory that was left standing under `name`, and returns what it took down."""
    prefix = f"{PREFIX}{name}-"
    found = sorted(NAMED.glob(f"{prefix}*"))
    for path in found:
        destroy_named(path)
    for directory in Path("/tmp").glob(f"{prefix}*"):  # noqa: S108
        shutil.rmtree(directory, ignore_errors=True)
    return [path.name for path in found]
