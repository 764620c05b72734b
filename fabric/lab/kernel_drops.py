"""What the kernel dropped in a namespace without telling anybody: for whoever looks for a lost packet."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

HERE = Path("/proc/thread-self/net")
UDP = ("InErrors", "RcvbufErrors", "SndbufErrors", "MemErrors")
"""RFC 4113's udpInErrors, and Linux's own beside it (proc_pid_net(5))."""
CONNTRACK = ("insert_failed", "drop", "early_drop", "clashres")


def dropped_here() -> dict[str, int]:
    """What this thread's network namespace has dropped since it was made, by name; what is 0 is left out.

    `backlog` is of the whole machine: a processor's queue of what has come, which namespaces share.
    """
    return {name: count for name, count in _counts() if count}


def _counts() -> Iterator[tuple[str, int]]:
    for read in (_of_devices, _of_udp, _of_conntrack, _of_backlog):
        try:
            yield from read()
        except (OSError, ValueError, LookupError):  # this kernel does not tell, or tells in another form
            continue


def _of_devices() -> Iterator[tuple[str, int]]:
    for line in _lines("dev")[2:]:
        device, _, rest = line.partition(":")
        counts = [int(word) for word in rest.split()]
        yield f"{device.strip()} rx", counts[3]
        yield f"{device.strip()} tx", counts[11]


def _of_udp() -> Iterator[tuple[str, int]]:
    names, values = (line.split()[1:] for line in _lines("snmp") if line.startswith("Udp:"))
    told = dict(zip(names, values, strict=True))
    yield from ((f"UDP {name}", int(told.get(name, 0))) for name in UDP)


def _of_conntrack() -> Iterator[tuple[str, int]]:
    names, *processors = (line.split() for line in _lines("stat/nf_conntrack"))
    for name in CONNTRACK:
        yield f"conntrack {name}", sum(int(row[names.index(name)], 16) for row in processors)


def _of_backlog() -> Iterator[tuple[str, int]]:
    yield "backlog", sum(int(line.split()[1], 16) for line in _lines("softnet_stat"))


def _lines(name: str) -> list[str]:
    return (HERE / name).read_text().splitlines()
