"""The state directory of a service: its store, the authority's key, the TLS certificate.

authority.key   PKCS#8, 0600: signs certificates and revocation lists
authority.pem   its root: openssl x509 -in authority.pem -text
service.pem     0600: the TLS key, its certificate and the root, in one file, so that all change together
discovery.db    everything else
config.toml     what the operator sets; `init` writes it with every line commented out
"""

from __future__ import annotations

import fcntl
import os
import ssl
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from discovery.core.channel import ServiceIdentity
from discovery.core.settings import Settings
from discovery.shell.config import CONFIG_FILE, Config, commented_defaults, join_address, split_address, split_relay
from discovery.shell.store_sqlite import DATABASE_FILE, SqliteStore
from fabric.crypto.signature import SEED_BYTES, Ed25519Signer
from fabric.errors import AuthenticationError, ConfigurationError
from fabric.identity.authority import BACKDATE_S, ROOT_LIFE_S, Authority, draw_serial
from fabric.identity.name import parse_network
from fabric.identity.trust import Trust
from fabric.shell.durable import READABLE, write_durably
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.wire.rendezvous import RelayPlace

AUTHORITY_KEY_FILE = "authority.key"
AUTHORITY_FILE = "authority.pem"
SERVICE_FILE = "service.pem"
LOCK_FILE = "lock"
STATE_MODE = 0o700
_BACKDATE_SHARE = 1 / 20
RENEWAL_SHARE = 2 / 3
"""Of the TLS certificate's life, after which it is replaced."""

MIN_OVERLAY_ADDRESSES = 4
DEFAULT_PORT = 443


@dataclass(frozen=True, slots=True)
class State:
    """An open state directory."""

    directory: Path
    store: SqliteStore
    authority: Authority

    @property
    def overlay(self) -> IPv4Network:
        return IPv4Network(self.store.fact("overlay") or "")

    def addresses(self, config: Config, port: int | None = None) -> tuple[tuple[str, int], ...]:
        """Where endpoints reach the service: (host, port); `port` is the one listened on, where it is known."""
        texts = config.addresses or tuple((self.store.fact("addresses") or "").split())
        return tuple(split_address(text, port or config.port or DEFAULT_PORT) for text in texts)

    def pair_secret(self) -> bytes:
        """What the names of pairs at relays are made with: drawn once, so that they outlive a restart."""
        with self.store.change():
            stored = self.store.fact("pair_secret")
            if stored is None:
                stored = os.urandom(SEED_BYTES).hex()
                self.store.put_fact("pair_secret", stored)
        return bytes.fromhex(stored)

    def settings(self, config: Config, port: int, stun_port: int) -> Settings:
        """Returns what the pure service is to keep to, listening on these ports."""
        addresses = self.addresses(config, port)
        own_stun = tuple(dict.fromkeys(join_address(host, stun_port) for host, _ in addresses))
        own_relay = tuple(RelayPlace(host, stun_port, tls_port) for host, tls_port in addresses)
        relays = ((own_relay,) if config.relay and own_relay else ()) + tuple((split_relay(r),) for r in config.relays)
        return Settings(
            overlay=self.overlay,
            addresses=tuple(join_address(host, port) for host, port in addresses),
            stun=config.stun or own_stun,
            relays=relays,
            pair_secret=self.pair_secret(),
            relay_rate_bytes_s=config.relay_rate_bytes_s,
            relay_quota_bytes=config.relay_quota_bytes,
            certificate_life_s=config.certificate_life_s,
            ephemeral_life_s=config.ephemeral_life_s,
            late_renewal_s=config.late_renewal_s,
            max_intents=config.max_intents,
            message_rate=config.message_rate,
            message_burst=config.message_burst,
            enrolment_rate=config.enrolment_rate,
            enrolment_burst=config.enrolment_burst,
            channel_rate=config.channel_rate,
            channel_burst=config.channel_burst,
            max_channels_per_source=config.max_channels_per_source,
            max_channels=config.max_channels,
        )


@dataclass(frozen=True, slots=True)
class Serving:
    """A TLS certificate in use: what new connections are opened under. `renew_at` is in unix seconds."""

    context: ssl.SSLContext = field(repr=False)
    identity: ServiceIdentity
    renew_at: float


def create_state(directory: Path, network: str, addresses: Sequence[str], overlay: IPv4Network) -> None:
    """Makes a new authority in `directory`. Raises `CommandError` (NOT_SO) where there is one already,
    `DecodeError` for a name that is none, `ConfigurationError` for an address or overlay that is none."""
    parse_network(network)
    for address in addresses:
        split_address(address, DEFAULT_PORT)
    if overlay.num_addresses < MIN_OVERLAY_ADDRESSES:
        raise ConfigurationError(f"the overlay {overlay} has no room for two endpoints: take a wider one")
    directory.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
    if (directory / AUTHORITY_FILE).exists():
        raise CommandError(ExitCode.NOT_SO, f"{directory} has an authority already: nothing was changed")
    _store_facts(directory, network, addresses, overlay)
    if not (directory / CONFIG_FILE).exists():
        write_durably(directory / CONFIG_FILE, commented_defaults().encode(), mode=READABLE)
    _create_authority(directory, network)


@contextmanager
def open_state(directory: Path) -> Iterator[State]:
    """Opens what `create_state` made. Raises `ConfigurationError` where it isn't there or is damaged, `OSError`."""
    if not (directory / AUTHORITY_FILE).exists():
        raise ConfigurationError(
            f"{directory} holds no authority: make one with `discoveryd init --state {directory} --network NAME "
            "--address HOST_OR_IP`"
        )
    authority = _load_authority(directory)
    store = SqliteStore(directory)
    try:
        if store.fact("network") != authority.network:
            raise ConfigurationError(f"{directory / DATABASE_FILE} is of another network than {AUTHORITY_FILE}")
        yield State(directory, store, authority)
    finally:
        store.close()


@contextmanager
def only_service(directory: Path) -> Iterator[None]:
    """Holds the directory for one running service. Raises `CommandError` (NOT_SO) where another has it."""
    descriptor = os.open(directory / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CommandError(
                ExitCode.NOT_SO, f"another discoveryd runs on {directory}: stop it, or use another --state"
            ) from None
        yield
    finally:
        os.close(descriptor)


def load_serving(state: State, config: Config, unix: float) -> Serving:
    """Returns the stored TLS certificate, or a new one where it is missing, due, or for other hosts."""
    hosts = tuple(dict.fromkeys(host for host, _ in state.addresses(config)))
    if not hosts:
        raise ConfigurationError("no address of the service is known: set `addresses` in config.toml")
    path = state.directory / SERVICE_FILE
    if path.exists() and (stored := _stored_serving(state, path, hosts, unix)) is not None:
        return stored
    _issue_service(state, path, hosts, config.service_certificate_life_s, unix)
    issued = _stored_serving(state, path, hosts, unix)
    if issued is None:
        raise ConfigurationError(f"the clock or the authority's certificate has run out: {path} can't be issued")
    return issued


def _create_authority(directory: Path, network: str) -> None:
    """The root is written last: where it is, everything is."""
    now = time.time()
    seed = os.urandom(SEED_BYTES)
    authority = Authority.create(
        network,
        seed=seed,
        serial=draw_serial(os.urandom),
        not_before=now - BACKDATE_S,
        not_after=now + ROOT_LIFE_S,
    )
    write_durably(directory / AUTHORITY_KEY_FILE, key_pem(seed))
    root = ssl.DER_cert_to_PEM_cert(authority.root_der).encode()
    write_durably(directory / AUTHORITY_FILE, root, mode=READABLE)


def _store_facts(directory: Path, network: str, addresses: Sequence[str], overlay: IPv4Network) -> None:
    store = SqliteStore(directory)
    try:
        with store.change():
            store.put_fact("network", network)
            store.put_fact("addresses", " ".join(addresses))
            store.put_fact("overlay", str(overlay))
    finally:
        store.close()


def _load_authority(directory: Path) -> Authority:
    try:
        root = ssl.PEM_cert_to_DER_cert((directory / AUTHORITY_FILE).read_text())
        return Authority(seed_of((directory / AUTHORITY_KEY_FILE).read_bytes()), root)
    except FileNotFoundError as error:
        raise ConfigurationError(f"{error.filename} is missing: put it back from a backup") from None
    except (ValueError, AuthenticationError) as error:
        raise ConfigurationError(f"{directory / AUTHORITY_KEY_FILE} can't be used: {error}") from None


def _issue_service(state: State, path: Path, hosts: Sequence[str], life_s: float, unix: float) -> None:
    seed = os.urandom(SEED_BYTES)
    certificate = state.authority.issue_service(
        Ed25519Signer(seed).public_key,
        hosts,
        serial=draw_serial(os.urandom),
        not_before=unix - min(BACKDATE_S, life_s * _BACKDATE_SHARE),
        not_after=unix + life_s,
    )
    chain = "".join(ssl.DER_cert_to_PEM_cert(der) for der in (certificate, state.authority.root_der))
    write_durably(path, key_pem(seed) + chain.encode())


def _stored_serving(state: State, path: Path, hosts: Sequence[str], unix: float) -> Serving | None:
    """Returns what the file holds, None where it is to be replaced."""
    authority = state.authority
    try:
        text = path.read_text()
        der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") : _end_of_first(text)])
        trust = Trust(authority.root_der, authority.network, None)
        certificate = trust.check_service(der, hosts[0], unix)
        signer = Ed25519Signer(seed_of(text.encode()))
        context = server_context(path)
    except (ValueError, AuthenticationError, ssl.SSLError):
        return None
    renew_at = certificate.not_before + RENEWAL_SHARE * (certificate.not_after - certificate.not_before)
    if unix >= renew_at or set(certificate.hosts) != set(hosts) or signer.public_key != certificate.public_key:
        return None
    return Serving(context, ServiceIdentity(der, signer), renew_at)


def _end_of_first(text: str) -> int:
    marker = "-----END CERTIFICATE-----"
    return text.index(marker) + len(marker)


def server_context(path: Path) -> ssl.SSLContext:
    """Returns a context for the key and chain in one file. Raises `ssl.SSLError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(path)
    return context


def key_pem(seed: bytes) -> bytes:
    """Returns an Ed25519 key as PKCS#8."""
    key = Ed25519PrivateKey.from_private_bytes(seed)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def seed_of(pem: bytes) -> bytes:
    """Returns the 32 bytes of the first key in it. Raises `ValueError`."""
    key = load_pem_private_key(pem, password=None)
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError("the key is not Ed25519")  # noqa: TRY004 - the file's fault, as all others here
    return key.private_bytes_raw()
