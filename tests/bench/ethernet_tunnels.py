"""Ethernet tunnels that Debian packages, each set up the way its own documentation says, with keys made for the run.

The right end stands before the left program starts, so that what passes until the first ping is the left one's start.
"""

from __future__ import annotations

import datetime
import shutil
import time
from collections.abc import Callable, Sequence
from functools import partial
from ipaddress import IPv4Interface
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from fabric.lab import Host, Program
from tests.bench.cable import INNER_LEFT, INNER_RIGHT, LEFT, Cable
from tests.bench.tunnels import (
    AES,
    CHACHA,
    INNER_MTU,
    PORT,
    TAP,
    Raised,
    Tunnel,
    address,
    await_device,
    await_echo,
    await_words,
)


def _raise(
    cable: Cable,
    start: Callable[[Host], Program],
    *,
    ready: str | None = None,
    addressed: bool = False,
    besides: Sequence[Program] = (),
) -> Raised:
    """Starts the right end, waits for its device and for its words `ready`, then starts and times the left end.

    `addressed`: the program gives its device the address itself.
    """
    right = _stand(cable, cable.right, start, addressed)
    if ready is not None:
        await_words(right, ready)
    began = time.monotonic()
    left = _stand(cable, cable.left, start, addressed)
    target = str(INNER_RIGHT.ip)
    took = await_echo(cable.left, target, began, [left, right])
    return Raised(TAP, target, [left, *besides], [right], took)


def _stand(cable: Cable, host: Host, start: Callable[[Host], Program], addressed: bool) -> Program:
    program = start(host)
    await_device(host, TAP, program)
    if not addressed:
        address(cable, host, TAP)
    return program


# -- tinc ---------------------------------------------------------------------------------------------------------


def _raise_tinc(cable: Cable) -> Raised:
    directories = {host.name: _tinc_directory(cable, host.name, mine) for host, mine, _ in cable.ends()}
    for mine in directories.values():
        for other in directories.values():
            if mine is not other:
                name = other.name.removeprefix("tinc-")
                shutil.copy(other / "hosts" / name, mine / "hosts" / name)

    def start(host: Host) -> Program:
        pid_file = f"--pidfile={cable.lab.directory}/{host.name}.pid"
        return cable.start(host, ["tincd", "-D", "-c", str(directories[host.name]), pid_file])

    return _raise(cable, start)


def _tinc_directory(cable: Cable, name: str, mine: IPv4Interface) -> Path:
    directory = cable.lab.directory / f"tinc-{name}"
    (directory / "hosts").mkdir(parents=True)
    # Only the left calls: the right would find nobody at first, and wait five seconds before it tries again.
    call = "ConnectTo = right\n" if name == "left" else ""
    (directory / "tinc.conf").write_text(
        f"Name = {name}\nMode = switch\nDeviceType = tap\nInterface = {TAP}\nPort = {PORT}\n{call}"
    )
    (directory / "hosts" / name).write_text(f"Address = {mine.ip}\nPort = {PORT}\n")
    cable.left.run("tincd", "-c", str(directory), "-K", "2048", feed="\n\n").must()
    return directory


# -- fastd --------------------------------------------------------------------------------------------------------


def _raise_fastd(cable: Cable) -> Raised:
    keys = {host.name: _fastd_keys(host) for host, _, _ in cable.ends()}
    files = {}
    for host, mine, other in cable.ends():
        peer = "right" if host.name == "left" else "left"
        # Only the left calls: two that call at the same moment now and then disagree on whose session it is.
        remote = f"remote {other.ip}:{PORT};" if host.name == "left" else ""
        files[host.name] = cable.lab.directory / f"fastd-{host.name}.conf"
        files[host.name].write_text(
            f'mode tap;\ninterface "{TAP}";\nmethod "salsa2012+umac";\nbind {mine.ip}:{PORT};\nmtu {INNER_MTU};\n'
            f'secret "{keys[host.name][0]}";\npersist interface no;\n'
            f'peer "{peer}" {{ key "{keys[peer][1]}"; {remote} }}\n'
        )
    return _raise(cable, lambda host: cable.start(host, ["fastd", "--config", str(files[host.name])]), ready="bound to")


def _fastd_keys(host: Host) -> tuple[str, str]:
    """(secret, public) in hexadecimal."""
    printed = host.run("fastd", "--generate-key").must().output + "\n"
    found = dict(line.split(": ", 1) for line in printed.splitlines() if ": " in line)
    return found["Secret"].strip(), found["Public"].strip()


# -- OpenVPN ------------------------------------------------------------------------------------------------------


def _raise_openvpn(cable: Cable, cipher: str) -> Raised:
    fingerprints = {host.name: _openvpn_identity(cable.lab.directory, host.name) for host, _, _ in cable.ends()}

    def start(host: Host) -> Program:
        peer = "right" if host.name == "left" else "left"
        mine, other = cable.outer(host)
        files = cable.lab.directory / f"openvpn-{host.name}"
        role = ["--tls-client"] if host.name == "left" else ["--tls-server", "--dh", "none"]
        words = ["--dev", TAP, "--dev-type", "tap", "--proto", "udp", "--port", str(PORT), "--tun-mtu", str(INNER_MTU)]
        words += ["--local", str(mine.ip), "--remote", str(other.ip), *role, "--data-ciphers", cipher.upper()]
        words += ["--cert", f"{files}.crt", "--key", f"{files}.key", "--peer-fingerprint", fingerprints[peer]]
        return cable.start(host, ["openvpn", *words])

    return _raise(cable, start)


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


# -- n2n ----------------------------------------------------------------------------------------------------------


def _raise_n2n(cable: Cable) -> Raised:
    supernode = cable.start(cable.left, ["supernode", "-l", "7654"])
    inside = {"left": (INNER_LEFT, "02:00:00:00:00:01"), "right": (INNER_RIGHT, "02:00:00:00:00:02")}

    def start(host: Host) -> Program:
        inner, mac = inside[host.name]
        network = ["-a", str(inner.ip), "-s", str(inner.netmask), "-m", mac, "-M", str(INNER_MTU)]
        words = ["-d", TAP, *network, "-c", "bench", "-k", "made-for-this-run", "-l", f"{LEFT.ip}:7654"]
        return cable.start(host, ["edge", *words, "-p", str(PORT)])

    return _raise(cable, start, addressed=True, besides=[supernode])


FASTD = Tunnel("fastd", "salsa2012+umac", ("fastd",), _raise_fastd)
TINC = Tunnel("tinc 1.0", "aes-256-cbc, sha256", ("tincd",), _raise_tinc)
N2N = Tunnel("n2n", "twofish", ("edge", "supernode"), _raise_n2n)


def openvpn(cipher: str = AES) -> Tunnel:
    return Tunnel("openvpn", cipher, ("openvpn",), partial(_raise_openvpn, cipher=cipher))


OPENVPN = (openvpn(AES), openvpn(CHACHA))
