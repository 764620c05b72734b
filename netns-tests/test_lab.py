"""The laboratory makes what it says and leaves nothing behind.

[host]----[router]----( internet )     made, used, destroyed; and once more without being root
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from fabric.lab import Lab, LabError, Nat, destroy_lab
from fabric.lab.namespace import NAMED
from fabric.lab.world import leftovers


def test_closing_leaves_no_name_no_mount_and_no_process() -> None:
    with Lab("closing") as lab:
        host = lab.site("home", Nat.PORT_RESTRICTED).host("alice")
        program = host.start("sleep", "1000", log="sleep.log")
        stopped = host.start("sleep", "1000", log="stopped.log")
        stopped.pause()
        assert leftovers(lab.prefix)
        assert host.namespace.processes() == sorted([program.pid, stopped.pid])
    assert leftovers(lab.prefix) == []
    assert not program.running
    assert not lab.directory.exists()


def test_a_program_that_was_to_last_and_did_not_is_told_of_with_its_last_words() -> None:
    lab = Lab("dying")
    host = lab.site("home", Nat.PUBLIC).host("alice")
    dying, brief = (host.start("sh", "-c", "echo the sky fell; exit 3", log=f"{n}.log") for n in ("dying", "brief"))
    asked = host.start("sleep", "1000", log="asked.log")
    dying.lasting = asked.lasting = True
    for program in (dying, brief):
        program.wait()
    asked.terminate()
    with pytest.raises(LabError, match=r"^dying ended with 3 BY ITSELF; its last words:\nthe sky fell$"):
        lab.close()
    assert leftovers(lab.prefix) == []


def test_a_program_that_ignores_signals_is_ended_all_the_same() -> None:
    with Lab("stubborn") as lab:
        stubborn = "trap '' TERM; while :; do sleep 0.1; done"
        host = lab.site("home", Nat.PUBLIC).host("alice")
        host.run("sh", "-c", f'setsid sh -c "{stubborn}" >/dev/null 2>&1 & exit 0')
        assert host.namespace.processes()
    assert leftovers(lab.prefix) == []


def test_what_was_left_standing_can_be_taken_down_by_name() -> None:
    lab = Lab("standing")
    host = lab.site("home", Nat.PUBLIC).host("alice")
    host.run("sh", "-c", "sleep 1000 >/dev/null 2>&1 &")
    lab.leave_standing()
    lab.close()
    assert leftovers(lab.prefix)
    assert "fab-standing-alice" in destroy_lab("standing")
    assert leftovers(lab.prefix) == []


def test_names_work_with_the_tools_people_know() -> None:
    with Lab("names") as lab:
        lab.site("home", Nat.PUBLIC).host("alice")
        listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True).stdout
        assert "fab-names-alice" in listed
        inside = ["ip", "netns", "exec", "fab-names-alice", "ip", "-4", "-o", "addr", "show", "eth0"]
        assert "5.1.1.10/24" in subprocess.run(inside, capture_output=True, text=True, check=True).stdout


def test_what_an_aborted_run_left_is_reaped_by_the_next() -> None:
    script = "import os; from fabric.lab import Lab, Nat; Lab().site('home', Nat.PUBLIC).host('alice'); os._exit(9)"
    child = subprocess.Popen([sys.executable, "-c", script])
    child.wait()
    assert list(NAMED.glob(f"fab-{child.pid}-*"))
    with Lab("after"):
        assert leftovers(f"fab-{child.pid}-") == []


def test_a_program_that_fails_says_why() -> None:
    with Lab("fails") as lab, pytest.raises(LabError, match="No such file"):
        lab.site("home", Nat.PUBLIC).host("alice").run("cat", "/nonexistent").must()


def test_a_host_that_moves_has_the_other_sites_address_only() -> None:
    with Lab("moves") as lab:
        home, cafe = lab.site("home", Nat.PORT_RESTRICTED), lab.site("cafe", Nat.FULL_CONE)
        alice, bob = home.host("alice"), lab.site("work", Nat.PUBLIC).host("bob")
        alice.move(cafe)
        assert alice.ip == "192.168.2.10"
        assert alice.run("ping", "-n", "-c1", "-W2", bob.ip).code == 0
        assert alice.run("ip", "-4", "-o", "addr", "show", "eth0").output.count("inet") == 1


@pytest.mark.parametrize("which", ["site", "host"])
def test_a_line_that_was_pulled_carries_again_when_plugged_in(which: str) -> None:
    with Lab("pulls") as lab:
        home = lab.site("home", Nat.PORT_RESTRICTED)
        alice, bob = home.host("alice"), lab.site("work", Nat.PUBLIC).host("bob")
        pulled = home if which == "site" else alice
        assert alice.run("ping", "-n", "-c1", "-W2", bob.ip).code == 0
        pulled.unplug()
        assert alice.run("ping", "-n", "-c1", "-W1", bob.ip).code != 0
        pulled.plug_in()
        assert alice.run("ping", "-n", "-c1", "-W2", bob.ip).code == 0


def test_ipv6_is_routed_and_filtered_without_translation() -> None:
    with Lab("six") as lab:
        alice = lab.site("home", Nat.PORT_RESTRICTED, ipv6=True).host("alice")
        bob = lab.site("work", Nat.PUBLIC, ipv6=True).host("bob")
        assert alice.address_6 is not None
        assert bob.address_6 is not None
        assert alice.run("ping", "-6", "-n", "-c1", "-W2", str(bob.address_6.ip)).code == 0
        assert bob.run("ping", "-6", "-n", "-c1", "-W1", str(alice.address_6.ip)).code != 0


def test_counters_count_what_went_over_the_line() -> None:
    with Lab("counts") as lab:
        home = lab.site("home", Nat.PORT_RESTRICTED)
        alice, bob = home.host("alice"), lab.site("work", Nat.PUBLIC).host("bob")

        def send() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                for _ in range(100):
                    sender.sendto(bytes(1000), (bob.ip, 9))

        before = home.wan_counters()
        alice.namespace.inside(send)
        assert 100_000 < home.wan_counters().since(before).tx_bytes < 120_000


def test_it_works_without_root_in_namespaces_of_its_own() -> None:
    script = Path(__file__).with_name("rootless_lab.py")
    command = ["unshare", "-Urnm", sys.executable, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "alice reached bob"


def test_a_killed_program_reports_its_signal() -> None:
    with Lab("killed") as lab:
        program = lab.site("home", Nat.PUBLIC).host("alice").start("sleep", "1000", log="sleep.log")
        assert Path(f"/proc/{program.pid}").exists()
        assert program.kill() == -signal.SIGKILL
