"""Enrolment where only an HTTP proxy leads out, and only it knows the service's name."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from fabric.shell.enrolment import Enrolled, enrol
from fabric.shell.exit_code import CommandError, ExitCode
from tests.shell.homestead import found, service_context
from tests.shell.proxy_server import ConnectProxy, serve_proxy
from tests.shell.test_enrolment import serving

HOST = "discovery.invalid"


async def enrol_by(proxy: ConnectProxy, state: Path, environment: dict[str, str], config: str = "") -> Enrolled:
    """Enrols with a service that is only reached through `proxy`."""
    homestead = found(state)
    with serving(homestead, *service_context(homestead, HOST)) as office:
        port = office.address.rpartition(":")[2]
        directory = state / "alice"
        directory.mkdir()
        (directory / "config.toml").write_text(config)
        async with serve_proxy(proxy):
            key = office.key(addresses=(f"{HOST}:{port}",))
            environment = {name: value.replace("PORT", str(proxy.port)) for name, value in environment.items()}
            outcome = await trio.to_thread.run_sync(lambda: _attempt(directory, key, environment))
    if isinstance(outcome, CommandError):
        raise outcome
    return outcome


def _attempt(directory: Path, key: str, environment: dict[str, str]) -> Enrolled | CommandError:
    try:
        return enrol(directory, key, "alice", environment)
    except CommandError as error:
        return error


async def test_all_of_it_goes_through_the_proxy_of_the_environment(tmp_path: Path) -> None:
    proxy = ConnectProxy({HOST: "127.0.0.1"}, authorization="Basic YW5uOnNlY3JldA==")
    done = await enrol_by(proxy, tmp_path, {"https_proxy": "http://ann:secret@127.0.0.1:PORT"})
    assert done.certificate.name == "alice.home"
    assert len(proxy.asked) == 2
    assert {target.partition(":")[0] for target in proxy.asked} == {HOST}


async def test_a_proxy_that_wants_a_password_is_told_in_one_sentence(tmp_path: Path) -> None:
    proxy = ConnectProxy({HOST: "127.0.0.1"}, authorization="Basic YW5uOnNlY3JldA==")
    with pytest.raises(CommandError) as caught:
        await enrol_by(proxy, tmp_path, {"HTTPS_PROXY": "http://ann:wrong@127.0.0.1:PORT"})
    assert caught.value.code == ExitCode.UNREACHABLE
    assert "wants a user and a password" in str(caught.value)
    assert "wrong" not in str(caught.value)


async def test_the_configuration_wins_over_the_environment(tmp_path: Path) -> None:
    proxy = ConnectProxy({HOST: "127.0.0.1"})
    with pytest.raises(CommandError, match=r"the proxy 127\.0\.0\.1:9 can't be reached"):
        await enrol_by(proxy, tmp_path, {"https_proxy": "http://127.0.0.1:PORT"}, 'proxy = "http://127.0.0.1:9"')
    assert not proxy.asked
