"""A small internet on one machine: namespaces, routers with real NATs, hosts, and the programs that run on them.

For `fabric demo`, for `netns-tests/` and for measurements. Nothing in here can reach the real network: no namespace
that a `Lab` makes has a link to the outside, so it may use addresses that belong to others.

    kernel      the five system calls that Python 3.11 lacks
    namespace   one network namespace: devices, addresses, routes, settings, counters
    program     one program running inside a namespace
    nat         the kinds of NAT and firewall, as nftables rules
    weather     what a line does to packets;  forwarder: the program that does it;  sky: the line that it stands in
    site        hosts, and sites with the routers that they are behind
    world       `Lab`: the internet with all of these; and the proof that nothing is left over
    ability     whether it can be built here
    product     discovery service, relays and endpoints, driven by the words of their command lines only
    overlay     a whole network of them, enrolled and started
    traffic     a file over TCP, steady pings, multicast, raw frames;  mdns: one question, one answer
    stream      numbered datagrams at a steady pace, counted one by one
    wiretap     somebody on the internet who records what passes
"""

from fabric.lab.ability import become_able, why_not
from fabric.lab.namespace import Counters, LabError, Namespace
from fabric.lab.nat import Filtering, Mapping, Nat
from fabric.lab.overlay import Overlay
from fabric.lab.product import DiscoveryService, Endpoint, Relay
from fabric.lab.program import Finished, Program
from fabric.lab.site import Host, Site
from fabric.lab.weather import CALM, Weather
from fabric.lab.world import Lab, destroy_lab

__all__ = [
    "CALM",
    "Counters",
    "DiscoveryService",
    "Endpoint",
    "Filtering",
    "Finished",
    "Host",
    "Lab",
    "LabError",
    "Mapping",
    "Namespace",
    "Nat",
    "Overlay",
    "Program",
    "Relay",
    "Site",
    "Weather",
    "become_able",
    "destroy_lab",
    "why_not",
]
