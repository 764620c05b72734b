"""What a tunnel is to the measurements, what all of them share in getting up, and the two that the kernel has itself.

Where a tunnel lets one choose, its inner MTU is 1,400, so that no outer packet fragments.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fabric.lab import Host, LabError, Program
from fabric.lab.namespace import SEARCH_PATH
from tests.bench.cable import DEVICE, INNER_LEFT, INNER_RIGHT, OUTER_MTU, RIGHT, Cable

INNER_MTU = 1400
PORT = 5999
TAP = "tap0"
NO_CIPHER = "none"
CHACHA = "chacha20-poly1305"
AES = "aes-256-gcm"
UP_WITHIN_S = 20.0
POLL_S = 0.01


@dataclass(frozen=True, slots=True)
class Raised:
    """A tunnel that stands: the device at the right end, the right end's address inside, and the programs that carry
    it; `first_echo_s` is from starting the left program, while the right one ran already, to the first answered ping.
    """

    device: str
    target: str
    left: Sequence[Program] = ()
    right: Sequence[Program] = ()
    first_echo_s: float | None = None

    @property
    def programs(self) -> tuple[Program, ...]:
        return (*self.left, *self.right)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A kind of tunnel: what it is called in the tables, its cipher, the programs it needs, and how to raise it.

    `layer` is that of what it carries: 2 for Ethernet frames, 3 for IP packets.
    """

    label: str
    cipher: str
    needs: tuple[str, ...]
    raise_: Callable[[Cable], Raised]
    layer: int = 2

    def missing(self) -> list[str]:
        return [program for program in self.needs if shutil.which(program, path=SEARCH_PATH) is None]


# -- getting up ---------------------------------------------------------------------------------------------------


def await_device(host: Host, device: str, program: Program) -> None:
    """Returns as soon as the program has made its device; LabError with its last words where it does not."""
    _soon(lambda: host.run("ip", "link", "show", "dev", device).code == 0, f"{device} on {host.name}", [program])


def await_words(program: Program, words: str) -> None:
    """Returns as soon as the program has printed `words`."""
    _soon(lambda: words in program.output(), f'"{words}"', [program])


def await_echo(host: Host, target: str, began: float, programs: Sequence[Program] = ()) -> float:
    """Seconds from `began`, an instant of `time.monotonic`, to the first answered ping from `host`."""
    words = ("ping", "-n", "-c", "1", "-W", "0.1", target)
    _soon(lambda: host.run(*words).code == 0, "the first ping", programs)
    return time.monotonic() - began


def _soon(true: Callable[[], object], what: str, programs: Sequence[Program]) -> None:
    """As `until`, but quick enough to time by, and with what the programs said last."""
    deadline = time.monotonic() + UP_WITHIN_S
    while not true():
        if time.monotonic() > deadline or not all(program.running for program in programs):
            said = "\n".join(program.describe() for program in programs)
            raise LabError(f"{what}: not within {UP_WITHIN_S:g} s, or its program ended\n{said}")
        time.sleep(POLL_S)


def address(cable: Cable, host: Host, device: str, mtu: int = INNER_MTU) -> None:
    """Gives the device of one end its MTU and its inner address, and sets it up."""
    host.run("ip", "link", "set", "dev", device, "mtu", str(mtu), "up").must()
    host.namespace.add_address(device, INNER_LEFT if host is cable.left else INNER_RIGHT)


# -- what the kernel has ------------------------------------------------------------------------------------------


def _raise_veth(cable: Cable) -> Raised:
    return Raised(DEVICE, str(RIGHT.ip))


def _raise_vxlan(cable: Cable) -> Raised:
    for host, mine, other in cable.ends():
        words = ["link", "add", "name", TAP, "type", "vxlan", "id", "42", "dev", DEVICE]
        host.run("ip", *words, "local", str(mine.ip), "remote", str(other.ip), "dstport", "4789").must()
        address(cable, host, TAP, OUTER_MTU - 50)
    await_echo(cable.left, str(INNER_RIGHT.ip), time.monotonic())
    return Raised(TAP, str(INNER_RIGHT.ip))


BARE = Tunnel("raw veth", NO_CIPHER, (), _raise_veth)
VXLAN = Tunnel("kernel VXLAN", NO_CIPHER, ("ip",), _raise_vxlan)
