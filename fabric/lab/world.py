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

import os
import shutil
import signal
import tempfile
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network
from pathlib import Path
from types import TracebackType

from fabric.lab import nat as nat_rules
from fabric.lab.ability import PREFIX, why_not
from fabric.lab.kernel_drops import dropped_here
from fabric.lab.namespace import NAMED, LabError, Namespace, destroy_named, processes_in
from fabric.lab.nat import Nat
from fabric.lab.program import Program
from fabric.lab.site import Host, Site

PRIVATE = [IPv4Network(net) for net in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")]


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

    def site(
        self,
        name: str,
        kind: Nat,
        lan: str | None = None,
        *,
        ipv4: bool = True,
        ipv6: bool = False,
        weather: bool = False,
    ) -> Site:
        """Adds a site. Its LAN is 192.168.N.0/24 behind a NAT and 5.1.N.0/24 else, unless `lan` says.

        `weather` puts a forwarder on its line, which costs some processor time for every packet.
        """
        self._sites += 1
        number = self._sites
        own = f"192.168.{number}.0/24" if kind.translates else f"5.1.{number}.0/24"
        network = IPv4Network(lan or own)
        made = Site(self, name, kind, number=number, lan=network, ipv4=ipv4, ipv6=ipv6, weather=weather)
        self.sites[name] = made
        return made

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
        """The internet loses so many of a thousand packets from now on; 0 heals it.

        Kernels would lose a whole run of datagrams as one: so that each is lost for itself, as on a wire, nothing
        comes to the internet, nor goes to a site, in runs any more.
        """
        if per_mille:
            for site in self.sites.values():
                site.stop_offloads()
        self.internet.load_rules(nat_rules.loss_rules(per_mille) if per_mille else "")

    def part(self, one: Site, other: Site) -> None:
        """The internet carries nothing between two sites from now on, but all that goes elsewhere. One pair at most."""
        self.internet.add_rules(nat_rules.JOINING_RULES + nat_rules.parting_rules(one.outside, other.outside))

    def join(self) -> None:
        """Those who were parted reach each other again."""
        self.internet.add_rules(nat_rules.JOINING_RULES)

    @property
    def stands(self) -> bool:
        """Whether there is anything that `close` would take down."""
        return bool(self._namespaces)

    def describe(self) -> str:
        """What has become of every program that was to last, what each said last, and what kernels dropped: for whoever
        asks why."""
        programs = [program.describe() for program in self._programs if program.lasting]
        return "\n\n".join([*programs, self._describe_drops()])

    def _describe_drops(self) -> str:
        drops = {namespace.name: namespace.inside(dropped_here) for namespace in self._namespaces}
        told = [f"{name.removeprefix(self.prefix)}: {counts}" for name, counts in drops.items() if counts]
        return "dropped by the kernel:\n" + ("\n".join(told) or "nothing")

    def leave_standing(self) -> None:
        """Lets go of everything without taking it down; `destroy_lab(name)` does that another day."""
        self._programs.clear()
        self._namespaces.clear()

    def close(self) -> None:
        """Ends every program and destroys every namespace. LabError if anything is left, or if a program that was to
        last had ended by itself. Once is enough."""
        if not self.stands:
            return
        failed = [program.describe() for program in self._programs if program.has_failed]
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
        if failed:
            raise LabError("\n".join(failed))

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
