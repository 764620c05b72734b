"""The units under a real systemd: three machines on which everything is done as the README says.

( internet )----[server]   discoveryd.service
   |        |
  ann      ben             fabricd.service
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from fabric.lab import Lab, Nat
from fabric.lab.namespace import LabError
from fabric.lab.overlay import side_by_side
from fabric.lab.product import until

sys.path.insert(0, str(Path(__file__).parent))
from systemd_host import SystemdHost, why_not

REQUIRE = "FABRIC_REQUIRE_NETNS"
SERVICE_STATE = "/var/lib/discovery"
ENDPOINT_STATE = "/var/lib/fabric"
KEYD_STATE, KEYD_SOCKET = "/var/lib/fabric-keyd", "/run/fabric-keyd/keyd.sock"
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN = 10, 12
WATCHDOG_S = 8

pytestmark = pytest.mark.timeout(120)


@dataclass(frozen=True)
class Machines:
    """All three, everything installed, enrolled and started; and the key that two of them were enrolled with."""

    server: SystemdHost
    ann: SystemdHost
    ben: SystemdHost
    key: str

    def of(self, unit: str) -> SystemdHost:
        """Where a unit runs."""
        return self.server if unit == "discoveryd" else self.ann


@pytest.fixture(scope="module")
def machines(lab: Lab) -> Iterator[Machines]:
    reason = why_not()
    if reason is not None and os.environ.get(REQUIRE) == "1":
        pytest.fail(f"{REQUIRE}=1, but {reason}")
    if reason is not None:
        pytest.skip(reason)
    hosts = [SystemdHost(lab, lab.site(f"s-{name}", Nat.PUBLIC).host(name)) for name in ("server", "ann", "ben")]
    try:
        side_by_side([partial(install, host) for host in hosts])
        yield set_up(*hosts)
    finally:
        side_by_side([host.power_off for host in hosts])


def install(host: SystemdHost) -> None:
    """The second half of `make install`; the first, the programs, came with the host."""
    host.await_booted()
    host.run("make", "-s", "-C", "/run/source", "install-units").must()


def set_up(server: SystemdHost, ann: SystemdHost, ben: SystemdHost) -> Machines:
    """ "Use it" of the README, word by word but for `sudo`."""
    as_service("init", "--network", "home", "--address", server.host.ip, on=server)
    start("discoveryd", server)
    key = as_service("key", "create", "--uses", "2", "--expires", "24h", on=server)
    shorten_watchdog(ben)
    side_by_side([partial(join, host, key) for host in (ann, ben)])
    ann.run("fabric", "add", "ben").must()
    ben.run("fabric", "add", "ann").must()
    return Machines(server, ann, ben, key)


def as_service(*words: str, on: SystemdHost) -> str:
    command = ("runuser", "-u", "fabric-discovery", "--", "discoveryd", *words, "--state", SERVICE_STATE)
    return on.run(*command).must().output.strip()


def join(host: SystemdHost, key: str) -> None:
    host.run("fabric", "enrol", key, "--name", host.host.name).must()
    start("fabricd", host)


def start(unit: str, host: SystemdHost) -> None:
    """Returns when the unit says that it serves; LabError, with its journal, if it doesn't."""
    done = host.run("systemctl", "enable", "--now", unit, timeout_s=40)
    if done.code != 0:
        raise LabError(f"{unit} on {host.host.name}: {done.errors}\n" + "\n".join(host.journal()[-20:]))


def shorten_watchdog(host: SystemdHost) -> None:
    """So that a test need not wait for the half minute of the unit."""
    text = f"[Service]\nWatchdogSec={WATCHDOG_S}\n"
    drop_in = "/etc/systemd/system/fabricd.service.d"
    host.run("sh", "-euc", f"mkdir -p {drop_in}; printf %s '{text}' >{drop_in}/watchdog.conf").must()
    host.run("systemctl", "daemon-reload").must()


def is_fresh(host: SystemdHost, before: str) -> bool:
    """Whether fabricd serves in another process than `before`."""
    shown = host.show("fabricd", "ActiveState", "MainPID")
    return shown["ActiveState"] == "active" and shown["MainPID"] not in ("0", before)


def restarts(host: SystemdHost) -> int:
    return int(host.show("fabricd", "NRestarts")["NRestarts"])


def assert_connected(one: SystemdHost, other: SystemdHost) -> None:
    name = other.host.name
    waited = one.run("fabric", "wait", name, "--path", "direct", "--timeout", "20", timeout_s=40)
    assert waited.code == 0, waited.errors + "\n".join(one.journal()[-20:])
    assert one.run("fabric", "ping", name, "-c", "1").code == 0


# both serve


@pytest.mark.parametrize("unit", ["discoveryd", "fabricd"])
def test_a_unit_becomes_active_and_comes_back_at_boot(machines: Machines, unit: str) -> None:
    shown = machines.of(unit).show(unit, "Type", "ActiveState", "SubState", "NRestarts", "UnitFileState")
    assert shown == {
        "Type": "notify",
        "ActiveState": "active",
        "SubState": "running",
        "NRestarts": "0",
        "UnitFileState": "enabled",
    }


def test_two_machines_installed_by_the_book_reach_each_other(machines: Machines) -> None:
    assert_connected(machines.ann, machines.ben)
    status = machines.ben.run("ip", "-4", "-o", "address", "show", "fabric0").must().output
    address = status.split()[3].partition("/")[0]
    machines.ann.run("ping", "-n", "-c", "2", "-i", "0.2", "-W", "2", address).must()


def test_the_service_listens_on_a_privileged_port_without_being_root(machines: Machines) -> None:
    user = machines.server.run("id", "-u", "fabric-discovery").must().output.strip()
    listening = machines.server.run("ss", "-Hltne", "sport = :443").must().output
    assert user != "0"
    assert f"uid:{user} " in listening


# hardened


@pytest.mark.parametrize(
    ("unit", "user", "capability"),
    [("discoveryd", "fabric-discovery", CAP_NET_BIND_SERVICE), ("fabricd", "fabric", CAP_NET_ADMIN)],
)
def test_a_daemon_has_one_capability_and_its_own_user(
    machines: Machines, unit: str, user: str, capability: int
) -> None:
    status = machines.of(unit).process(unit)
    number = machines.of(unit).run("id", "-u", user).must().output.strip()
    assert set(status["Uid"].split()) == {number}
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {f"{1 << capability:016x}"}
    assert status["NoNewPrivs"] == "1"
    assert status["Seccomp"] == "2"


def test_the_custodian_has_a_user_of_its_own_and_neither_capability_nor_network(machines: Machines) -> None:
    status = machines.ann.process("fabric-keyd")
    number = machines.ann.run("id", "-u", "fabric-keyd").must().output.strip()
    assert set(status["Uid"].split()) == {number} != {machines.ann.run("id", "-u", "fabric").must().output.strip()}
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {f"{0:016x}"}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    inside = ("nsenter", f"--target={machines.ann.main_pid('fabric-keyd')}", "--net")
    assert machines.ann.run(*inside, "ip", "-o", "link", "show").must().output.count("\n") == 1


def test_the_daemon_has_no_key_and_can_not_read_the_custodians_files(machines: Machines) -> None:
    files = machines.ann.run("ls", "-A", ENDPOINT_STATE).must().output.split()
    assert "state.db" in files
    assert not {"identity.key", "identity.passphrase", "sealing.keys"} & set(files)
    kept = machines.ann.run("ls", "-A", KEYD_STATE).must().output.split()
    assert {"identity.key", "sealing.keys"} <= set(kept)
    assert machines.ann.run("runuser", "-u", "fabric", "--", "ls", KEYD_STATE).code != 0


def test_nobody_else_may_ask_the_custodian(machines: Machines) -> None:
    program = f"import socket; socket.socket(socket.AF_UNIX).connect('{KEYD_SOCKET}')"
    interpreter = "/opt/fabric/bin/python"
    assert machines.ann.run("runuser", "-u", "fabric", "--", interpreter, "-c", program).code == 0
    refused = machines.ann.run("runuser", "-u", "nobody", "--", interpreter, "-c", program)
    assert "PermissionError" in refused.errors


def test_root_moves_the_identity_to_another_custody_and_the_daemons_user_does_not(machines: Machines) -> None:
    moved = machines.ann.run("fabric", "custody", "move", "file").must()
    assert "key-file" in moved.output
    refused = machines.ann.run("runuser", "-u", "fabric", "--", "fabric", "custody", "move", "file")
    assert refused.code != 0
    assert "only root" in refused.errors


@pytest.mark.parametrize("unit", ["discoveryd", "fabricd"])
def test_a_daemon_sees_no_home_and_writes_nothing_but_its_state(machines: Machines, unit: str) -> None:
    host = machines.of(unit)
    host.run("touch", "/root/there").must()
    inside = ("nsenter", f"--target={host.main_pid(unit)}", "--mount")
    assert host.run(*inside, "ls", "/root/there").code != 0
    for place in ("/usr/there", "/etc/there", "/var/there"):
        refused = host.run(*inside, "touch", place)
        assert "Read-only file system" in refused.errors, place
    state = SERVICE_STATE if unit == "discoveryd" else ENDPOINT_STATE
    host.run(*inside, "sh", "-euc", f"touch {state}/there; rm {state}/there").must()


def test_the_service_sees_no_devices(machines: Machines) -> None:
    inside = ("nsenter", f"--target={machines.server.main_pid('discoveryd')}", "--mount")
    assert machines.server.run("ls", "/dev/net/tun").code == 0
    assert machines.server.run(*inside, "ls", "/dev/net/tun").code != 0


def test_the_service_may_open_a_file_for_each_connection_it_allows(machines: Machines) -> None:
    """As far as process 1 may give it that many, which one without CAP_SYS_RESOURCE may not."""
    wanted = int(machines.server.show("discoveryd", "LimitNOFILE")["LimitNOFILE"])
    configuration = machines.server.run("cat", f"{SERVICE_STATE}/config.toml").must().output
    (setting,) = [line for line in configuration.splitlines() if "max_connections " in line]
    assert wanted > int(setting.rpartition("=")[2])
    soft, hard = open_files(machines.server, machines.server.main_pid("discoveryd"))
    assert soft == hard
    assert hard == wanted or hard >= open_files(machines.server, "1")[1]


def open_files(host: SystemdHost, pid: str) -> tuple[int, int]:
    """How many files a process may open, and how many it may let itself open."""
    limits = host.run("cat", f"/proc/{pid}/limits").must().output
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    return int(soft), int(hard)


# kept running


def test_a_daemon_that_is_killed_is_started_again_and_connects(machines: Machines) -> None:
    before = machines.ann.main_pid("fabricd")
    machines.ann.run("kill", "-KILL", before).must()
    until(partial(is_fresh, machines.ann, before), "fabricd is started again")
    assert restarts(machines.ann) == 1
    assert_connected(machines.ann, machines.ben)
    assert_connected(machines.ben, machines.ann)


def test_a_custodian_that_is_killed_or_restarted_is_noticed_by_nobody(machines: Machines) -> None:
    before, daemon = machines.ann.main_pid("fabric-keyd"), machines.ann.main_pid("fabricd")
    machines.ann.run("kill", "-KILL", before).must()
    machines.ben.run("systemctl", "restart", "fabricd", timeout_s=40).must()
    assert_connected(machines.ben, machines.ann)
    assert machines.ann.main_pid("fabric-keyd") not in ("0", before)
    machines.ann.run("systemctl", "restart", "fabric-keyd").must()
    machines.ben.run("systemctl", "restart", "fabricd", timeout_s=40).must()
    assert_connected(machines.ann, machines.ben)
    assert machines.ann.main_pid("fabricd") == daemon


def test_keys_of_an_endpoint_that_had_its_own_move_to_the_custodian(machines: Machines) -> None:
    """As they lie after an update from a version without one."""
    host = machines.ben
    fingerprint = json.loads(host.run("fabric", "status", "--json").must().output)["endpoint"]["fingerprint"]
    host.run("systemctl", "stop", "fabricd", "fabric-keyd.service", timeout_s=20).must()
    for name in ("identity.key", "identity.passphrase"):
        host.run("install", "-m", "0600", "-o", "fabric", f"{KEYD_STATE}/{name}", f"{ENDPOINT_STATE}/{name}").must()
    host.run("sh", "-euc", f"rm {KEYD_STATE}/*").must()
    host.run("systemctl", "start", "fabricd", timeout_s=40).must()
    assert json.loads(host.run("fabric", "status", "--json").must().output)["endpoint"]["fingerprint"] == fingerprint
    assert not {"identity.key", "identity.passphrase"} & set(host.run("ls", "-A", ENDPOINT_STATE).must().output.split())
    assert_connected(host, machines.ann)


def test_the_watchdog_is_fed_and_a_daemon_that_hangs_is_started_again(machines: Machines) -> None:
    field = "WatchdogTimestampMonotonic"
    fed = machines.ben.show("fabricd", field)[field]
    until(lambda: machines.ben.show("fabricd", field)[field] > fed, "the watchdog is fed", WATCHDOG_S)
    before = machines.ben.main_pid("fabricd")
    machines.ben.run("kill", "-STOP", before).must()
    until(partial(is_fresh, machines.ben, before), "fabricd is started again", WATCHDOG_S + 15)
    assert restarts(machines.ben) == 1
    assert_connected(machines.ben, machines.ann)


def test_a_wish_of_root_while_the_daemon_is_down_leaves_it_able_to_start(machines: Machines) -> None:
    stop("fabricd", machines.ann)
    assert machines.ann.run("ip", "link", "show", "fabric0").code != 0
    machines.ann.run("fabric", "add", "nobody-yet").must()
    machines.ann.run("systemctl", "start", "fabricd", timeout_s=40).must()
    assert "nobody-yet" in machines.ann.run("fabric", "status", "--json").must().output
    assert_connected(machines.ann, machines.ben)


def test_a_mistake_of_configuration_is_told_and_not_tried_again(machines: Machines) -> None:
    stop("fabricd", machines.ben)
    machines.ben.run("sh", "-euc", f"echo 'nonsense = 1' >>{ENDPOINT_STATE}/config.toml").must()
    assert machines.ben.run("systemctl", "start", "fabricd", timeout_s=40).code != 0
    shown = machines.ben.show("fabricd", "ActiveState", "SubState", "ExecMainStatus")
    assert shown == {"ActiveState": "failed", "SubState": "failed", "ExecMainStatus": "78"}
    assert any('there is no setting "nonsense"' in message for message in machines.ben.journal())
    machines.ben.run("rm", f"{ENDPOINT_STATE}/config.toml").must()
    machines.ben.run("systemctl", "start", "fabricd", timeout_s=40).must()


def test_a_host_gets_a_new_identity_by_the_book(machines: Machines) -> None:
    host = machines.ben
    before = json.loads(host.run("fabric", "status", "--json").must().output)["endpoint"]["fingerprint"]
    as_service("endpoint", "revoke", "ben", on=machines.server)
    host.run("systemctl", "stop", "fabricd", "fabric-keyd.service", timeout_s=20).must()
    host.run("find", ENDPOINT_STATE, KEYD_STATE, "-mindepth", "1", "!", "-name", "config.toml", "-delete").must()
    key = as_service("key", "create", "--uses", "1", "--expires", "24h", on=machines.server)
    host.run("fabric", "enrol", key, "--name", "ben").must()
    host.run("systemctl", "start", "fabricd", timeout_s=40).must()
    after = json.loads(host.run("fabric", "status", "--json").must().output)["endpoint"]["fingerprint"]
    assert after != before


# the end


def stop(unit: str, host: SystemdHost) -> None:
    """Stops a unit; an error if it takes long or does not end as it should."""
    host.run("systemctl", "stop", unit, timeout_s=8).must()
    shown = host.show(unit, "ActiveState", "Result", "ExecMainStatus")
    assert shown == {"ActiveState": "inactive", "Result": "success", "ExecMainStatus": "0"}


def test_a_stop_is_quick_and_clean(machines: Machines) -> None:
    stop("discoveryd", machines.server)
    stop("fabricd", machines.ann)
    stop("fabricd", machines.ben)


def test_the_journal_has_no_traceback_and_no_secret(machines: Machines) -> None:
    passphrase = machines.ann.run("cat", f"{KEYD_STATE}/identity.passphrase").must().output.strip()
    for host in (machines.server, machines.ann, machines.ben):
        journal = "\n".join(host.journal())
        assert "Started f" in journal or "Started d" in journal
        assert "Traceback" not in journal
        for secret in (machines.key, passphrase, "fabric-key-"):
            assert secret not in journal
