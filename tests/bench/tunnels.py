"""The tunnels that are measured, each set up the way its own documentation says, with keys made for the run.

All are Ethernet tunnels. Where a tunnel lets one choose, its inner MTU is 1,400, so that no outer packet fragments.
"""

from __future__ import annotations

import datetime
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fabric.lab import Host, LabError, Program
from fabric.lab.namespace import SEARCH_PATH
from fabric.lab.product import until
from tests.bench.cable import DEVICE, INNER_LEFT, INNER_RIGHT, LEFT, OUTER_MTU, RIGHT, Cable

INNER_MTU = 1400
PORT = 5999
TAP = "tap0"
NO_CIPHER = "none"


@dataclass(frozen=True, slots=True)
class Raised:
    """A tunnel that stands: the device at both ends, the right end's address inside, and the programs that carry it."""

    device: str
    target: str
    left: Sequence[Program] = ()
    right: Sequence[Program] = ()

    @property
    def programs(self) -> tuple[Program, ...]:
        return (*self.left, *self.right)


@dataclass(frozen=True, slots=True)
class Tunnel:
    """A kind of tunnel: what it is called in the tables, its cipher, the programs it needs, and how to raise it."""

    label: str
    cipher: str
    needs: tuple[str, ...]
    raise_: Callable[[Cable], Raised]

    def missing(self) -> list[str]:
        return [program for program in self.needs if shutil.which(program, path=SEARCH_PATH) is None]


def _raise_veth(cable: Cable) -> Raised:
    return Raised(DEVICE, str(RIGHT.ip))


def _raise_vxlan(cable: Cable) -> Raised:
    for host, mine, other in cable.ends():
        words = ["link", "add", "name", TAP, "type", "vxlan", "id", "42", "dev", DEVICE]
        host.run("ip", *words, "local", str(mine.ip), "remote", str(other.ip), "dstport", "4789").must()
    return Raised(_address(cable, TAP, mtu=OUTER_MTU - 50), str(INNER_RIGHT.ip))


def _raise_tinc(cable: Cable) -> Raised:
    directories = {host.name: _tinc_directory(cable, host.name, mine, other) for host, mine, other in cable.ends()}
    for mine in directories.values():
        for other in directories.values():
            if mine is not other:
                name = other.name.removeprefix("tinc-")
                shutil.copy(other / "hosts" / name, mine / "hosts" / name)
    left, right = (
        cable.start(
            host, ["tincd", "-D", "-c", str(directories[host.name]), f"--pidfile={cable.lab.directory}/{host.name}.pid"]
        )
        for host in (cable.left, cable.right)
    )
    return _await(cable, Raised(TAP, str(INNER_RIGHT.ip), [left], [right]))


def _tinc_directory(cable: Cable, name: str, mine: IPv4Interface, other: IPv4Interface) -> Path:
    directory = cable.lab.directory / f"tinc-{name}"
    (directory / "hosts").mkdir(parents=True)
    peer = "right" if name == "left" else "left"
    (directory / "tinc.conf").write_text(
        f"Name = {name}\nMode = switch\nDeviceType = tap\nInterface = {TAP}\nConnectTo = {peer}\nPort = {PORT}\n"
    )
    (directory / "hosts" / name).write_text(f"Address = {mine.ip}\nPort = {PORT}\n")
    cable.left.run("tincd", "-c", str(directory), "-K", "2048", feed="\n\n").must()
    return directory


def _raise_fastd(cable: Cable) -> Raised:
    keys = {host.name: _fastd_keys(host) for host, _, _ in cable.ends()}
    started = {}
    for host, mine, other in reversed(cable.ends()):
        peer = "right" if host.name == "left" else "left"
        # Only the left calls: two that call at the same moment now and then disagree on whose session it is.
        remote = f"remote {other.ip}:{PORT};" if host.name == "left" else ""
        configuration = cable.lab.directory / f"fastd-{host.name}.conf"
        configuration.write_text(
            f'mode tap;\ninterface "{TAP}";\nmethod "salsa2012+umac";\nbind {mine.ip}:{PORT};\nmtu {INNER_MTU};\n'
            f'secret "{keys[host.name][0]}";\npersist interface no;\n'
            f'peer "{peer}" {{ key "{keys[peer][1]}"; {remote} }}\n'
        )
        program = started[host.name] = cable.start(host, ["fastd", "--config", str(configuration)])
        until(partial(_says, program, "bound to"), "fastd bound")
    return _await(cable, Raised(TAP, str(INNER_RIGHT.ip), [started["left"]], [started["right"]]))


def _fastd_keys(host: Host) -> tuple[str, str]:
    """(secret, public) in hexadecimal."""
    printed = host.run("fastd", "--generate-key").must().output + "\n"
    found = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    return found["Secret"].strip(), found["Public"].strip()


def _raise_openvpn(cable: Cable) -> Raised:
    fingerprints = {host.name: _openvpn_identity(cable.lab.directory, host.name) for host, _, _ in cable.ends()}
    programs = []
    for host, mine, other in cable.ends():
        peer = "right" if host.name == "left" else "left"
        files = cable.lab.directory / f"openvpn-{host.name}"
        role = ["--tls-client"] if host.name == "left" else ["--tls-server", "--dh", "none"]
        words = ["--dev", TAP, "--dev-type", "tap", "--proto", "udp", "--port", str(PORT), "--tun-mtu", str(INNER_MTU)]
        words += ["--local", str(mine.ip), "--remote", str(other.ip), *role, "--data-ciphers", "AES-256-GCM"]
        words += ["--cert", f"{files}.crt", "--key", f"{files}.key", "--peer-fingerprint", fingerprints[peer]]
        programs.append(cable.start(host, ["openvpn", *words]))
    return _await(cable, Raised(TAP, str(INNER_RIGHT.ip), programs[:1], programs[1:]))


def _openvpn_identity(directory: Path, name: str) -> str:
    """Writes a self-signed certificate and its key; returns the fingerprint the way OpenVPN wants it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (directory / f"openvpn-{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    secret = directory / f"openvpn-{name}.key"
    secret.touch(mode=0o600)
    secret.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return certificate.fingerprint(hashes.SHA256()).hex(":")


def _raise_n2n(cable: Cable) -> Raised:
    supernode = cable.start(cable.left, ["supernode", "-l", "7654"])
    programs = []
    for host, inner, mac in (
        (cable.left, INNER_LEFT, "02:00:00:00:00:01"),
        (cable.right, INNER_RIGHT, "02:00:00:00:00:02"),
    ):
        network = ["-a", str(inner.ip), "-s", str(inner.netmask), "-m", mac, "-M", str(INNER_MTU)]
        words = ["-d", TAP, *network, "-c", "bench", "-k", "made-for-this-run", "-l", f"{LEFT.ip}:7654"]
        programs.append(cable.start(host, ["edge", *words, "-p", str(PORT)]))
    return _await(cable, Raised(TAP, str(INNER_RIGHT.ip), [programs[0], supernode], programs[1:]), addressed=True)


def _await(cable: Cable, raised: Raised, *, addressed: bool = False) -> Raised:
    """Waits for the devices, gives them their inner addresses unless the tunnel did, and waits for the first ping."""
    for host in (cable.left, cable.right):
        until(partial(_has_device, host), f"{TAP} on {host.name}")
    if not addressed:
        _address(cable, raised.device, mtu=INNER_MTU)
    try:
        until(lambda: cable.left.run("ping", "-c1", "-W1", raised.target).code == 0, "the first ping")
    except LabError as error:
        words = "\n".join(program.output()[-1500:] for program in raised.programs)
        raise LabError(f"{error}; its last words:\n{words}") from None
    return raised


def _has_device(host: Host) -> bool:
    return host.run("ip", "link", "show", "dev", TAP).code == 0


def _says(program: Program, words: str) -> bool:
    return words in program.output()


def _address(cable: Cable, device: str, *, mtu: int) -> str:
    for host, inner in ((cable.left, INNER_LEFT), (cable.right, INNER_RIGHT)):
        host.run("ip", "link", "set", "dev", device, "mtu", str(mtu), "up").must()
        host.namespace.add_address(device, inner)
    return device


COMPETITORS = (
    Tunnel("raw veth", NO_CIPHER, (), _raise_veth),
    Tunnel("kernel VXLAN", NO_CIPHER, ("ip",), _raise_vxlan),
    Tunnel("fastd", "salsa2012+umac", ("fastd",), _raise_fastd),
    Tunnel("tinc 1.0", "aes-256-cbc, sha256", ("tincd",), _raise_tinc),
    Tunnel("openvpn", "aes-256-gcm", ("openvpn",), _raise_openvpn),
    Tunnel("n2n", "twofish", ("edge", "supernode"), _raise_n2n),
)
