"""What an operator may set: DIR/config.toml, and for each line of it a twin in the environment.

    port = 8443                          DISCOVERY_PORT=8443
    listen = ["192.0.2.10"]              DISCOVERY_LISTEN=192.0.2.10

The environment wins over the file, and options of the command line over both. What `discoveryd init` settles for
good (network, overlay) is not here but in the store.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated

import msgspec

from discovery.core.settings import DAY_S
from fabric.errors import ConfigurationError
from fabric.identity.service_certificate import canonical_host
from fabric.shell.settings_file import load_settings
from fabric.wire.rendezvous import RelayPlace

DEFAULT_STATE = Path("/var/lib/discovery")
DEFAULT_RELAY_STATE = Path("/var/lib/discovery-relay")
STATE_VARIABLE = "DISCOVERY_STATE"
PREFIX = "DISCOVERY_"
CONFIG_FILE = "config.toml"
DEFAULT_UDP_PORT = 3478
DEFAULT_TLS_PORT = 443

Port = Annotated[int, msgspec.Meta(ge=0, le=65_535)]
Positive = Annotated[float, msgspec.Meta(gt=0)]
Count = Annotated[int, msgspec.Meta(ge=1)]

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}))?")

_RELAY = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(?::([0-9]{1,5}):([0-9]{1,5}))?")


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Times in seconds. Rates are per second and per source: an IPv4 address, or the /64 of an IPv6 address."""

    port: Port = 443
    """TCP: enrolment, channel, relay. 0 draws one."""
    stun_port: Port = 3478
    """UDP and TCP. 0 draws one."""
    stun_alternate_port: Port = 3479
    """UDP and TCP: answers from here show endpoints what their NAT does. 0: none; beside a drawn one, it is drawn."""
    listen: tuple[str, ...] = ("0.0.0.0", "::")  # noqa: S104 - a public service
    """IP addresses to listen on."""
    addresses: tuple[str, ...] = ()
    """Where endpoints reach the service, HOST or HOST:PORT, instead of those given to `discoveryd init`."""
    stun: tuple[str, ...] = ()
    """STUN servers that endpoints are told, HOST:PORT; without it, this service's own."""
    relay: bool = True
    """Forward for introduced pairs, over the UDP port and over TLS."""
    relays: tuple[str, ...] = ()
    """Other relays that endpoints are told: HOST, or HOST:UDP_PORT:TLS_PORT (0: not served there)."""
    relay_rate_bytes_s: Count = 12_500_000
    """Of one pair, both directions."""
    relay_quota_bytes: Count = 256 * 1024**3
    """What one side of a pair sends in a day."""
    relay_max_bindings: Count = 65_536
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    passphrase_file: str = ""
    """A file whose content opens the authority's key."""
    authority_custody: str = ""
    """What seals the authority's key instead of a passphrase: tpm2, tpm2:TCTI or pkcs11:URI."""

    certificate_life_s: Positive = 7 * DAY_S
    ephemeral_life_s: Positive = DAY_S
    late_renewal_s: Positive = 90 * DAY_S
    service_certificate_life_s: Positive = 90 * DAY_S

    max_connections: Count = 20_000
    max_connections_per_source: Count = 600
    connection_rate: Positive = 20.0
    connection_burst: Positive = 600.0
    max_channels: Count = 16_384
    max_channels_per_source: Count = 512
    channel_rate: Positive = 4.0
    channel_burst: Positive = 256.0
    message_rate: Positive = 50.0
    message_burst: Positive = 8192.0
    enrolment_rate: Positive = 1.0
    enrolment_burst: Positive = 60.0
    stun_rate: Positive = 50.0
    stun_burst: Positive = 2000.0
    """An endpoint asks some twenty times when it looks at a network: a hundred of them may start behind one NAT."""
    max_intents: Count = 4096


def load_config(state: Path, environment: Mapping[str, str], options: Mapping[str, object] | None = None) -> Config:
    """Returns the configuration of the service that keeps its state in `state`. Raises `ConfigurationError`."""
    config = load_settings(Config, state / CONFIG_FILE, environment, PREFIX, options)
    for text in (*config.addresses, *config.stun):
        split_address(text, 1)
    for text in config.relays:
        split_relay(text)
    for text in config.listen:
        _check_ip(text)
    return config


def split_address(text: str, default_port: int) -> tuple[str, int]:
    """Returns host and port of HOST, HOST:PORT, an IPv6 address, or [IPv6]:PORT. Raises `ConfigurationError`."""
    try:
        return str(IPv6Address(text)), default_port
    except ValueError:
        pass
    parsed = _HOST_AND_PORT.fullmatch(text)
    port = int(parsed[2] or default_port) if parsed else 0
    if parsed is None or not 1 <= port <= 65_535 or not _is_host(host := canonical_host(parsed[1])):
        raise ConfigurationError(f'"{text}" is no address of a service: write HOST, HOST:PORT or [IPv6]:PORT')
    return host, port


def split_relay(text: str) -> RelayPlace:
    """Returns the relay of HOST or HOST:UDP_PORT:TLS_PORT, an IPv6 address in brackets. Raises `ConfigurationError`."""
    parsed = _RELAY.fullmatch(text)
    if parsed is None or not _is_host(host := canonical_host(parsed[1])):
        raise ConfigurationError(f'"{text}" is no relay: write HOST or HOST:UDP_PORT:TLS_PORT')
    udp_port, tls_port = int(parsed[2] or DEFAULT_UDP_PORT), int(parsed[3] or DEFAULT_TLS_PORT)
    if max(udp_port, tls_port) > 65_535 or not udp_port + tls_port:
        raise ConfigurationError(f'"{text}" is no relay: its ports are between 0 and 65535, and not both 0')
    return RelayPlace(host, udp_port, tls_port)


def join_address(host: str, port: int) -> str:
    """Returns "host:port", with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def commented_defaults() -> str:
    """Returns a configuration file that says what could be set, and sets nothing."""
    lines = [
        "# Each line has a twin in the environment, e.g. DISCOVERY_PORT, which wins; options of the command line win",
        "# over both. The values shown are the defaults. Rates are per second and source, times in seconds.",
        "",
    ]
    for name, value in msgspec.structs.asdict(Config()).items():
        shown = f"[{', '.join(map(_toml, value))}]" if isinstance(value, tuple) else _toml(value)
        lines.append(f"# {name} = {shown}")
    return "\n".join((*lines, ""))


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return f'"{value}"' if isinstance(value, str) else str(value)


def _is_host(host: str) -> bool:
    labels = host.split(".")
    return bool(ip_or_none(host)) or all(re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", label) for label in labels)


def ip_or_none(text: str) -> str | None:
    """Returns the canonical text of an IP address, None for anything else."""
    try:
        return str(ip_address(text))
    except ValueError:
        return None


def _check_ip(text: str) -> None:
    if ip_or_none(text) is None:
        raise ConfigurationError(f'listen: "{text}" is no IP address')
