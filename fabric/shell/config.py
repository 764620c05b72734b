"""What an operator may set: DIR/config.toml, and for each line of it a twin in the environment.

    device = "fabric0"            FABRIC_DEVICE=fabric0
    port = 4711                   FABRIC_PORT=4711
    service = ["a:443", "b:443"]  FABRIC_SERVICE=a:443,b:443

The environment wins over the file, and options of the command line over both.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from fabric.errors import ConfigurationError, DecodeError
from fabric.shell.host import split_host
from fabric.shell.settings_file import load_settings

DEFAULT_STATE = Path("/var/lib/fabric")
STATE_VARIABLE = "FABRIC_STATE"
PREFIX = "FABRIC_"

Seconds = Annotated[float, msgspec.Meta(gt=0)]
HostAndPort = Annotated[str, msgspec.Meta(max_length=260)]


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Defaults suit a host on the internet; times are for tests and for odd networks."""

    device: Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")] = "fabric0"
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 0
    """UDP and TCP port; 0 draws one and keeps it."""
    cipher: Literal["auto", "aes-256-gcm", "chacha20-poly1305"] = "auto"
    lane: Literal["auto", "native", "reference"] = "auto"
    """What carries the frames: C, or Python, which is the one to be had everywhere."""
    cipher_library: Literal["auto", "openssl", "pynacl", "libsodium", "none"] = "auto"
    """Where the native lane takes its ciphers from; "auto" for the fastest that is here. "none" exists only in a build
    for measuring."""
    log_level: Annotated[str, msgspec.Meta(pattern="^(debug|info|warning|error)$")] = "info"
    control_socket: str | None = None
    """Path of the control socket; without it, DIR/control.sock."""
    control_group: str | None = None
    """A system group that may steer the daemon; without it, the group of the daemon."""
    service: tuple[HostAndPort, ...] = ()
    """Addresses of the discovery service, instead of those learned at enrolment."""
    stun: tuple[HostAndPort, ...] = ()
    """STUN servers, instead of those that the service names."""
    proxy: Annotated[str, msgspec.Meta(max_length=1024)] | None = None
    """`http://[user:password@]host:port`, through which the service and relays are reached over TLS; empty for none.
    Without it, the environment's `https_proxy`, `all_proxy` and `no_proxy`."""
    path_mtu: Annotated[int, msgspec.Meta(ge=1400, le=9216)] = 1500
    """The longest outer packet that is tried: each path is measured, and shorter ones are found out."""
    mtu: Annotated[int, msgspec.Meta(ge=1280, le=9216)] | None = None
    """MTU of the overlay device; without it, the largest that fits `path_mtu`."""
    relay_copies: Annotated[int, msgspec.Meta(ge=1, le=2)] = 1
    """2: where a relay is the path, each datagram goes through two at once, so that either may fail."""
    port_mapping: bool = True
    """Whether the router is asked for a port (PCP, NAT-PMP, UPnP)."""
    find_on_lan: bool = True
    """Whether peers are looked for on the local network by multicast."""
    ask_peers: bool = True
    """Whether peers are asked to pass offers on when the discovery service is out of reach."""
    entangle: Literal["enforce", "alert", "off"] = "enforce"
    """What follows where the state shared with a peer does not fit, because one of the two was copied or restored:
    quarantine until a person resets both, an alarm only, or nothing."""
    passphrase_file: str | None = None
    """A file whose content opens the identity key, instead of a generated key beside it."""
    custody_socket: str | None = None
    """Where a `fabric-keyd` listens that holds the keys; without it the daemon starts one for itself."""
    keepalive_s: Seconds | None = None
    rekey_after_s: Seconds | None = None
    session_life_s: Seconds | None = None
    straggler_s: Seconds | None = None
    stun_interval_s: Seconds | None = None
    intent_life_s: Seconds | None = None
    offer_life_s: Seconds | None = None
    service_retry_s: Seconds = 0.25
    """The first pause before the service is tried again; it doubles up to `service_retry_limit_s`."""
    service_retry_limit_s: Seconds = 30.0
    service_silence_s: Seconds = 20.0
    """The service is asked for a sign of life this often, and given up after half of it without one."""

    def __repr__(self) -> str:
        """Shows no proxy, which may have a password in it."""
        return f"Config({self.device}, port={self.port})"


def load_config(state: Path, environment: Mapping[str, str], options: Mapping[str, object] | None = None) -> Config:
    """Returns the configuration of the daemon that keeps its state in `state`. Raises `ConfigurationError`."""
    return load_settings(Config, state / "config.toml", environment, PREFIX, options, _check)


def _check(config: Config) -> None:
    for setting, places in (("service", config.service), ("stun", config.stun)):
        for place in places:
            try:
                split_host(place)
            except DecodeError as error:
                raise ConfigurationError(f"{setting}: {error}") from None


def control_path(state: Path, config: Config) -> Path:
    """Returns where the daemon listens to commands."""
    return Path(config.control_socket) if config.control_socket else state / "control.sock"
