"""Enrolment against services that are honest, foreign, broken or lying, over real TLS on the loopback."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from fabric.custody.identity_file import open_identity
from fabric.identity.authority import Authority
from fabric.identity.enrolment_key import EnrolmentKey, enrolment_proof
from fabric.identity.request import decode_request
from fabric.shell.enrolment import Patience, default_name, enrol
from fabric.shell.exit_code import CommandError, ExitCode
from fabric.shell.papers import is_enrolled, load_papers
from fabric.wire.rendezvous import (
    REFUSAL_STATUS,
    EnrolmentAnswer,
    EnrolmentRefusal,
    EnrolmentRequest,
    decode_enrolment_request,
    encode_enrolment,
)
from tests.shell.homestead import NETWORK, Homestead, context_of, found, kept_in, service_context

SECRET = b"the secret of the enrolment key!"


@dataclass
class Office:
    """A service for enrolment. `answer` may be replaced; `asked` is all that anybody has sent."""

    homestead: Homestead
    address: str
    certificate: bytes
    answer: Callable[[EnrolmentRequest], EnrolmentAnswer | EnrolmentRefusal | bytes]
    asked: list[EnrolmentRequest] = field(default_factory=list)

    def key(self, **changes: object) -> str:
        fields = {
            "addresses": (self.address,),
            "authority_fingerprint": self.homestead.authority.fingerprint,
            "key_id": "k1",
            "secret": SECRET,
        }
        return EnrolmentKey(**(fields | changes)).encode()  # type: ignore[arg-type]

    def grant(
        self, request: EnrolmentRequest, *, name: str | None = None, by: Authority | None = None
    ) -> EnrolmentAnswer:
        """What an honest service answers."""
        authority = self.homestead if by is None else Homestead(self.homestead.directory, by)
        decoded = decode_request(request.request)
        return EnrolmentAnswer(
            certificate=authority.issue_for(decoded, name or f"{decoded.name}.{NETWORK}", 7),
            authority=self.homestead.authority.root_der,
            revocations=self.homestead.revocations(),
            service=(self.address,),
            stun=("127.0.0.1:3478",),
            overlay=("100.64.0.0/10",),
        )


@contextmanager
def serving(homestead: Homestead, context: ssl.SSLContext, certificate: bytes) -> Iterator[Office]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/enrol"
            request = decode_enrolment_request(self.rfile.read(int(self.headers["content-length"])))
            opened.asked.append(request)
            outcome = opened.answer(request)
            status = REFUSAL_STATUS.get(outcome.code, 500) if isinstance(outcome, EnrolmentRefusal) else 200
            body = outcome if isinstance(outcome, bytes) else encode_enrolment(outcome)
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    class Server(HTTPServer):
        def handle_error(self, *_: object) -> None:
            """A client that breaks off is what half of these tests are about."""

        def get_request(self) -> tuple[ssl.SSLSocket, object]:
            accepted, source = self.socket.accept()
            accepted.settimeout(5)
            try:
                return context.wrap_socket(accepted, server_side=True), source
            except BaseException:
                accepted.close()
                raise

    with Server(("127.0.0.1", 0), Handler) as server:
        opened = Office(
            homestead,
            f"127.0.0.1:{server.server_port}",
            certificate,
            lambda request: opened.grant(request),  # noqa: PLW0108 not made yet
        )
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield opened
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def office(tmp_path: Path) -> Iterator[Office]:
    homestead = found(tmp_path)
    with serving(homestead, *service_context(homestead, "127.0.0.1")) as opened:
        yield opened


def refusal(state: Path, key: str, name: str | None = "alice") -> CommandError:
    with pytest.raises(CommandError) as raised:
        enrol(state, key, name, {})
    assert not is_enrolled(state)
    return raised.value


def test_a_key_becomes_a_certificate_with_all_papers(office: Office, tmp_path: Path) -> None:
    done = enrol(tmp_path / "state", office.key(), "alice", {})
    assert (done.certificate.name, done.network, done.custody, done.is_new) == ("alice.home", "home", "key-file", True)
    papers = load_papers(tmp_path / "state")
    assert papers.certificate == done.certificate
    assert papers.network.service == (office.address,)
    assert papers.trust().fingerprint == office.homestead.authority.fingerprint


def test_the_secret_never_travels_and_the_proof_is_bound_to_this_service(office: Office, tmp_path: Path) -> None:
    enrol(tmp_path / "state", office.key(), "alice", {})
    (request,) = office.asked
    assert SECRET not in encode_enrolment(request)
    assert request.proof == enrolment_proof(SECRET, request.request, office.certificate)


def test_nothing_is_sent_to_a_service_that_does_not_lead_to_the_pinned_root(office: Office, tmp_path: Path) -> None:
    foreign = found(tmp_path).authority.fingerprint
    error = refusal(tmp_path / "state", office.key(authority_fingerprint=foreign))
    assert error.code is ExitCode.NOT_PERMITTED
    assert "nothing was sent" in str(error)
    assert not office.asked


def test_nothing_is_sent_to_a_service_that_shows_the_right_root_behind_a_foreign_certificate(tmp_path: Path) -> None:
    homestead, foreign = found(tmp_path), found(tmp_path)
    _, certificate = service_context(foreign, "127.0.0.1")
    mixed = Homestead(tmp_path, homestead.authority)
    context = _chain_of(foreign, mixed.authority.root_der)
    with serving(homestead, context, certificate) as office:
        error = refusal(tmp_path / "state", office.key())
        assert error.code is ExitCode.NOT_PERMITTED
        assert not office.asked


def test_nothing_is_sent_to_a_certificate_for_another_host(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    with serving(homestead, *service_context(homestead, "192.0.2.1")) as office:
        assert refusal(tmp_path / "state", office.key()).code is ExitCode.NOT_PERMITTED
        assert not office.asked


def test_an_endpoint_can_not_pass_as_the_service(tmp_path: Path) -> None:
    homestead = found(tmp_path)
    state = homestead.settle("mallory")
    secrets = open_identity(kept_in(state))
    context = _context(secrets.seed, load_papers(state).certificate.der, homestead.authority.root_der, tmp_path)
    with serving(homestead, context, b"") as office:
        assert refusal(tmp_path / "state", office.key()).code is ExitCode.NOT_PERMITTED
        assert not office.asked


def test_a_certificate_for_another_key_is_refused(office: Office, tmp_path: Path) -> None:
    other = open_identity(kept_in(office.homestead.settle("other")))
    stolen = office.homestead.issue(other, "alice.home", 3)
    office.answer = lambda request: _with(office.grant(request), certificate=stolen)
    assert "another key" in str(refusal(tmp_path / "state", office.key()))


def test_a_certificate_of_another_authority_is_refused(office: Office, tmp_path: Path) -> None:
    office.answer = lambda request: office.grant(request, by=found(tmp_path).authority)
    assert "not from this network's authority" in str(refusal(tmp_path / "state", office.key()))


def test_a_certificate_under_another_name_is_refused(office: Office, tmp_path: Path) -> None:
    office.answer = lambda request: office.grant(request, name="mallory.home")
    assert "names another" in str(refusal(tmp_path / "state", office.key()))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("key", ExitCode.NOT_PERMITTED),
        ("name", ExitCode.NOT_PERMITTED),
        ("request", ExitCode.NOT_SO),
        ("limit", ExitCode.UNREACHABLE),
        ("full", ExitCode.UNREACHABLE),
        ("of a later version", ExitCode.NOT_SO),
    ],
)
def test_a_refusal_is_told_in_the_services_words_with_its_exit_code(
    office: Office, tmp_path: Path, code: str, expected: ExitCode
) -> None:
    office.answer = lambda request: EnrolmentRefusal(code, "Because.")
    error = refusal(tmp_path / "state", office.key())
    assert error.code is expected
    assert str(error) == "the service refused: Because"


@pytest.mark.parametrize("body", [b"", b"nonsense", b"\x80", b"\xc1" * 100])
def test_nonsense_for_an_answer_may_be_tried_again(office: Office, tmp_path: Path, body: bytes) -> None:
    office.answer = lambda request: body
    assert refusal(tmp_path / "state", office.key()).code is ExitCode.UNREACHABLE


def test_a_lost_answer_is_asked_for_again_with_the_same_request(office: Office, tmp_path: Path) -> None:
    honest = office.answer
    office.answer = lambda request: b""
    refusal(tmp_path / "state", office.key())
    office.answer = honest
    enrol(tmp_path / "state", office.key(), "alice", {})
    first, second = office.asked
    assert first == second


def test_nobody_there_is_unreachable(tmp_path: Path) -> None:
    key = EnrolmentKey(("127.0.0.1:9", "127.0.0.1:10"), bytes(32), "k1", SECRET).encode()
    error = refusal(tmp_path / "state", key)
    assert error.code is ExitCode.UNREACHABLE
    assert "127.0.0.1:9" in str(error)
    assert "127.0.0.1:10" in str(error)


def test_the_next_address_of_the_key_is_tried(office: Office, tmp_path: Path) -> None:
    assert enrol(tmp_path / "state", office.key(addresses=("127.0.0.1:9", office.address)), "alice", {}).is_new


def test_enrolling_again_changes_nothing(office: Office, tmp_path: Path) -> None:
    first = enrol(tmp_path / "state", office.key(), "alice", {})
    again = enrol(tmp_path / "state", office.key(), "alice.home", {})
    assert again.certificate == first.certificate
    assert not again.is_new
    assert len(office.asked) == 1


def test_another_name_or_authority_for_an_enrolled_directory_is_refused(office: Office, tmp_path: Path) -> None:
    enrol(tmp_path / "state", office.key(), "alice", {})
    for key, name in ((office.key(), "bob"), (office.key(authority_fingerprint=bytes(32)), "alice")):
        with pytest.raises(CommandError) as raised:
            enrol(tmp_path / "state", key, name, {})
        assert raised.value.code is ExitCode.NOT_SO


def test_an_ended_certificate_is_replaced_under_the_same_key(office: Office, tmp_path: Path) -> None:
    state = office.homestead.settle("alice", life_s=-10)
    before = load_papers(state).certificate
    assert (
        before.public_key
        == enrol(state, office.key(), None if default_name() == "alice" else "alice", {}).certificate.public_key
    )


@pytest.mark.parametrize(
    ("key", "name"), [("fabric-key-x", "alice"), ("", "alice"), ("VALID", "-alice"), ("VALID", "a.b_c")]
)
def test_what_was_mistyped_is_wrong_usage_and_makes_nothing(
    office: Office, tmp_path: Path, key: str, name: str
) -> None:
    error = refusal(tmp_path / "state", office.key() if key == "VALID" else key, name)
    assert error.code is ExitCode.WRONG_USAGE
    assert not (tmp_path / "state").exists()


def _with(answer: EnrolmentAnswer, *, certificate: bytes) -> EnrolmentAnswer:
    return EnrolmentAnswer(
        certificate, answer.authority, answer.revocations, answer.service, answer.stun, answer.overlay
    )


def _chain_of(foreign: Homestead, root_der: bytes) -> ssl.SSLContext:
    seed, certificate = foreign.issue_service("127.0.0.1")
    return _context(seed, certificate, root_der, foreign.directory)


def _context(seed: bytes, certificate: bytes, root_der: bytes, directory: Path) -> ssl.SSLContext:
    return context_of(seed, certificate, root_der, directory / "mixed.pem")


def test_a_person_who_has_to_sign_is_waited_for_and_told_of_once(office: Office, tmp_path: Path) -> None:
    waits = [EnrolmentRefusal("waiting", "It waits as request 1a2b.")] * 3
    office.answer = lambda request: waits.pop() if waits else office.grant(request)
    told: list[str] = []
    enrol(tmp_path / "state", office.key(), "alice", {}, patience=Patience(60.0, told.append, ask_again_s=0.01))
    assert is_enrolled(tmp_path / "state")
    assert told == ["It waits as request 1a2b: waiting for up to 60 s"]
    assert len({request.request for request in office.asked}) == 1
    assert len(office.asked) == 4


def test_where_patience_ends_the_same_command_again_picks_the_answer_up(office: Office, tmp_path: Path) -> None:
    office.answer = lambda _: EnrolmentRefusal("waiting", "It waits as request 1a2b.")
    error = refusal(tmp_path / "state", office.key())
    assert error.code is ExitCode.UNREACHABLE
    assert "again later" in str(error)
    office.answer = lambda request: office.grant(request)  # noqa: PLW0108 another one
    enrol(tmp_path / "state", office.key(), "alice", {})
    first, last = office.asked
    assert first.request == last.request


def test_what_a_person_refused_to_sign_is_not_waited_for(office: Office, tmp_path: Path) -> None:
    office.answer = lambda _: EnrolmentRefusal("authority", "The authority refused to sign: unknown host.")
    assert refusal(tmp_path / "state", office.key()).code is ExitCode.NOT_PERMITTED
