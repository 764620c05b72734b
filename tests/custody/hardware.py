"""A TPM and tokens that are real programs (swtpm, SoftHSM2), each with its state in a directory of its own.

swtpm      a process a TPM, on two UNIX sockets that it is handed listening: whoever connects waits for nothing
SoftHSM2   a library in this process, with tokens that `softhsm2-util` makes in a directory
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

REQUIRE = "FABRIC_REQUIRE_CUSTODY"
"""Set in CI: there a test that needs a TPM or a token may not be skipped."""

SOFTHSM = "softhsm2-util"
PIN = "914 273"


def why_no_tpm() -> str | None:
    return _missing("tpm2_pytss", "swtpm")


def why_no_token() -> str | None:
    return _missing("pkcs11", SOFTHSM) or (None if softhsm_library() else "there is no libsofthsm2.so")


def needs(reason: str | None) -> pytest.MarkDecorator:
    """Returns the mark of tests that are skipped for this reason, and run where it is None or skipping is forbidden."""
    return pytest.mark.skipif(reason is not None and os.environ.get(REQUIRE) != "1", reason=reason or "")


def softhsm_library() -> Path | None:
    """Where Debian, and others, put it; None for nowhere."""
    places = [Path("/usr/lib/softhsm/libsofthsm2.so"), *Path("/usr/lib").glob("*/softhsm/libsofthsm2.so")]
    return next((place for place in places if place.exists()), None)


@contextmanager
def running_tpm(directory: Path | None = None) -> Iterator[SoftTpm]:
    """A TPM that is on; one without a directory is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="tpm") as own:
        made = SoftTpm(directory or Path(own) / "t")
        made.start()
        try:
            yield made
        finally:
            made.stop()


@contextmanager
def loaded_tokens(directory: Path, *labels: str) -> Iterator[SoftTokens]:
    """The tokens of this process: one library, so one set of them at a time."""
    made = SoftTokens(directory)
    made.make(*labels)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SOFTHSM2_CONF", str(made.settings))
        yield made
        end_library()


def end_library() -> None:
    """As a program that ends does; the next question of this process opens it anew, perhaps with other tokens."""
    import pkcs11

    pkcs11.lib(str(softhsm_library())).finalize()


def _missing(library: str, program: str) -> str | None:
    if importlib.util.find_spec(library) is None:
        return f"{library} is not installed: make .venv/.custody"
    return None if shutil.which(program) else f"there is no {program}: .ci/system-packages test"


@dataclass
class SoftTpm:
    """A TPM whose state, and so its seeds, lie in `directory`; off until `start`. Paths of sockets must be short."""

    directory: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def tcti(self) -> str:
        return f"swtpm:path={self.directory / 'tpm'}"

    def start(self) -> None:
        self.directory.mkdir(exist_ok=True)
        with _listening(self.directory / "tpm") as data, _listening(self.directory / "tpm.ctrl") as control:
            self.process = subprocess.Popen(
                [
                    *("swtpm", "socket", "--tpm2", "--tpmstate", f"dir={self.directory}"),
                    *("--server", f"type=unixio,fd={data.fileno()}"),
                    *("--ctrl", f"type=unixio,fd={control.fileno()}"),
                    *("--flags", "not-need-init,startup-clear"),
                ],
                pass_fds=(data.fileno(), control.fileno()),
                stderr=subprocess.DEVNULL,
            )

    def stop(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait(10)
            self.process = None


def _listening(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen()
    return made


@dataclass(frozen=True)
class SoftTokens:
    """Tokens in `directory`; the library finds them by $SOFTHSM2_CONF, which has to name `settings`."""

    directory: Path

    @property
    def settings(self) -> Path:
        return self.directory / "softhsm2.conf"

    @property
    def pin_file(self) -> Path:
        return self.directory / "pin"

    def make(self, *labels: str) -> None:
        """Makes the tokens. The library counts them when it is loaded: make all of them before."""
        tokens = self.directory / "tokens"
        tokens.mkdir()
        self.settings.write_text(f"directories.tokendir = {tokens}\nobjectstore.backend = file\nlog.level = ERROR\n")
        self.pin_file.write_text(PIN + "\n")
        self.pin_file.chmod(0o600)
        for label in labels:
            subprocess.run(
                [SOFTHSM, "--init-token", "--free", "--label", label, "--pin", PIN, "--so-pin", "officer"],
                env={**os.environ, "SOFTHSM2_CONF": str(self.settings)},
                check=True,
                capture_output=True,
            )

    @contextmanager
    def unplugged(self) -> Iterator[None]:
        """All tokens are gone meanwhile."""
        here, elsewhere = self.directory / "tokens", self.directory / "away"
        here.rename(elsewhere)
        try:
            yield
        finally:
            elsewhere.rename(here)

    def private_keys(self, label: str) -> list[str]:
        """Returns the labels of what signs in a token, as a program of its own sees it."""
        program = (
            "import sys; from pkcs11 import Attribute, ObjectClass, lib;"
            "session = lib(sys.argv[1]).get_token(token_label=sys.argv[2]).open(user_pin=sys.argv[3]);"
            "found = session.get_objects({Attribute.CLASS: ObjectClass.PRIVATE_KEY});"
            "print(*(key.label for key in found), sep=chr(10))"
        )
        environment = {**os.environ, "SOFTHSM2_CONF": str(self.settings)}
        words = [sys.executable, "-c", program, str(softhsm_library()), label, PIN]
        return subprocess.run(words, env=environment, check=True, capture_output=True, text=True).stdout.splitlines()

    def uri(self, label: str, key: str = "host", pin_file: Path | None = None) -> str:
        pin = pin_file or self.pin_file
        return f"pkcs11:token={label};object={key}?module-path={softhsm_library()}&pin-source=file:{pin}"
