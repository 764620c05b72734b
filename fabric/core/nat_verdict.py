"""What the answers of servers say about a NAT, as functions of what was seen."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

from fabric.wire.address import Address
from fabric.wire.nat import Mapping

STEPS_TO_TRUST = 3
MAX_STEP = 16
"""Behind a NAT that counts, others make mappings between two of ours; so many more, and it can't be told."""


def mapping_of(seen: dict[Address, Address], hosts: frozenset[str]) -> Mapping:
    """Returns what the addresses say under which one socket was seen, by whom.

    Ports of one IP alone can't show a mapping that depends on the IP only: such NATs are rare, and it is called
    independent. IPs alone can't tell whether the port counts too: it is taken to.
    """
    outsides = set(seen.values())
    if len(outsides) == 1 and next(iter(outsides)).ip in hosts:
        return Mapping.NONE
    if len(seen) < 2:
        return Mapping.UNKNOWN
    if len(outsides) == 1:
        return Mapping.ENDPOINT_INDEPENDENT
    by_ip: dict[str, list[Address]] = {}
    for server, outside in seen.items():
        by_ip.setdefault(server.ip, []).append(outside)
    several = [each for each in by_ip.values() if len(each) > 1]
    if several and all(len(set(each)) == 1 for each in several):
        return Mapping.ADDRESS_DEPENDENT
    return Mapping.ADDRESS_AND_PORT_DEPENDENT


def stride_of(ports: Sequence[int]) -> int:
    """Returns the distance between the outside ports of mappings made in a row, 0 where it is not regular.

    Only the longest run of short steps one way counts: before it a mapping may be an old one, and after the last port
    comes the first. Others behind the same NAT make mappings too, so of the run the step seen most often is returned,
    of two the shorter.
    """
    steps = [later - earlier for earlier, later in pairwise(ports) if later != earlier]
    runs: list[list[int]] = [[]]
    for step in steps:
        if abs(step) > MAX_STEP or (runs[-1] and step * runs[-1][0] < 0):
            runs.append([])
        if abs(step) <= MAX_STEP:
            runs[-1].append(step)
    longest = max(runs, key=len)
    if len(longest) < STEPS_TO_TRUST:
        return 0
    times = Counter(longest)
    return min(times, key=lambda step: (-times[step], abs(step)))


def other_of(server: Address, named: Address | None) -> Address | None:
    """Returns the other address of `server` as this host is to use it, from what it named; None where it has none.

    A server that is itself behind a translation names the IP that it knows of itself; and one that lies could name a
    host of the own network, which nobody else can ask. Of those only the port is taken.
    """
    if named is None or named.is_ipv6 != server.is_ipv6:
        return None
    ip = ipaddress.ip_address(named.ip)
    is_public = ip.is_global and not ip.is_multicast
    if not is_public and ipaddress.ip_address(server.ip).is_global:
        named = replace(named, ip=server.ip)
    return None if named == server else named
