"""`fabric demo`: the whole thing on this machine, to look at. Nothing leaves the machine.

It builds a small internet out of network namespaces, with three hosts behind three separate NAT routers, and does
there what a person would do with real machines: the same programs, the same commands.
"""

from __future__ import annotations

import shlex
import signal
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import combinations

from rich.console import Console
from rich.live import Live

from fabric.cli.demo_stage import Watch, hand_over
from fabric.errors import FabricError
from fabric.lab import Endpoint, Lab, LabError, Nat, Overlay, become_able, destroy_lab, mdns, why_not
from fabric.lab.ability import PREFIX
from fabric.lab.namespace import NAMED
from fabric.lab.overlay import await_connected, introduce
from fabric.lab.traffic import Transfer, Transferred, multicast_listener, multicast_sender, received
from fabric.lab.wiretap import Wiretap

STANDING = "demo"
DOWN = "down"
FILE_BYTES = 64_000_000
SECRET = b"nobody in the middle can read this"
SECRET_PORT = 4242
EXIT_DONE, EXIT_DID_NOT_HOLD, EXIT_NOT_PERMITTED = 0, 1, 3

PLACES = {
    "alice": ("home", Nat.PORT_RESTRICTED),
    "bob": ("work", Nat.ADDRESS_RESTRICTED),
    "carol": ("mobile", Nat.CARRIER),
}

MAP = """
                      discovery service 5.1.1.10
                                 │
  ════════╤══════════════════════╧═════════════════╤═══════  an "internet" of its own
       5.0.2.2                  5.0.3.2         5.0.4.2
     ┌────┴─────┐             ┌────┴─────┐    ┌────┴─────┐
     │ home NAT │             │ work NAT │    │ carrier  │
     └────┬─────┘             └────┬─────┘    │   NAT    │
          │                        │          └────┬─────┘
          │                        │          ┌────┴─────┐
          │                        │          │phone NAT │
          │                        │          └────┬─────┘
        alice                     bob            carol
     192.168.2.10             192.168.3.10    192.168.4.10
"""


class Story:
    """Prints each step as it happens, with its outcome and how long it took; and gathers what was proven."""

    def __init__(self) -> None:
        self.console = Console(highlight=False)
        self.proven: list[str] = []

    def chapter(self, title: str) -> None:
        self.console.print(f"\n[bold]{title}[/bold]")

    def typed(self, host: str, words: str) -> None:
        """Shows what is typed on a host."""
        self.console.print(f"    [cyan]{host} $[/cyan] {words}", soft_wrap=True)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Shows `what`, and when it is done a tick, what the block put into the list, and the seconds it took."""
        outcome: list[str] = []
        started = time.monotonic()
        with self.console.status(what):
            yield outcome
        said = f": [green]{outcome[0]}[/green]" if outcome else ""
        self.console.print(
            f"  [green]✓[/green] {what}{said} [dim]({time.monotonic() - started:.1f} s)[/dim]", soft_wrap=True
        )

    def summary(self) -> None:
        self.chapter("What was just proven")
        for line in self.proven:
            self.console.print(f"  [green]✓[/green] {line}", soft_wrap=True)


def demo(keep: bool = False) -> int:
    """Runs the demo and returns the exit code. With `keep` it is left standing, with commands to play on.

    Without root it starts itself again inside a user namespace, where it may do the same.
    """
    become_able([sys.executable, "-m", "fabric.cli.demo", *(["--keep"] if keep else [])])
    story = Story()
    reason = why_not() or (_already_standing() if keep else None)
    if reason is not None:
        story.console.print(f"fabric demo can't run here: {reason}", style="red", soft_wrap=True)
        return EXIT_NOT_PERMITTED
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that being ended cleans up as Ctrl-C does
    lab = Lab(STANDING if keep else None)
    try:
        endpoints = _tell(story, lab)
        if keep:
            _leave(story, lab, endpoints)
    except FabricError as error:
        story.console.print(f"\n[red]The demo failed:[/red] {error}", markup=True, soft_wrap=True)
        return EXIT_DID_NOT_HOLD
    except KeyboardInterrupt:
        story.console.print("\nstopped")
        return EXIT_DID_NOT_HOLD
    finally:
        _clean_up(story, lab)
    return EXIT_DONE


def _already_standing() -> str | None:
    if not list(NAMED.glob(f"{PREFIX}{STANDING}-*")):
        return None
    return f"one is standing already; `{shlex.join(_take_down())}` takes it down"


def _take_down() -> Sequence[str]:
    return [sys.executable, "-m", "fabric.cli.demo", DOWN]


# -- the story --------------------------------------------------------------------------------------------------


def _tell(story: Story, lab: Lab) -> dict[str, Endpoint]:
    story.console.print("[bold]Three computers, each behind another router, become one local network.[/bold]")
    overlay, endpoints = _build(story, lab)
    alice, bob, carol = endpoints.values()
    _state_intent(story, alice, bob)
    with story.step("the same for alice and carol, and for bob and carol"):
        introduce(alice, carol)
        introduce(bob, carol)
        await_connected(alice, bob, carol)
    _ping(story, list(endpoints.values()))
    _eavesdrop(story, lab, alice, bob)
    _multicast(story, endpoints)
    _move_files(story, lab, overlay, list(endpoints.values()))
    story.summary()
    return endpoints


def _build(story: Story, lab: Lab) -> tuple[Overlay, dict[str, Endpoint]]:
    story.chapter("1. An internet in miniature")
    with story.step("a discovery service, which introduces hosts and carries none of their traffic"):
        overlay = Overlay(lab)
    story.typed("discovery", f"discoveryd init --network home --address {overlay.discovery.host.ip}")
    story.typed("discovery", "discoveryd run")
    with story.step("three sites, each behind a NAT router that lets nobody in uninvited"):
        places = {host: lab.site(site, kind) for host, (site, kind) in PLACES.items()}
    with story.step("three hosts: each makes its own key, gets a certificate, starts the daemon"):
        endpoints = overlay.endpoints(places)
    story.typed("alice", "fabric enrol fabric-key-…")
    story.typed("alice", "fabricd")
    story.console.print(MAP, style="cyan")
    return overlay, endpoints


def _state_intent(story: Story, alice: Endpoint, bob: Endpoint) -> None:
    story.chapter("2. Nothing happens until both sides want it")
    story.typed("alice", "fabric add bob")
    with story.step("alice alone wants it") as outcome:
        alice.add("bob")
        peer = alice.peer("bob")
        if peer is None or peer["state"] != "pending" or alice.reaches(bob.overlay_ip(), within_s=0.5):
            raise LabError(f"alice should be waiting for bob, but sees {peer}")
        outcome.append("pending, and no ping gets through")
    story.typed("bob", "fabric add alice")
    with story.step("both want it: introduced, holes punched through both NATs, authenticated, keys agreed") as outcome:
        started = time.monotonic()
        bob.add("alice")
        await_connected(alice, bob)
        took = time.monotonic() - started
        outcome.append("connected")
    story.proven.append(f"No connection before both sides wanted it; {took:.1f} s after, there was one.")


def _ping(story: Story, endpoints: Sequence[Endpoint]) -> None:
    story.chapter("3. One local network")
    for one, other in combinations(endpoints, 2):
        address = other.overlay_ip()
        with story.step(f"{one.name} pings {other.name} at {address}") as outcome:
            printed = one.host.run("ping", "-n", "-c", "3", "-i", "0.2", "-W", "2", address).must().output
            outcome.append("answered in " + printed.rpartition(" = ")[2].split("/")[1] + " ms on average")
        with story.step(f"  and over IPv6 at {other.overlay_ip_6()}"):
            one.host.run("ping", "-n", "-c", "1", "-W", "2", other.overlay_ip_6()).must()
    peers = [peer for endpoint in endpoints for peer in endpoint.status()["peers"]]
    if any(peer["path"]["kind"] != "direct-udp" for peer in peers):
        raise LabError(f"not every pair is connected directly: {[peer['path'] for peer in peers]}")
    story.proven.append("All three pairs talk directly, through two NATs each; nobody forwarded a port.")


def _eavesdrop(story: Story, lab: Lab, alice: Endpoint, bob: Endpoint) -> None:
    with story.step("while alice writes to bob, somebody on the internet records what her router sends") as outcome:
        inside = multicast_sender(alice.host, alice.overlay_ip())
        listener = bob.host.namespace.inside(lambda: _bound(bob.overlay_ip()))
        with Wiretap(lab, alice.host.site) as ear, inside, listener:
            inside.sendto(SECRET, (bob.overlay_ip(), SECRET_PORT))
            if not received(listener, SECRET):
                raise LabError("bob did not get alice's words")
        if ear.heard(SECRET) or not ear.frames:
            raise LabError(f"{len(ear.frames)} packets overheard, alice's words among them: {ear.heard(SECRET)}")
        outcome.append(f"bob can read it; the {len(ear.frames)} recorded packets are noise")
    cipher = next(peer["cipher"] for peer in alice.status()["peers"])
    story.proven.append(f"On the way everything is sealed ({cipher}); what was recorded outside shows nothing of it.")


def _bound(address: str) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind((address, SECRET_PORT))
    return made


def _multicast(story: Story, endpoints: dict[str, Endpoint]) -> None:
    name = "bob.local"
    with story.step(f'carol asks everybody on the LAN "who is {name}?" by multicast DNS, and bob answers') as outcome:
        bob, carol = endpoints["bob"], endpoints["carol"]
        where = [(each.host, each.overlay_ip()) for each in (bob, carol)]
        at_bob, at_carol = (multicast_listener(*each, mdns.GROUP, mdns.PORT) for each in where)
        from_bob, from_carol = (multicast_sender(*each) for each in where)
        with at_bob, at_carol, from_bob, from_carol:
            from_carol.sendto(mdns.query(name), (mdns.GROUP, mdns.PORT))
            heard = received(at_bob, mdns.query(name))
            from_bob.sendto(mdns.answer(name, bob.overlay_ip()), (mdns.GROUP, mdns.PORT))
            if not heard or not received(at_carol, mdns.answer(name, bob.overlay_ip())):
                raise LabError("multicast did not cross")
        outcome.append(f"{name} is {bob.overlay_ip()}")
    story.proven.append("It is an Ethernet: multicast DNS, which no router forwards, found a neighbour.")


def _move_files(story: Story, lab: Lab, overlay: Overlay, endpoints: Sequence[Endpoint]) -> None:
    story.chapter("4. A file from each host to the next, over TCP, all at once")
    service_line = overlay.discovery.host.site
    before = service_line.wan_counters()
    ring = list(zip(endpoints, [*endpoints[1:], endpoints[0]], strict=True))
    with Watch(endpoints) as watch, Live(watch, console=story.console, refresh_per_second=4):
        moving = [Transfer(one.host, other.host, other.overlay_ip(), FILE_BYTES, lab.directory) for one, other in ring]
        moved = [transfer.finish() for transfer in moving]
        watch.look_once_more()
    if not story.console.is_terminal:
        story.console.print()  # elsewhere the table's last line is left open
    for (one, other), result in zip(ring, moved, strict=True):
        _report(story, one.name, other.name, result)
    crossed = service_line.wan_counters().since(before).bytes
    total = sum(result.length_bytes for result in moved)
    story.proven.append(f"{total / 1e6:.0f} MB crossed, every file intact (SHA-256).")
    story.proven.append(f"The discovery service saw none of it: its line carried {crossed / 1e3:.0f} kB meanwhile.")


def _report(story: Story, sender: str, receiver: str, result: Transferred) -> None:
    if not result.intact:
        raise LabError(f"the file from {sender} to {receiver} arrived changed")
    story.console.print(
        f"  [green]✓[/green] {sender} → {receiver}: {result.length_bytes / 1e6:.0f} MB in {result.seconds:.1f} s, "
        f"{result.mbit_per_s:.0f} Mbit/s, SHA-256 {result.digest_received[:16]}… at both ends",
        soft_wrap=True,
    )


# -- the end ----------------------------------------------------------------------------------------------------


def _leave(story: Story, lab: Lab, endpoints: dict[str, Endpoint]) -> None:
    at, down = hand_over(lab, endpoints, _take_down())
    story.chapter("It is still standing. To play on:")
    bob = endpoints["bob"].overlay_ip()
    for words in ("alice fabric status", "alice fabric ping bob", f"alice ping {bob}", "alice ip address", "bob sh"):
        story.console.print(f"  {at} {words}", soft_wrap=True)
    story.console.print(f"  {at} discovery discoveryd endpoint list", soft_wrap=True)
    story.console.print(f"\nTo take it down:\n  {down}", soft_wrap=True)
    lab.leave_standing()


def _clean_up(story: Story, lab: Lab) -> None:
    if lab.stands:
        with story.console.status("cleaning up"):
            lab.close()
        story.console.print("\n[dim]Everything that was made has been taken down again.[/dim]")


def _main(arguments: Sequence[str]) -> int:
    if DOWN in arguments:
        become_able(_take_down())
        for name in destroy_lab(STANDING):
            print(f"{name} is gone")
        return EXIT_DONE
    return demo(keep="--keep" in arguments)


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
