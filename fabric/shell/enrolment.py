"""Enrolment: from one pasted string to a certificate, trusting nothing on the way but the fingerprint in it.

    look       TLS handshake that trusts nobody, for the chain; nothing is sent
    judge      the pinned root is in the chain, has signed the service's certificate, which is for this host, and lives
    ask        TLS under that root: PKCS#10 over the own key, and a proof of the secret, bound to that certificate
    judge      the answer chains to the root, carries the own key, and a name that was asked for
    keep       papers, the certificate last

Where the authority's key is kept apart from the service, a person has to sign first: the service says so, and is asked
again, by the identical request, until that is done or patience ends.

The identity key is made and stored before anybody is asked, so that a lost answer is asked for again under the same
key, and the service gives the same certificate again.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from fabric.custody.identity_file import AUTO
from fabric.errors import AuthenticationError, ConfigurationError, DecodeError, FabricError
from fabric.identity.certificate import Certificate
from fabric.identity.enrolment_key import EnrolmentKey, enrolment_proof
from fabric.identity.name import parse_name, parse_system, system_of
from fabric.identity.root import Root, decode_root
from fabric.identity.trust import Trust
from fabric.shell.config import load_config
from fabric.shell.custody import open_custody, way_to_custody
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.host import split_host
from fabric.shell.papers import Network, is_enrolled, load_papers, store_papers
from fabric.shell.proxy import HttpProxy, Outlet, outlet_of
from fabric.shell.tls import context_to_look, context_under
from fabric.wire.rendezvous import (
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    decode_enrolment_outcome,
    encode_enrolment,
)

ENROL_PATH = "/v1/enrol"
CONNECT_S = 10.0
ANSWER_S = 30.0
STATE_MODE = 0o750
MEDIA_TYPE = "application/msgpack"
ASK_AGAIN_S = 2.0
LONGEST_PAUSE_S = 30.0
"""The pauses while a person is waited for double, for a rack of hosts behind one NAT is one source to the service."""

_REFUSALS = {
    "key": ExitCode.NOT_PERMITTED,
    "name": ExitCode.NOT_PERMITTED,
    "limit": ExitCode.UNREACHABLE,
    "full": ExitCode.UNREACHABLE,
    "authority": ExitCode.NOT_PERMITTED,
}


@dataclass(frozen=True, slots=True)
class Patience:
    """For how many seconds a person who has to sign is waited for; `tell` gets one sentence when that begins."""

    seconds: float
    tell: Callable[[str], None]
    ask_again_s: float = ASK_AGAIN_S


NO_PATIENCE = Patience(0.0, lambda _: None)


class _WaitingError(CommandError):
    """A person has to sign first."""


@dataclass(frozen=True, slots=True)
class Enrolled:
    """`is_new` is False where the directory was enrolled with this authority before, and nothing was done."""

    certificate: Certificate
    network: str
    custody: str
    is_new: bool


@dataclass(frozen=True, slots=True)
class _Judged:
    """A service that is the pinned authority's. `tls_certificate` is its own, in DER."""

    address: str
    root: Root
    tls_certificate: bytes = field(repr=False)


def enrol(
    directory: Path,
    pasted: str,
    name: str | None,
    environment: Mapping[str, str],
    custody: str = AUTO,
    patience: Patience = NO_PATIENCE,
) -> Enrolled:
    """Enrols the host whose state is in `directory`, under `name` or else its host name.

    `custody` is where a new identity is to be kept.

    Raises `CommandError` (WRONG_USAGE, NOT_PERMITTED, UNREACHABLE, NOT_SO), `ConfigurationError`, `OSError`.
    """
    key = _parse(pasted)
    wanted = _wanted_name(name)
    directory.mkdir(mode=STATE_MODE, parents=True, exist_ok=True)
    config = load_config(directory, environment)
    with open_custody(way_to_custody(directory, config, environment), custody=custody) as custodian:
        if is_enrolled(directory) and (known := _still_enrolled(directory, key, name, custodian.custody)):
            return known
        outlet = outlet_of(config.proxy, environment)
        root, answer = _ask_until_signed(key, custodian.make_request(wanted), outlet, patience)
        certificate = _judge_answer(answer, root, wanted, custodian.public_key)
    store_papers(
        directory,
        certificate=answer.certificate,
        authority=root.der,
        revocations=answer.revocations,
        network=Network(service=answer.service, stun=answer.stun, overlay=answer.overlay),
    )
    return Enrolled(certificate, root.network, custodian.custody, is_new=True)


def default_name() -> str:
    """Returns the host's own name as far as it can name an endpoint. Raises `CommandError` where it can't."""
    label = socket.gethostname().partition(".")[0].lower().replace("_", "-")
    try:
        return parse_system(label)
    except DecodeError:
        raise CommandError(
            ExitCode.WRONG_USAGE, f'the host name "{label}" can\'t name an endpoint: give one with --name'
        ) from None


def _parse(pasted: str) -> EnrolmentKey:
    try:
        return EnrolmentKey.parse(pasted)
    except DecodeError as error:
        raise CommandError(ExitCode.WRONG_USAGE, str(error)) from None


def _wanted_name(name: str | None) -> str:
    wanted = default_name() if name is None else name
    try:
        return parse_name(wanted, None) if "." in wanted else parse_system(wanted)
    except DecodeError as error:
        raise CommandError(ExitCode.WRONG_USAGE, str(error)) from None


def _still_enrolled(directory: Path, key: EnrolmentKey, name: str | None, custody: str) -> Enrolled | None:
    """Returns the enrolment that stands; None where its certificate has ended and a new one is wanted.

    Raises `CommandError` (NOT_SO) for one with another authority or under another name: a person must decide.
    """
    papers = load_papers(directory)
    trust, certificate = papers.trust(), papers.certificate
    if trust.fingerprint != key.authority_fingerprint:
        raise CommandError(
            ExitCode.NOT_SO,
            f"{directory} belongs to {certificate.name} of another authority: use another --state, or empty it",
        )
    if certificate.not_after <= time.time():
        return None
    if name is not None and name not in (certificate.name, system_of(certificate.name)):
        raise CommandError(ExitCode.NOT_SO, f"{directory} is already enrolled as {certificate.name}, not as {name}")
    return Enrolled(certificate, trust.network, custody, is_new=False)


def _ask_until_signed(
    key: EnrolmentKey, request: bytes, outlet: Outlet, patience: Patience
) -> tuple[Root, EnrolmentAnswer]:
    """Asks until there is an answer. The service may be another one each time, and have a new TLS certificate."""
    deadline, pause_s = time.monotonic() + patience.seconds, patience.ask_again_s
    waits_for: _WaitingError | None = None
    while True:
        try:
            service = _find_service(key, outlet)
            return service.root, _ask(service, key, request, outlet)
        except _WaitingError as error:
            if waits_for is None and patience.seconds:
                patience.tell(f"{error}: waiting for up to {patience.seconds:.0f} s")
            waits_for = error
        except CommandError as error:
            if waits_for is None or error.code is not ExitCode.UNREACHABLE:
                raise
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise CommandError(
                ExitCode.UNREACHABLE, f"{waits_for}: run the same command again later, it picks the answer up"
            )
        time.sleep(min(left_s, pause_s))
        pause_s = min(2 * pause_s, LONGEST_PAUSE_S)


def _find_service(key: EnrolmentKey, outlet: Outlet) -> _Judged:
    """Returns the first address of the key where the pinned authority's service answers."""
    failures: list[str] = []
    is_foreign = False
    for address in key.addresses:
        try:
            return _judge_service(address, _look(address, outlet), key.authority_fingerprint)
        except AuthenticationError as error:
            is_foreign = True
            failures.append(f"{address}: {error}")
        except DecodeError as error:
            failures.append(str(error))
        except OSError as error:
            failures.append(f"{address}: {error.strerror or error}")
    told = "; ".join(failures)
    if is_foreign:
        raise CommandError(
            ExitCode.NOT_PERMITTED, f"nothing was sent, for who answers is not the service of this key ({told})"
        )
    raise CommandError(ExitCode.UNREACHABLE, f"the service can't be reached ({told}): try again later")


def _look(address: str, outlet: Outlet) -> list[bytes]:
    """Returns the chain (DER) that is shown at `address`, the service's own certificate first. Raises `OSError`."""
    host, port = split_host(address)
    with (
        outlet.connect_blocking(host, port, CONNECT_S) as tcp,
        context_to_look().wrap_socket(tcp, server_hostname=host) as tls,
    ):
        # Python 3.13 has get_unverified_chain() in public; 3.10 to 3.12 only on the inner object.
        chain = tls._sslobj.get_unverified_chain() or []  # type: ignore[attr-defined]
        return [ssl.PEM_cert_to_DER_cert(certificate.public_bytes()) for certificate in chain]


def _judge_service(address: str, chain: list[bytes], fingerprint: bytes) -> _Judged:
    """Raises `AuthenticationError` unless the chain leads to the pinned root, for this host, now."""
    if not chain:
        raise AuthenticationError("it shows no certificate")
    root = _pinned_root(chain, fingerprint)
    if root is None:
        raise AuthenticationError("its certificate does not lead to the pinned authority")
    trust = Trust(root.der, root.network, None)
    trust.check_service(chain[0], split_host(address)[0], time.time())
    return _Judged(address, root, chain[0])


def _pinned_root(chain: list[bytes], fingerprint: bytes) -> Root | None:
    for der in chain:
        try:
            root = decode_root(der)
        except FabricError:
            continue
        if root.fingerprint == fingerprint:
            return root
    return None


def _ask(service: _Judged, key: EnrolmentKey, request: bytes, outlet: Outlet) -> EnrolmentAnswer:
    """Sends the request under the pinned root. Raises `CommandError`."""
    proof = enrolment_proof(key.secret, request, service.tls_certificate)
    body = encode_enrolment(EnrolmentRequest(key.key_id, request, proof))
    context = context_under(service.root.der)
    timeout = httpx.Timeout(ANSWER_S, connect=CONNECT_S)
    try:
        proxy = _httpx_proxy(outlet.proxy_for(split_host(service.address)[0]))
        with httpx.Client(verify=context, timeout=timeout, trust_env=False, proxy=proxy) as client:
            response = client.post(
                f"https://{service.address}{ENROL_PATH}", content=body, headers={"content-type": MEDIA_TYPE}
            )
    except httpx.HTTPError as error:
        raise CommandError(
            ExitCode.UNREACHABLE, f"the service at {service.address} broke off ({error}): try again, it is safe"
        ) from None
    return _read_answer(service.address, response)


def _httpx_proxy(proxy: HttpProxy | None) -> httpx.Proxy | None:
    if proxy is None:
        return None
    headers = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
    return httpx.Proxy(f"http://{proxy}", headers=headers)


def _read_answer(address: str, response: httpx.Response) -> EnrolmentAnswer:
    try:
        outcome = decode_enrolment_outcome(response.status_code, response.content)
    except DecodeError:
        code = response.status_code
        raise CommandError(ExitCode.UNREACHABLE, f"the service at {address} answered {code}: try again later") from None
    if isinstance(outcome, EnrolmentRefusal) and outcome.code == "waiting":
        raise _WaitingError(ExitCode.UNREACHABLE, outcome.why.rstrip("."))
    if isinstance(outcome, EnrolmentRefusal):
        code_of = _REFUSALS.get(outcome.code, ExitCode.NOT_SO)
        raise CommandError(code_of, f"the service refused: {outcome.why.rstrip('.')}")
    return outcome


def _judge_answer(answer: EnrolmentAnswer, root: Root, wanted: str, public_key: bytes) -> Certificate:
    """Returns the certificate where it is what was asked for. Raises `CommandError`."""
    try:
        trust = Trust(root.der, root.network, answer.revocations)
        name = parse_name(system_of(wanted), root.network)
        return trust.check(answer.certificate, name=name, unix=time.time(), pinned_key=public_key)
    except (AuthenticationError, DecodeError, ConfigurationError) as error:
        raise CommandError(ExitCode.NOT_SO, f"what the service issued is refused here: {error}") from None
