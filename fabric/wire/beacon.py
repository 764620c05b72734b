"""Where endpoints of one LAN look for each other: ordinary GATED datagrams, sent to a group instead of an address.

A beacon has no format of its own. Whoever knows the gate index in it can tell whom it is for; to everybody else on
the LAN it says that somebody asks for some index.

Group and scope. 239.255.0.0/16 is the local scope (RFC 2365 section 6.1): the smallest there is for groups that
nobody assigned, and routers keep it in; a hop limit of 1 does so even where they don't. The IPv6 group is of link-local
scope (2), with the T flag, because nobody assigned it either (RFC 4291 section 2.7), and an identifier of the range for
such groups (RFC 3307 section 4.3).

The port is below those that kernels hand out by themselves (32768 and up on Linux, 49152 by RFC 6335), so that no
chance socket has it.
"""

from __future__ import annotations

GROUP_4 = "239.255.83.70"
GROUP_6 = "ff12::8000:5346"
PORT = 28346

HOP_LIMIT = 1
