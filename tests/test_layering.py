"""Who may import whom. The tables are the rule; ARCHITECTURE.md tells them in words."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

_SHARED = (
    "fabric.crypto",
    "fabric.identity",
    "fabric.wire",
    "fabric.core.machine",
    "fabric.shell.driver",
    "fabric.shell.clock",
    "fabric.shell.durable",
    "fabric.shell.exit_code",
    "fabric.shell.log",
    "fabric.shell.notify",
    "fabric.shell.program",
    "fabric.shell.settings_file",
    "fabric.shell.udp",
)
"""What the service's shell takes from the endpoint's."""

MAY_IMPORT: Mapping[str, tuple[str, ...]] = {
    "fabric.errors": (),
    "fabric.wire": ("fabric.wire",),
    "fabric.crypto": ("fabric.crypto",),
    "fabric.identity": ("fabric.identity", "fabric.wire", "fabric.crypto"),
    "fabric.core": ("fabric.core", "fabric.wire", "fabric.crypto", "fabric.identity", "fabric.dataplane.contract"),
    "fabric.dataplane.contract": ("fabric.core", "fabric.wire", "fabric.crypto", "fabric.identity"),
    "fabric.dataplane": (
        "fabric.dataplane",
        "fabric.wire",
        "fabric.crypto",
        "fabric.core.session",
        "fabric.core.replay",
        "fabric.core.switch",
        "fabric.core.machine",
    ),
    "fabric.custody": ("fabric.custody", "fabric.crypto", "fabric.identity", "fabric.wire", "fabric.shell.durable"),
    "fabric.shell": (
        "fabric.shell",
        "fabric.core",
        "fabric.crypto",
        "fabric.custody",
        "fabric.dataplane",
        "fabric.identity",
        "fabric.wire",
    ),
    "fabric.lab": ("fabric.lab",),
    "fabric.cli": (
        "fabric.cli",
        "fabric.lab",
        "fabric.wire",
        "fabric.shell.config",
        "fabric.shell.control_client",
        "fabric.shell.control_wire",
        "fabric.shell.custody",
        "fabric.shell.enrolment",
        "fabric.shell.exit_code",
        "fabric.shell.owner",
        "fabric.shell.program",
        "fabric.shell.wishes",
    ),
    "discovery.core": (
        "discovery.core",
        "fabric.wire",
        "fabric.crypto",
        "fabric.identity",
        "fabric.core.machine",
        "fabric.core.timers",
    ),
    "discovery.shell": ("discovery.shell", "discovery.core", "fabric.custody", *_SHARED),
    "discovery.cli": ("discovery.cli", "discovery.shell", "discovery.core", *_SHARED),
    "tests.sim": (
        "tests",
        "fabric.wire",
        "fabric.crypto",
        "fabric.identity",
        "fabric.core",
        "fabric.dataplane",
        "discovery.core",
    ),
    "tests.explore": ("tests", "fabric.wire", "fabric.crypto", "fabric.identity", "fabric.core", "fabric.dataplane"),
}

FOR_EVERYBODY = ("fabric", "fabric.errors")
"""The root holds the version and nothing else."""

PURE = ("fabric.wire", "fabric.crypto", "fabric.identity", "fabric.core", "fabric.dataplane", "discovery.core")

IMPURE_MODULES = frozenset(
    (
        *("trio", "socket", "time", "os", "secrets", "logging", "pyroute2", "random", "threading"),
        *("asyncio", "multiprocessing", "select", "selectors", "signal", "sqlite3", "ssl", "subprocess", "tempfile"),
        *("httpx", "hypercorn", "starlette", "trio_websocket", "typer", "rich", "pathlib", "io"),
    )
)

OURS = ("fabric", "discovery", "tests")


def _module_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def modules() -> list[str]:
    """Every module of ours, by its dotted name."""
    files = [file for package in OURS for file in (ROOT / package).rglob("*.py")]
    return sorted(_module_of(file) for file in files)


@pytest.mark.parametrize("module", [name for name in modules() if not name.startswith("tests")])
def test_a_module_imports_only_what_its_layer_may(module: str) -> None:
    layer = _layer_of(module)
    assert layer is not None or module in (*FOR_EVERYBODY, "discovery"), f"{module} belongs to no layer of the table"
    allowed = (*MAY_IMPORT.get(layer or "", ()), *FOR_EVERYBODY[1:])
    strange = [
        name for name in _imports(module) if _is_ours(name) and not _is_within(name, allowed) and name != "fabric"
    ]
    assert not strange, f"{module} may import {', '.join(allowed)}; it imports {', '.join(strange)}"


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith(("tests.sim", "tests.explore"))])
def test_the_simulator_knows_no_shell(module: str) -> None:
    allowed = (*MAY_IMPORT[_layer_of(module) or ""], *FOR_EVERYBODY[1:])
    assert not [name for name in _imports(module) if _is_ours(name) and not _is_within(name, allowed)]


@pytest.mark.parametrize("module", [name for name in modules() if name.startswith(PURE)])
def test_a_pure_module_touches_neither_clock_nor_world(module: str) -> None:
    assert not {name.partition(".")[0] for name in _imports(module)} & IMPURE_MODULES


def test_fabric_never_imports_discovery() -> None:
    offenders = {
        module: name
        for module in modules()
        if module.startswith("fabric")
        for name in _imports(module)
        if name.partition(".")[0] == "discovery"
    }
    assert not offenders


def _layer_of(module: str) -> str | None:
    """The longest entry of the table that the module is within."""
    return max((layer for layer in MAY_IMPORT if _is_within(module, (layer,))), key=len, default=None)


@cache
def _imports(module: str) -> list[str]:
    """Every module that `module` names in an import, wherever it stands; `from a import b` names a.b if that is one."""
    return list(_named_in(module))


def _named_in(module: str) -> Iterator[str]:
    tree = ast.parse(_file_of(module).read_text())
    for node in _statements(tree):
        match node:
            case ast.Import(names=names):
                yield from (alias.name for alias in names)
            case ast.ImportFrom(module=str(origin), names=names, level=0):
                parts = [f"{origin}.{alias.name}" for alias in names]
                yield from (part if _is_module(part) else origin for part in parts)
            case ast.ImportFrom(level=level) if level:
                pytest.fail(f"{module} has a relative import: name the whole module")


def _statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below `node`, and nothing smaller: no import is part of an expression."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.excepthandler, ast.match_case)):
            yield child
            yield from _statements(child)


def _is_ours(name: str) -> bool:
    return name.partition(".")[0] in OURS


def _is_within(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def _is_module(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _file_of(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    package = path / "__init__.py"
    return package if package.exists() else path.with_suffix(".py")
