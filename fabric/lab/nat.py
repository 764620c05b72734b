"""The kinds of NAT and firewall that stand between hosts and the internet, as nftables rules.

A kind is a mapping and a filtering behaviour in the sense of RFC 4787, sections 4.1 and 5:

    mapping    which outside port an inside port gets: the same one for every destination, or one for each
    filtering  who may send to that outside port: anybody, an address sent to before, or only the address and port

Every router has a device `wan` towards the internet and a bridge `lan` towards its hosts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

SEQUENTIAL_PORTS = range(20_000, 21_024)
TABLE_SIZE = 65_535


class Mapping(enum.Enum):
    NONE = "none"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ENDPOINT_DEPENDENT = "address-and-port-dependent"


class Filtering(enum.Enum):
    NONE = "none"
    ENDPOINT_INDEPENDENT = "endpoint-independent"
    ADDRESS_DEPENDENT = "address-dependent"
    ADDRESS_AND_PORT_DEPENDENT = "address-and-port-dependent"


@dataclass(frozen=True, slots=True)
class _Kind:
    label: str
    mapping: Mapping
    filtering: Filtering
    carries_udp: bool = True


class Nat(enum.Enum):
    """What a site's router does to its hosts' datagrams."""

    PUBLIC = _Kind("public", Mapping.NONE, Filtering.NONE)
    FIREWALL = _Kind("stateful firewall", Mapping.NONE, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    FULL_CONE = _Kind("full cone", Mapping.ENDPOINT_INDEPENDENT, Filtering.ENDPOINT_INDEPENDENT)
    ADDRESS_RESTRICTED = _Kind("address-restricted", Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_DEPENDENT)
    PORT_RESTRICTED = _Kind("port-restricted", Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    CARRIER = _Kind("carrier NAT in front", Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    SYMMETRIC = _Kind("symmetric", Mapping.ENDPOINT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    SEQUENTIAL = _Kind("sequential symmetric", Mapping.ENDPOINT_DEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT)
    UDP_BLOCKED = _Kind("no UDP", Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, False)
    WEB_ONLY = _Kind("TCP 443 only", Mapping.ENDPOINT_INDEPENDENT, Filtering.ADDRESS_AND_PORT_DEPENDENT, False)

    @property
    def label(self) -> str:
        return self.value.label

    @property
    def mapping(self) -> Mapping:
        return self.value.mapping

    @property
    def filtering(self) -> Filtering:
        return self.value.filtering

    @property
    def carries_udp(self) -> bool:
        return self.value.carries_udp

    @property
    def translates(self) -> bool:
        """Whether its hosts have private addresses."""
        return self.mapping is not Mapping.NONE


def rules(kind: Nat, wan: IPv4Address, lifetime_s: int, ports: range | None = None) -> str:
    """The nftables text for a router of this kind with the outside address `wan`.

    `lifetime_s` is how long an idle cone mapping lives; connection tracking's own timeouts are settings of the
    namespace, not rules. A carrier in front of a home router is two routers of kind PORT_RESTRICTED. Where mappings
    are endpoint-independent, they keep the inside port, or are made among `ports`.
    """
    masquerade = "masquerade" if ports is None else _among(ports)
    match kind:
        case Nat.PUBLIC:
            text = ""
        case Nat.FIREWALL:
            text = _filter()
        case Nat.FULL_CONE:
            text = _cone(lifetime_s, masquerade) + _filter("iifname wan ct status dnat accept")
        case Nat.ADDRESS_RESTRICTED:
            text = _cone(lifetime_s, masquerade) + _filter("iifname wan meta mark 1 accept")
        case Nat.PORT_RESTRICTED | Nat.CARRIER:
            text = _filter() + _source_nat(masquerade)
        case Nat.SYMMETRIC:
            text = _filter() + _source_nat("masquerade fully-random")
        case Nat.SEQUENTIAL:
            text = _filter() + _source_nat(_sequential(wan))
        case Nat.UDP_BLOCKED:
            text = _filter("meta l4proto udp drop") + _source_nat(masquerade)
        case Nat.WEB_ONLY:
            text = _filter("iifname lan tcp dport != 443 drop", "meta l4proto udp drop") + _source_nat(masquerade)
    return text


UDP_BLOCKING_RULES = """
table inet udpless {
    chain forward {
        type filter hook forward priority filter - 1; policy accept;
        meta l4proto udp drop
    }
}
"""
"""Beside the rules of a kind: nothing that was learned is forgotten by it."""
IPV6_BLOCKING_RULES = """
table ip6 sixless {
    chain forward {
        type filter hook forward priority filter - 1; policy drop;
    }
}
"""
IPV6_PASSING_RULES = "table ip6 sixless {}\ndelete table ip6 sixless\n"
UDP_PASSING_RULES = "table inet udpless {}\ndelete table inet udpless\n"


def parting_rules(one: IPv4Network, other: IPv4Network) -> str:
    """Drops what goes between two networks, either way; for a router between them."""
    return f"""
table inet parted {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        ip saddr {one} ip daddr {other} drop
        ip saddr {other} ip daddr {one} drop
    }}
}}
"""


JOINING_RULES = "table inet parted {}\ndelete table inet parted\n"


def loss_rules(per_mille: int) -> str:
    """Drops so many of a thousand forwarded packets at random (the kernels we test on have no netem)."""
    return f"""
table inet loss {{
    chain forward {{
        type filter hook forward priority filter; policy accept;
        numgen random mod 1000 < {per_mille} drop
    }}
}}
"""


def _filter(*forwarded_first: str) -> str:
    """Lets hosts out and answers in. The drop in `input` keeps connection tracking from taking the outside port of
    an early probe for the router's own, which would move the mapping that is made next."""
    extra = "\n        ".join(forwarded_first)
    return f"""
table inet filter {{
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname wan ct state established,related accept
        iifname wan meta l4proto ipv6-icmp accept
        iifname wan drop
    }}
    chain forward {{
        type filter hook forward priority filter; policy drop;
        {extra}
        ct state established,related accept
        iifname lan accept
    }}
}}
"""


def _among(ports: range) -> str:
    """Still endpoint-independent: connection tracking takes the port again that a source has, if it is in the range."""
    return f"meta l4proto {{ tcp, udp }} masquerade to :{ports[0]}-{ports[-1]}"


def _source_nat(*statements: str) -> str:
    lines = "\n        ".join(f"oifname wan {statement}" for statement in (*statements, "masquerade"))
    return f"""
table ip nat {{
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        {lines}
    }}
}}
"""


def _sequential(wan: IPv4Address) -> str:
    """A port for each new flow, counting up. By a map: `numgen` straight into a port is written byte-swapped."""
    ports = ", ".join(f"{index} : {port}" for index, port in enumerate(SEQUENTIAL_PORTS))
    return f"meta l4proto {{ tcp, udp }} snat ip to {wan} : numgen inc mod {len(SEQUENTIAL_PORTS)} map {{ {ports} }}"


def _cone(lifetime_s: int, masquerade: str) -> str:
    """Endpoint-independent mapping and filtering: both directions of every mapping are learned as it is made.

    `reached` remembers whom each inside port has sent to; a packet from one of those is marked before its
    destination is translated back, which is all that an address-restricted cone adds.
    """
    common = f"flags dynamic,timeout; size {TABLE_SIZE}; timeout {lifetime_s}s;"
    return f"""
table ip cone {{
    map outward {{
        type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; {common}
    }}
    map inward {{
        type inet_proto . inet_service : ipv4_addr . inet_service; {common}
    }}
    set reached {{
        type inet_proto . inet_service . ipv4_addr; {common}
    }}
    chain mark_reached {{
        type filter hook prerouting priority dstnat - 1;
        iifname wan meta l4proto {{ tcp, udp }} meta l4proto . th dport . ip saddr @reached meta mark set 1
    }}
    chain prerouting {{
        type nat hook prerouting priority dstnat;
        iifname wan meta l4proto {{ tcp, udp }} dnat ip to meta l4proto . th dport map @inward
    }}
    chain postrouting {{
        type nat hook postrouting priority srcnat;
        oifname wan meta l4proto {{ tcp, udp }} snat ip to meta l4proto . ip saddr . th sport map @outward
        oifname wan {masquerade}
        oifname wan masquerade
    }}
    chain learn {{
        type filter hook postrouting priority srcnat + 1;
        oifname wan meta l4proto {{ tcp, udp }} update @reached {{ meta l4proto . th sport . ip daddr }}
        oifname wan ct direction original meta l4proto {{ tcp, udp }} \\
            update @outward {{ meta l4proto . ct original ip saddr . ct original proto-src : ip saddr . th sport }} \\
            update @inward {{ meta l4proto . th sport : ct original ip saddr . ct original proto-src }}
    }}
}}
"""
