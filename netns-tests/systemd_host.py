"""A host of the laboratory with systemd as its first process, and the product installed on it as on any other.

It has the file system of this machine below an overlay of its own (on a tmpfs: nothing of this machine changes), its
own /dev, /run, /tmp and control group, and processes, mounts, host name and IPC of its own; the network is that of
the host. Interpreter, dependencies and packages come from this machine; `make install-units` puts the units there.

    sh, which waits and cleans up > unshare > systemd (process 1) > journald, discoveryd, fabricd, ...
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from fabric.lab import Host, Lab
from fabric.lab.namespace import LabError
from fabric.lab.product import until
from fabric.lab.program import Finished, Program

REPOSITORY = Path(__file__).resolve().parent.parent
SYSTEMD = next(
    (path for path in map(Path, ("/lib/systemd/systemd", "/usr/lib/systemd/systemd")) if path.exists()), None
)
HOMES = ("/root/", "/home/")
"""What `ProtectHome=yes` hides from a service."""
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
BOOT_WITHIN_S = 30.0

# Process 1 does not hear SIGTERM: what is asked to end kills it, waits for the rest and takes the control groups away.
KEEPER = """
mount -t tmpfs tmpfs "$ROOT"
mkdir "$ROOT/cgroup" "$ROOT/root" "$ROOT/upper" "$ROOT/work"
mount -t cgroup2 cgroup2 "$ROOT/cgroup"
group="$ROOT/cgroup/$GROUP"
mkdir "$group"
(
    echo 0 >"$group/cgroup.procs"
    exec unshare --fork --kill-child --pid --mount --cgroup --uts --ipc sh -euc "$HOST"
) &
child=$!
trap 'kill -KILL $child' TERM INT
wait $child || true
trap '' TERM INT
wait $child || true
tries=0
while grep -q 'populated 1' "$group/cgroup.events" && [ $tries -lt 50 ]; do
    tries=$((tries + 1))
    sleep 0.1
done
find "$group" -depth -type d -exec rmdir {} +
"""

# /sys and /proc/sys are read-only but for the network's, as in any container: nothing of the kernel that this machine
# shares is set, and udev, which has nothing to do here, is not started.
# /etc/systemd/system is emptied of what this machine happens to have enabled.
HOST = """
cd "$ROOT/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$ROOT/upper,workdir=$ROOT/work" "$ROOT/root"
cd "$ROOT/root"
mount -t proc proc proc
mount --rbind proc/sys proc/sys
mount --bind proc/sys/net proc/sys/net
mount -o remount,bind,ro proc/sys
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -o remount,bind,ro sys
for each in run tmp dev; do mount -t tmpfs -o mode=0755 tmpfs "$each"; done
chmod 1777 tmp
mkdir dev/pts dev/shm dev/net
mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts dev/pts
mount -t tmpfs -o mode=1777 tmpfs dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mknod -m 0666 dev/null c 1 3
mknod -m 0666 dev/zero c 1 5
mknod -m 0666 dev/full c 1 7
mknod -m 0666 dev/random c 1 8
mknod -m 0666 dev/urandom c 1 9
mknod -m 0666 dev/tty c 5 0
mknod -m 0666 dev/net/tun c 10 200
rm -rf etc/systemd/system/* var/log/journal opt/fabric usr/local/bin/fabric* usr/local/bin/discoveryd
mkdir -p run/source run/packages opt/fabric/bin "opt/fabric/$SITE"
echo "$NAME" >etc/hostname
cat /proc/sys/kernel/random/uuid | tr -d - >etc/machine-id
mount --bind "$REPOSITORY" run/source
mount --bind "$PACKAGES" run/packages
mount -o remount,bind,ro run/source
mount -o remount,bind,ro run/packages
ln -s "$INTERPRETER" opt/fabric/bin/python
printf 'home = %s\ninclude-system-site-packages = false\n' "${INTERPRETER%/*}" >opt/fabric/pyvenv.cfg
cp -R --preserve=timestamps run/source/fabric run/source/discovery "opt/fabric/$SITE/"
echo /run/packages >"opt/fabric/$SITE/packages.pth"
for each in fabric fabricd fabric-keyd discoveryd; do
    sed "1s,.*,#!/opt/fabric/bin/python," "$BIN/$each" >"opt/fabric/bin/$each"
    chmod 0755 "opt/fabric/bin/$each"
done
mkdir run/outside
pivot_root . run/outside
cd /
umount -l /run/outside
rmdir /run/outside
mount --make-rshared / # which systemd leaves to whoever starts it in a container, and credentials need
exec env -i container=other "PATH=$SEARCH_PATH" "$SYSTEMD" --system --unit=basic.target --show-status=no
"""


def why_not() -> str | None:
    """None where such a host can be booted; else one sentence with the reason."""
    if SYSTEMD is None or shutil.which("systemctl") is None:
        return "systemd is not installed: apt-get install systemd"
    for program in ("unshare", "nsenter", "make"):
        if shutil.which(program) is None:
            return f"{program} is not installed"
    if os.geteuid() != 0 or Path("/proc/self/uid_map").read_text().split() != ["0", "0", "4294967295"]:
        return "systemd as the first process of a host needs root outside of any user namespace"
    if "overlay" not in Path("/proc/filesystems").read_text():
        return "the kernel has no overlay file system: modprobe overlay"
    if _interpreter() is None:
        return f"there is no Python {sys.version_info.major}.{sys.version_info.minor} outside of {' and '.join(HOMES)}"
    return None


def _interpreter() -> Path | None:
    """A Python of our version that a service may see, which one in somebody's home is not."""
    program = f"python{sys.version_info.major}.{sys.version_info.minor}"
    places = [Path(sys.base_prefix, "bin"), Path("/usr/local/bin"), Path("/usr/bin")]
    found = [(place / program).resolve() for place in places if (place / program).exists()]
    return next((path for path in found if not str(path).startswith(HOMES)), None)


class SystemdHost:
    """Boots on `host`: begins with the constructor, goes on until `await_booted` returns."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.host = host
        root = lab.directory / f"{host.name}.root"
        root.mkdir()
        environment = self._environment(lab, root)
        words = ("unshare", "--mount", "--propagation", "private", "sh", "-euc", KEEPER)
        self.keeper: Program = host.start(*words, log=f"{host.name}.boot", environment=environment)
        self._first: int | None = None

    def _environment(self, lab: Lab, root: Path) -> Mapping[str, str]:
        site = Path("lib", f"python{sys.version_info.major}.{sys.version_info.minor}", "site-packages")
        return {
            "NAME": self.host.name,
            "ROOT": str(root),
            "GROUP": f"{lab.prefix}{self.host.name}",
            "HOST": HOST,
            "SYSTEMD": str(SYSTEMD),
            "SEARCH_PATH": SEARCH_PATH,
            "REPOSITORY": str(REPOSITORY),
            "PACKAGES": sysconfig.get_path("purelib"),
            "BIN": str(Path(sys.executable).parent),
            "INTERPRETER": str(_interpreter()),
            "SITE": str(site),
        }

    def await_booted(self) -> None:
        """Returns when process 1 has reached its target and takes orders. LabError if it doesn't get there."""
        try:
            until(self._is_booted, "systemd boots", BOOT_WITHIN_S)
        except LabError as error:
            raise LabError(f"{self.host.name}: {error}\n{self.keeper.output()}") from None

    def _is_booted(self) -> bool:
        if not self.keeper.running:
            raise LabError("ended before it had booted")
        return self._find_first() is not None and self.run("systemctl", "is-active", "basic.target").code == 0

    def _find_first(self) -> int | None:
        """The process id, as we see it, of the one that is number 1 in the host."""
        if self._first is None:
            inside = (pid for pid in self.host.namespace.processes() if _is_systemd(pid))
            self._first = next(inside, None)
        return self._first

    def power_off(self) -> None:
        """Pulls the plug. LabError, with what was said, if a control group is left."""
        if self.keeper.terminate() != 0:
            raise LabError(f"{self.host.name} did not end cleanly:\n{self.keeper.output()}")

    def run(self, *arguments: str, timeout_s: float = 20.0) -> Finished:
        """Runs a program on the host, as root, to its end."""
        if self._first is None:
            raise LabError(f"{self.host.name} is not booted")
        namespaces = ("--mount", "--pid", "--cgroup", "--uts", "--ipc", "--root", "--wd")
        enter = ("nsenter", f"--target={self._first}", *namespaces)
        clean = ("env", "-i", f"PATH={SEARCH_PATH}", "LANG=C.UTF-8")
        return self.host.run(*enter, "--", *clean, *arguments, timeout_s=timeout_s)

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """What `systemctl show` says of a unit."""
        shown = self.run("systemctl", "show", unit, f"--property={','.join(properties)}").must().output
        return dict(line.split("=", 1) for line in shown.splitlines())

    def main_pid(self, unit: str) -> str:
        """The number, on the host, of the main process of a unit; "0" if it has none."""
        return self.show(unit, "MainPID")["MainPID"]

    def process(self, unit: str) -> dict[str, str]:
        """/proc/PID/status of the main process of a unit."""
        status = self.run("cat", f"/proc/{self.main_pid(unit)}/status").must().output
        return {name: value.strip() for name, _, value in (line.partition(":") for line in status.splitlines())}

    def journal(self) -> list[str]:
        """Every message since boot."""
        entries = self.run("journalctl", "--no-pager", "--output=json", "--all").must().output
        return [_text(json.loads(line).get("MESSAGE")) for line in entries.splitlines()]


def _is_systemd(pid: int) -> bool:
    """Whether it is the first of its process namespace, and past the shell that prepares the host."""
    try:
        status = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return False
    fields = {name: value.split() for name, _, value in (line.partition(":") for line in status)}
    return fields["Name"] == ["systemd"] and fields["NSpid"][-1] == "1"


def _text(message: object) -> str:
    """journalctl writes what is not plain text as a list of bytes."""
    return bytes(message).decode(errors="replace") if isinstance(message, list) else str(message)
