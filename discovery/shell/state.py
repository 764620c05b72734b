"""The state directory of a service: its store, the authority's key, the TLS certificate.

authority.key   sealed (`authority_key`): signs certificates and revocation lists; not here while the authority is away
authority.pem   its root: openssl x509 -in authority.pem -text
service.pem     0600: the TLS key, its certificate and the root, in one file, so that all change together
service.next    0600: the key of the next one, while its certificate waits for an authority that is away
discovery.db    everything else
config.toml     what the operator sets; `init` writes it with every line commented out
"""

from __future__ import annotations

import fcntl
import os
import ssl
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Network
from pathlib import Path

from discovery.core.channel import ServiceIdentity
from discovery.core.settings import Settings
from discovery.core.signatory import Away, Present, Signatory, backdate_s
from discovery.shell.authority_key import Safe, create_key, key_pem, open_root_key, seed_of
from discovery.shell.config import (
    CONFIG_FILE,
    Config,
    commented_defaults,
    join_address,
    load_config,
    split_address,
    split_relay,
)
from discovery.shell.store_sqlite import DATABASE_FILE, SqliteStore
from fabric.crypto.signature import SEED_BYTES, Ed25519Signer
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError
from fabric.identity.authority import BACKDATE_S, ROOT_LIFE_S, Authority, draw_serial
from fabric.identity.name import parse_network
from fabric.identity.root import Root, decode_root
from fabric.identity.service_certificate import ServiceCertificate, service_certificate_of
from fabric.identity.trust import Trust
from fabric.identity.x509_form import read_form
from fabric.shell.durable import READABLE, remove_durably, write_durably
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.wire.rendezvous import RelayPlace

AUTHORITY_FILE = "authority.pem"
SERVICE_FILE = "service.pem"
NEXT_FILE = "service.next"
LOCK_FILE = "lock"
STATE_MODE = 0o700
RENEWAL_SHARE = 2 / 3
"""Of the TLS certificate's life, after which it is replaced."""

AUTHORITY_FACT, AWAY = "authority", "away"
"""In the store while the authority's key is kept elsewhere."""

MIN_OVERLAY_ADDRESSES = 4
DEFAULT_PORT = 443


@dataclass(frozen=True, slots=True)
class State:
    """An open state directory."""

    directory: Path
    store: SqliteStore
    root: Root
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)

    @property
    def is_authority_away(self) -> bool:
        """Whether the authority's key was detached, and people carry requests to it."""
        return self.store.fact(AUTHORITY_FACT) == AWAY

    def safe(self, config: Config) -> Safe:
        return Safe(self.directory, config.passphrase_file, self.environment, config.authority_custody)

    def authority(self, config: Config) -> Authority:
        """Opens the authority's key. Raises `CommandError` (NOT_SO) while it is away, `ConfigurationError` where it
        can't be opened, `OSError`."""
        if self.is_authority_away:
            raise CommandError(ExitCode.NOT_SO, "the authority's key is kept elsewhere: do it there, by --authority")
        try:
            return Authority(open_root_key(self.safe(config)), self.root.der)
        except AuthenticationError as error:
            raise ConfigurationError(f"{self.directory} holds the key of another authority: {error}") from None

    def signatory(self, config: Config) -> Signatory:
        """Who signs for the authority. Raises as `authority` does."""
        return Away(self.root) if self.is_authority_away else Present(self.authority(config))

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


def create_state(
    directory: Path,
    network: str,
    addresses: Sequence[str],
    overlay: IPv4Network,
    environment: Mapping[str, str] | None = None,
) -> None:
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
    config = load_config(directory, environment or {})
    _create_authority(Safe(directory, config.passphrase_file, environment or {}, config.authority_custody), network)


@contextmanager
def open_state(directory: Path, environment: Mapping[str, str] | None = None) -> Iterator[State]:
    """Opens what `create_state` made. Raises `ConfigurationError` where it isn't there or is damaged, `OSError`."""
    if not (directory / AUTHORITY_FILE).exists():
        raise ConfigurationError(
            f"{directory} holds no authority: make one with `discoveryd init --state {directory} --network NAME "
            "--address HOST_OR_IP`"
        )
    root = _load_root(directory)
    store = SqliteStore(directory)
    try:
        if store.fact("network") != root.network:
            raise ConfigurationError(f"{directory / DATABASE_FILE} is of another network than {AUTHORITY_FILE}")
        yield State(directory, store, root, environment or {})
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
    """Returns the stored TLS certificate, or a new one where it is missing, due, or for other hosts.

    While the authority is away the stored one serves on, as long as it lives; see `is_certificate_due`.
    """
    path = state.directory / SERVICE_FILE
    stored = _stored_serving(state, path, unix)
    if stored is not None and (state.is_authority_away or not _is_due(stored, hosts_of(state, config), unix)):
        return stored[0]
    if state.is_authority_away:
        raise ConfigurationError(
            f"{path} is missing or has ended, and the authority is away: `discoveryd requests export FILE`, sign it "
            "where the key is, and import the answer"
        )
    issue_service(state, state.authority(config), config, config.service_certificate_life_s, unix)
    issued = _stored_serving(state, path, unix)
    if issued is None:
        raise ConfigurationError(f"the clock or the authority's certificate has run out: {path} can't be issued")
    return issued[0]


def hosts_of(state: State, config: Config) -> tuple[str, ...]:
    """Returns what the TLS certificate is to be for. Raises `ConfigurationError` where nothing is known."""
    hosts = tuple(dict.fromkeys(host for host, _ in state.addresses(config)))
    if not hosts:
        raise ConfigurationError("no address of the service is known: set `addresses` in config.toml")
    return hosts


def is_certificate_due(state: State, config: Config, unix: float) -> bool:
    """Returns whether a new TLS certificate is wanted: the stored one is missing, old, or for other hosts."""
    stored = _stored_serving(state, state.directory / SERVICE_FILE, unix)
    return stored is None or _is_due(stored, hosts_of(state, config), unix)


def issue_service(state: State, authority: Authority, config: Config, life_s: float, unix: float) -> None:
    """Makes a new TLS key and stores it with its certificate."""
    seed = os.urandom(SEED_BYTES)
    certificate = authority.issue_service(
        Ed25519Signer(seed).public_key,
        hosts_of(state, config),
        serial=draw_serial(os.urandom),
        not_before=unix - backdate_s(life_s),
        not_after=unix + life_s,
    )
    store_service(state, seed, certificate)


def service_identity(state: State) -> ServiceIdentity:
    """Returns the stored TLS certificate with its key, also where it has ended. Raises `ConfigurationError`."""
    path = state.directory / SERVICE_FILE
    try:
        return _read_identity(path.read_text())
    except (FileNotFoundError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be used ({error}): restore it from a backup") from None


def next_service_key(state: State) -> Ed25519Signer:
    """Returns the key for which a certificate is asked of an authority that is away; made now if there is none."""
    path = state.directory / NEXT_FILE
    if not path.exists():
        write_durably(path, key_pem(os.urandom(SEED_BYTES)))
    return Ed25519Signer(seed_of(path.read_bytes()))


def take_service(state: State, config: Config, certificate: bytes, unix: float) -> bool:
    """Takes the certificate that was asked for into use, once; False where nobody waits for this one.

    Raises `CertificateError` where it is not the authority's, or not for this service.
    """
    path = state.directory / NEXT_FILE
    if not path.exists():
        return False
    seed = seed_of(path.read_bytes())
    trust = Trust(state.root.der, state.root.network, None)
    checked = [trust.check_service(certificate, host, unix) for host in hosts_of(state, config)]
    if checked[0].public_key != Ed25519Signer(seed).public_key:
        return False
    store_service(state, seed, certificate)
    remove_durably(path)
    return True


def store_service(state: State, seed: bytes, certificate: bytes) -> None:
    chain = "".join(ssl.DER_cert_to_PEM_cert(der) for der in (certificate, state.root.der))
    write_durably(state.directory / SERVICE_FILE, key_pem(seed) + chain.encode())


def _create_authority(safe: Safe, network: str) -> None:
    """The root is written last: where it is, everything is."""
    now = time.time()
    life = {"not_before": now - BACKDATE_S, "not_after": now + ROOT_LIFE_S}
    key, serial = create_key(safe), draw_serial(os.urandom)
    if isinstance(key, bytes):
        authority = Authority.create(network, seed=key, serial=serial, **life)
    else:
        authority = Authority.create_under(key, network, serial=serial, **life)
    root = ssl.DER_cert_to_PEM_cert(authority.root_der).encode()
    write_durably(safe.directory / AUTHORITY_FILE, root, mode=READABLE)


def _store_facts(directory: Path, network: str, addresses: Sequence[str], overlay: IPv4Network) -> None:
    store = SqliteStore(directory)
    try:
        with store.change():
            store.put_fact("network", network)
            store.put_fact("addresses", " ".join(addresses))
            store.put_fact("overlay", str(overlay))
    finally:
        store.close()


def _load_root(directory: Path) -> Root:
    try:
        return decode_root(ssl.PEM_cert_to_DER_cert((directory / AUTHORITY_FILE).read_text()))
    except (ValueError, AuthenticationError) as error:
        raise ConfigurationError(f"{directory / AUTHORITY_FILE} can't be used: {error}") from None


def _stored_serving(state: State, path: Path, unix: float) -> tuple[Serving, ServiceCertificate] | None:
    """Returns what the file holds, None where it can't serve now."""
    try:
        identity = _read_identity(path.read_text())
        trust = Trust(state.root.der, state.root.network, None)
        host = service_certificate_of(read_form(identity.certificate)).hosts[0]
        certificate = trust.check_service(identity.certificate, host, unix)
        context = server_context(path)
    except (FileNotFoundError, ValueError, DecodeError, AuthenticationError, ssl.SSLError):
        return None
    if identity.signer.public_key != certificate.public_key:
        return None
    renew_at = certificate.not_before + RENEWAL_SHARE * (certificate.not_after - certificate.not_before)
    return Serving(context, identity, renew_at), certificate


def _read_identity(text: str) -> ServiceIdentity:
    """Raises `ValueError`."""
    der = ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE") : _end_of_first(text)])
    return ServiceIdentity(der, Ed25519Signer(seed_of(text.encode())))


def _is_due(stored: tuple[Serving, ServiceCertificate], hosts: Sequence[str], unix: float) -> bool:
    serving, certificate = stored
    return unix >= serving.renew_at or set(certificate.hosts) != set(hosts)


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
