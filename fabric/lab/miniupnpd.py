"""A router of the laboratory that maps ports for its hosts: Debian's miniupnpd, with its nftables backend.

Many home routers run this very daemon. It writes into chains of its own: one that the filter of the site's NAT asks
first, and two of address translation.
"""

from __future__ import annotations

import json
import os
import signal
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fabric.lab.program import Program, run
from fabric.lab.site import Site
from fabric.lab.world import Lab

HTTP_PORT = 5000

_PROTOCOL_FIELD = '{"payload": {"base": "nh", "offset": 72, "len": 8}}'
_PORT_FIELD = '{"payload": {"protocol": "th", "field": "dport"}}'
_PROTOCOLS = {17: "udp", 6: "tcp"}

_CHAINS = """
add chain inet filter upnp_forward
insert rule inet filter forward jump upnp_forward
table inet upnp {
    chain upnp_prerouting { }
    chain upnp_postrouting { }
    chain prerouting {
        type nat hook prerouting priority dstnat - 10;
        jump upnp_prerouting
    }
    chain postrouting {
        type nat hook postrouting priority srcnat - 10;
        jump upnp_postrouting
    }
}
"""

_DEAF_TO_PCP = "insert rule inet filter input udp dport 5351 @th,64,8 2 drop\n"
"""A gateway that was made before PCP and never answers to it; miniupnpd can't be told not to speak it."""

_SETTINGS = """
ext_ifname=wan
listening_ip=lan
ipv6_disable=yes
http_port={http_port}
enable_natpmp={natpmp}
enable_upnp={upnp}
force_igd_desc_v1={version_1}
min_lifetime=1
max_lifetime={most_s}
secure_mode=yes
system_uptime=no
uuid=5e1f0000-0000-4000-8000-000000000001
upnp_table_name=filter
upnp_nat_table_name=upnp
upnp_forward_chain=upnp_forward
upnp_nat_chain=upnp_prerouting
upnp_nat_postrouting_chain=upnp_postrouting
{more}
allow 1024-65535 {lan} 1024-65535
deny 0-65535 0.0.0.0/0 0-65535
"""


@dataclass(frozen=True, slots=True, order=True)
class Mapped:
    """An entry of the router's table: `protocol` is "udp" or "tcp"."""

    protocol: str
    outside_port: int
    ip: str
    port: int


class Miniupnpd:
    """The daemon on the router of `site`, whose kind must have a filter (see `Nat`); started by `start`."""

    def __init__(
        self,
        lab: Lab,
        site: Site,
        *,
        pcp: bool = True,
        natpmp: bool = True,
        upnp: bool = True,
        version_1: bool = False,
        most_s: int = 86_400,
        more: str = "",
    ) -> None:
        self._lab = lab
        self._site = site
        self._settings = lab.directory / f"{site.name}-miniupnpd.conf"
        self._rules = _CHAINS + ("" if pcp else _DEAF_TO_PCP)
        self._settings.write_text(
            _SETTINGS.format(
                http_port=HTTP_PORT,
                natpmp=_word(natpmp or pcp),
                upnp=_word(upnp),
                version_1=_word(version_1),
                most_s=most_s,
                more=more,
                lan=site.lan,
            )
        )
        self._program: Program | None = None

    def start(self) -> None:
        """The router has just been switched on: its rules are loaded and empty, and the daemon is about to run."""
        self._site.reboot()
        run(self._site.router, ("nft", "-f", "-"), feed=self._rules).must()
        pid_file: Path = self._lab.directory / f"{self._site.name}-miniupnpd.pid"
        command = ("miniupnpd", "-d", "-f", str(self._settings), "-P", str(pid_file))
        self._program = self._lab.start(self._site.router, command, f"{self._site.name}-miniupnpd.log")

    def stop(self) -> None:
        """Switches it off as power does: without a word to anybody."""
        if self._program is not None:
            os.kill(self._program.pid, signal.SIGKILL)
            self._program.wait()

    def restart(self) -> None:
        """Power lost and back: every mapping is gone, and the clock of the table begins anew."""
        self.stop()
        self.start()

    def mapped(self) -> set[Mapped]:
        """What the kernel of the router translates for this daemon now."""
        listed = run(self._site.router, ("nft", "-j", "-n", "list", "chain", "inet", "upnp", "upnp_prerouting")).must()
        rules = [item["rule"]["expr"] for item in json.loads(listed.output)["nftables"] if "rule" in item]
        return {_mapped(rule) for rule in rules}

    def output(self) -> str:
        """What the daemon has printed, all of its lives."""
        return self._program.output() if self._program is not None else ""


def _word(is_on: bool) -> str:
    return "yes" if is_on else "no"


def _mapped(rule: list[dict[str, Any]]) -> Mapped:
    """Reads `iif wan @nh,72,8 17 th dport 4000 dnat ip to 192.168.1.10:4000` as nft writes it in JSON."""
    matched = {json.dumps(term["match"]["left"]): term["match"]["right"] for term in rule if "match" in term}
    (to,) = [term["dnat"] for term in rule if "dnat" in term]
    return Mapped(_PROTOCOLS[matched[_PROTOCOL_FIELD]], matched[_PORT_FIELD], to["addr"], to["port"])
