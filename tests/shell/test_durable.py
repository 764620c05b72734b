"""Files survive a crash at any step."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fabric.shell.durable import remove_durably, write_durably

OLD, NEW = b"as it was", b"as it should be, and somewhat longer"


class PowerLoss(BaseException):
    """Ends the process as far as the code under test can tell."""


class Kernel:
    """Notes the steps of a write, and loses power just before the one of this number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, fatal: int | None = None) -> None:
        self.steps: list[str] = []
        self._fatal = fatal
        for owner, name in ((os, "write"), (os, "fsync"), (Path, "replace")):
            monkeypatch.setattr(owner, name, self._counted(name, getattr(owner, name)))

    def _counted(self, name: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any) -> Any:
            if len(self.steps) == self._fatal:
                raise PowerLoss
            self.steps.append(name)
            return act(*arguments)

        return counted


def test_content_is_synchronized_before_it_takes_the_name_and_the_directory_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Kernel(monkeypatch)
    write_durably(tmp_path / "file", NEW)
    assert kernel.steps == ["write", "fsync", "replace", "fsync"]


@pytest.mark.parametrize("fatal", range(4))
def test_a_crash_at_any_step_leaves_the_old_or_the_new_content_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    path = tmp_path / "file"
    write_durably(path, OLD)
    with monkeypatch.context() as patched:
        Kernel(patched, fatal)
        with pytest.raises(PowerLoss):
            write_durably(path, NEW)
    assert path.read_bytes() == (NEW if fatal == 3 else OLD)
    write_durably(path, NEW)
    assert path.read_bytes() == NEW
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_short_write_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, bytes(data[:5])))
    write_durably(tmp_path / "file", NEW)
    assert (tmp_path / "file").read_bytes() == NEW


def test_a_private_file_is_private_from_the_first_byte_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        write_durably(tmp_path / "file", NEW)
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o600


def test_removing_what_is_not_there_is_no_failure(tmp_path: Path) -> None:
    write_durably(tmp_path / "file", NEW)
    remove_durably(tmp_path / "file")
    remove_durably(tmp_path / "file")
    assert not list(tmp_path.iterdir())
