"""Layer 3 tunnels in user space that Debian packages: wireguard-go and nebula, with keys made for the run.

They carry IP packets and no Ethernet frames: no address resolution, 14 bytes less a packet.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

from fabric.lab import Host, Program
from tests.bench.cable import INNER_LEFT, INNER_RIGHT, Cable
from tests.bench.tunnels import (
    AES,
    CHACHA,
    INNER_MTU,
    PORT,
    Raised,
    Tunnel,
    address,
    await_device,
    await_echo,
    await_words,
)

TUN = "tun0"
INNER = {"left": INNER_LEFT, "right": INNER_RIGHT}
OTHER = {"left": "right", "right": "left"}

# -- wireguard-go -------------------------------------------------------------------------------------------------

_OWN_RUN = 'mount -t tmpfs tmpfs /run && mkdir -p /run/wireguard && exec "$0" "$@"'
"""Its control socket is named after the device alone, so each end gets a /run of its own."""


def _raise_wireguard(cable: Cable) -> Raised:
    public = {host.name: _wireguard_key(cable, host) for host in (cable.left, cable.right)}
    right = _start_wireguard(cable, cable.right, public["left"])
    began = time.monotonic()
    left = _start_wireguard(cable, cable.left, public["right"])
    target = str(INNER_RIGHT.ip)
    return Raised(TUN, target, [left], [right], await_echo(cable.left, target, began, [left, right]))


def _wireguard_key(cable: Cable, host: Host) -> str:
    """Writes a secret key and returns the public one."""
    secret = host.run("wg", "genkey").must().output
    _keep(cable.lab.directory / f"wireguard-{host.name}.key", secret)
    return host.run("wg", "pubkey", feed=secret).must().output.strip()


def _start_wireguard(cable: Cable, host: Host, peer: str) -> Program:
    program = cable.start(host, ["unshare", "--mount", "sh", "-c", _OWN_RUN, "wireguard-go", "--foreground", TUN])
    await_device(host, TUN, program)
    _configure_wireguard(cable, host, program, peer)
    address(cable, host, TUN)
    return program


def _configure_wireguard(cable: Cable, host: Host, program: Program, peer: str) -> None:
    _, outer = cable.outer(host)
    words = [TUN, "listen-port", str(PORT), "private-key", str(cable.lab.directory / f"wireguard-{host.name}.key")]
    words += ["peer", peer, "endpoint", f"{outer.ip}:{PORT}", "allowed-ips", str(INNER_LEFT.network)]
    inside = ["nsenter", f"--target={program.pid}", "--mount"]
    # The device is there a moment before the socket that takes the words.
    deadline = time.monotonic() + 5
    while (done := host.run(*inside, "wg", "set", *words)).code != 0 and time.monotonic() < deadline:
        time.sleep(0.01)
    done.must()


# -- nebula -------------------------------------------------------------------------------------------------------


def _raise_nebula(cable: Cable, cipher: str) -> Raised:
    authority = cable.lab.directory / "nebula-ca"
    cable.left.run(
        *("nebula-cert", "ca", "-name", "bench", "-out-crt", f"{authority}.crt", "-out-key", f"{authority}.key")
    ).must()
    configurations = {host.name: _nebula_configuration(cable, host, cipher) for host in (cable.left, cable.right)}
    right = _start_nebula(cable, cable.right, configurations["right"])
    began = time.monotonic()
    left = _start_nebula(cable, cable.left, configurations["left"])
    target = str(INNER_RIGHT.ip)
    return Raised(TUN, target, [left], [right], await_echo(cable.left, target, began, [left, right]))


def _start_nebula(cable: Cable, host: Host, configuration: Path) -> Program:
    program = cable.start(host, ["nebula", "-config", str(configuration)])
    await_words(program, "Nebula interface is active")
    return program


def _nebula_configuration(cable: Cable, host: Host, cipher: str) -> Path:
    """Signs a certificate and writes a configuration, which is YAML and so takes JSON's words as well."""
    directory = cable.lab.directory
    files = directory / f"nebula-{host.name}"
    authority = directory / "nebula-ca"
    signer = ["-ca-crt", f"{authority}.crt", "-ca-key", f"{authority}.key"]
    words = ["-name", host.name, "-ip", str(INNER[host.name]), "-out-crt", f"{files}.crt", "-out-key", f"{files}.key"]
    host.run("nebula-cert", "sign", *signer, *words).must()
    mine, other = cable.outer(host)
    configuration = directory / f"nebula-{host.name}.yml"
    configuration.write_text(
        f"pki: {{ca: {authority}.crt, cert: {files}.crt, key: {files}.key}}\n"
        f'static_host_map: {{"{INNER[OTHER[host.name]].ip}": ["{other.ip}:{PORT}"]}}\n'
        "lighthouse: {am_lighthouse: false, hosts: []}\n"
        f"listen: {{host: {mine.ip}, port: {PORT}}}\n"
        f"cipher: {_NEBULA_CIPHERS[cipher]}\n"
        f"tun: {{dev: {TUN}, mtu: {INNER_MTU}}}\n"
        "firewall:\n"
        "  outbound: [{port: any, proto: any, host: any}]\n"
        "  inbound: [{port: any, proto: any, host: any}]\n"
    )
    return configuration


def _keep(path: Path, secret: str) -> None:
    path.touch(mode=0o600)
    path.write_text(secret)


_NEBULA_CIPHERS = {AES: "aes", CHACHA: "chachapoly"}


def nebula(cipher: str = AES) -> Tunnel:
    return Tunnel("nebula", cipher, ("nebula", "nebula-cert"), partial(_raise_nebula, cipher=cipher), layer=3)


WIREGUARD = Tunnel("wireguard-go", CHACHA, ("wireguard-go", "wg", "unshare", "nsenter"), _raise_wireguard, layer=3)
NEBULA = (nebula(AES), nebula(CHACHA))
