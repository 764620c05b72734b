"""One program that runs inside a namespace: its output in a file, its end by process id."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from fabric.lab.namespace import SEARCH_PATH, LabError, Namespace


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended: its exit code and what it printed."""

    code: int
    output: str
    errors: str

    def must(self) -> Finished:
        """Itself; LabError unless the exit code is 0."""
        if self.code != 0:
            raise LabError(f"exit code {self.code}: {(self.errors or self.output).strip()}")
        return self


def run(
    namespace: Namespace,
    arguments: Sequence[str],
    *,
    timeout_s: float = 30.0,
    environment: Mapping[str, str] | None = None,
    feed: str | None = None,
) -> Finished:
    """Runs a program to its end. LabError when it takes longer than `timeout_s`."""
    try:
        done = namespace.inside(
            lambda: subprocess.run(
                list(arguments),
                input=feed,
                stdin=subprocess.DEVNULL if feed is None else None,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=timeout_s,
                check=False,
                env=_environment(environment),
            )
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"{' '.join(arguments)} took more than {timeout_s:g} s in {namespace.name}") from error
    return Finished(done.returncode, done.stdout, done.stderr)


class Program:
    """A program that goes on running; output and errors go to `log`, one after the other.

    `lasting`, once set: it is to run until it is asked to end, so that an end of its own is a fault.
    """

    def __init__(
        self,
        namespace: Namespace,
        arguments: Sequence[str],
        log: Path,
        *,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.arguments = list(arguments)
        self.log = log
        self.lasting = False
        self._was_asked = False
        with log.open("ab") as output:
            self._process = namespace.inside(
                lambda: subprocess.Popen(
                    self.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=_environment(environment),
                    start_new_session=True,  # so that Ctrl-C at the terminal reaches the laboratory alone
                )
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def has_failed(self) -> bool:
        """Whether it has ended though it was to last and nobody asked it to end."""
        return self.lasting and not self._was_asked and not self.running

    def output(self) -> str:
        """Everything printed so far."""
        return self.log.read_text(errors="replace")

    def last_words(self, lines: int) -> str:
        return "\n".join(self.output().splitlines()[-lines:])

    def describe(self) -> str:
        """Whether it runs, and what it said last; of one that failed, more."""
        state = "runs" if self.running else f"ended with {self._process.returncode}"
        manner = " BY ITSELF" if self.has_failed else ""
        return f"{self.log.stem} {state}{manner}; its last words:\n{self.last_words(100 if manner else 15)}"

    def wait(self, timeout_s: float = 10.0) -> int:
        """The exit code (minus the signal's number if one ended it). LabError after `timeout_s`."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise LabError(f"{self.arguments[0]} still runs after {timeout_s:g} s") from error

    def terminate(self, patience_s: float = 10.0) -> int:
        """Asks it to end, makes it end after `patience_s`, and returns the exit code."""
        if self.running:
            self._was_asked = True
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            deadline = time.monotonic() + patience_s
            while self.running and time.monotonic() < deadline:
                time.sleep(0.02)
        return self.kill()

    def kill(self) -> int:
        """Ends it without asking: kill -9."""
        if self.running:
            self._was_asked = True
            self._process.kill()
        return self._process.wait()

    def pause(self) -> None:
        """Stops it where it stands: the nearest to a suspended machine that a laboratory has."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._process.send_signal(signal.SIGCONT)


def _environment(more: Mapping[str, str] | None) -> dict[str, str]:
    """Ours, with the system's programs in reach and Python's output unbuffered; never our own supervisor's socket."""
    kept = {name: value for name, value in os.environ.items() if name not in ("NOTIFY_SOCKET", "WATCHDOG_USEC")}
    return {**kept, "PATH": SEARCH_PATH, "PYTHONUNBUFFERED": "1", **(more or {})}
