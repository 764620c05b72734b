"""What is installed is what was tested: exact versions, whole packages, programs that start."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fabric

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PROGRAMS = sorted(PROJECT["scripts"])


def pins(file: str) -> dict[str, str]:
    """Name -> version of each line of a requirements file. Fails on a line that pins nothing."""
    found: dict[str, str] = {}
    for line in (ROOT / file).read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            matched = re.fullmatch(r"([A-Za-z0-9._-]+)==([0-9][A-Za-z0-9.]*)", line)
            assert matched is not None, f"{file}: {line!r} is not name==version"
            found[canonicalize_name(matched[1])] = matched[2]
    return found


RUNTIME = pins("requirements.txt")
ALL = RUNTIME | pins("requirements-dev.txt")
CUSTODY = pins("requirements-custody.txt")


def needs(requirements: list[str]) -> list[Requirement]:
    """Those of the requirements that hold on this machine."""
    parsed = [Requirement(text) for text in requirements]
    return [found for found in parsed if found.marker is None or found.marker.evaluate({"extra": ""})]


@pytest.mark.parametrize("text", PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
def test_each_pin_lies_within_what_the_package_allows(text: str) -> None:
    wanted = Requirement(text)
    assert wanted.specifier.contains(ALL[canonicalize_name(wanted.name)])


@pytest.mark.parametrize(
    "text", [text for extra in ("pkcs11", "tpm2") for text in PROJECT["optional-dependencies"][extra]]
)
def test_each_pin_of_custody_in_hardware_lies_within_its_extra(text: str) -> None:
    wanted = Requirement(text)
    assert wanted.specifier.contains(CUSTODY[canonicalize_name(wanted.name)])


@pytest.mark.parametrize("name", sorted(CUSTODY))
def test_what_custody_in_hardware_needs_is_pinned_and_agrees_with_the_other_pins(name: str) -> None:
    assert CUSTODY[name] == ALL.get(name, CUSTODY[name])
    try:
        wanted = needs(metadata.requires(name) or [])
    except metadata.PackageNotFoundError:
        pytest.skip(f"{name} is not installed: make .venv/.custody")
    assert {canonicalize_name(each.name) for each in wanted} <= (RUNTIME | CUSTODY).keys()


@pytest.mark.parametrize("name", sorted(RUNTIME))
def test_what_a_pinned_package_needs_is_pinned_too(name: str) -> None:
    for wanted in needs(metadata.requires(name) or []):
        assert canonicalize_name(wanted.name) in RUNTIME, f"{name} needs {wanted}"


@pytest.mark.parametrize("name", sorted(ALL))
def test_the_tests_run_with_the_pinned_versions(name: str) -> None:
    assert metadata.version(name) == ALL[name]


@pytest.mark.parametrize("program", PROGRAMS)
def test_each_program_is_installed_and_says_how_it_is_used(program: str) -> None:
    path = Path(sysconfig.get_path("scripts"), program)
    shown = subprocess.run([path, "--help"], capture_output=True, text=True, timeout=30, check=True)
    assert "usage" in shown.stdout.lower()
    assert shown.stderr == ""


@pytest.mark.slow
def test_a_wheel_holds_every_module_the_type_marker_and_the_licence(tmp_path: Path) -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    for name in tracked:
        if (ROOT / name).is_file() and not name.startswith(("docs/", "tests/", "netns-tests/")):
            copy = tmp_path / "source" / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((ROOT / name).read_bytes())
    build = "import sys; from setuptools import build_meta; print(build_meta.build_wheel(sys.argv[1]))"
    built = subprocess.run(
        [sys.executable, "-c", build, str(tmp_path)],
        cwd=tmp_path / "source",
        capture_output=True,
        text=True,
        check=True,
    )
    with zipfile.ZipFile(tmp_path / built.stdout.splitlines()[-1]) as wheel:
        held = set(wheel.namelist())
    modules = {name for name in tracked if re.match(r"(fabric|discovery)/.*\.py$", name) and (ROOT / name).is_file()}
    distribution = f"fabric_overlay-{fabric.__version__}.dist-info"
    assert held >= modules | {"fabric/py.typed", f"{distribution}/licenses/LICENSE", f"{distribution}/entry_points.txt"}
    assert not [name for name in held if name.startswith(("tests", "netns"))]
