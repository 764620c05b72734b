"""The state directory of a relay that runs alone, and the one file that makes a host such a relay.

relay.pem      0600: the TLS key, its certificate, and the authority's root; made by `discoveryd relay-invite`
config.toml    what the operator sets, as for the service; may be missing

The key in it opens nothing but TLS connections to this relay, in which everything is sealed once more by the
endpoints. So it may travel as one file; the authority's key stays where it is.
"""

from __future__ import annotations

import os
import re
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from discovery.core.channel import ServiceIdentity
from discovery.shell.authority_key import key_pem, seed_of
from discovery.shell.state import Serving, server_context
from fabric.crypto.signature import SEED_BYTES, Ed25519Signer
from fabric.errors import AuthenticationError, ConfigurationError
from fabric.identity.authority import BACKDATE_S, Authority, draw_serial
from fabric.identity.root import decode_root
from fabric.identity.service_certificate import relay_certificate_of
from fabric.identity.trust import Trust
from fabric.identity.x509_form import read_form

RELAY_FILE = "relay.pem"
WARN_S = 30 * 86_400.0
"""Before the end of its certificate, a relay says so in its log."""

_CERTIFICATE = re.compile(r"-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RelayPapers:
    """What is in the file. `serving.renew_at` is when the operator should have made a new one; `hosts` are the names
    and IP addresses under which endpoints reach the relay."""

    trust: Trust
    serving: Serving
    ends: float
    hosts: tuple[str, ...]


def invite(authority: Authority, hosts: Sequence[str], life_s: float, unix: float) -> bytes:
    """Returns the file for a relay that endpoints reach under these names or IP addresses."""
    seed = os.urandom(SEED_BYTES)
    certificate = authority.issue_relay(
        Ed25519Signer(seed).public_key,
        hosts,
        serial=draw_serial(os.urandom),
        not_before=unix - BACKDATE_S,
        not_after=unix + life_s,
    )
    chain = "".join(ssl.DER_cert_to_PEM_cert(der) for der in (certificate, authority.root_der))
    return key_pem(seed) + chain.encode()


def load_relay(directory: Path, unix: float) -> RelayPapers:
    """Raises `ConfigurationError` where the file is missing, damaged, or its certificate has ended."""
    path = directory / RELAY_FILE
    try:
        return _read(path, unix)
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is missing: make it with `discoveryd relay-invite --address HOST` on the host of the service, "
            "and bring it here"
        ) from None
    except (ValueError, AuthenticationError, ssl.SSLError) as error:
        raise ConfigurationError(f"{path} can't be used: {error}") from None


def _read(path: Path, unix: float) -> RelayPapers:
    text = path.read_text()
    ders = [ssl.PEM_cert_to_DER_cert(pem) for pem in _CERTIFICATE.findall(text)]
    if len(ders) != 2:
        raise ValueError("it has to hold a key and two certificates")
    root = decode_root(ders[1])
    trust = Trust(root.der, root.network, None)
    certificate = relay_certificate_of(read_form(ders[0]))
    for host in certificate.hosts:
        trust.check_relay(certificate.der, host, unix)
    signer = Ed25519Signer(seed_of(text.encode()))
    if signer.public_key != certificate.public_key:
        raise ValueError("its certificate is for another key")
    serving = Serving(server_context(path), ServiceIdentity(certificate.der, signer), certificate.not_after - WARN_S)
    return RelayPapers(trust, serving, certificate.not_after, certificate.hosts)
