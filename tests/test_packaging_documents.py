"""The documents stay true: links lead somewhere, and what they name exists."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import msgspec
import pytest
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from discovery.cli.main import app as discoveryd
from discovery.shell.config import Config as ServiceConfig
from fabric.cli.main import app as fabric
from fabric.shell.config import Config as EndpointConfig

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
TESTS = [*ROOT.glob("tests/**/test_*.py"), *ROOT.glob("netns-tests/test_*.py")]


def named(path: Path) -> str:
    return str(path.relative_to(ROOT))


def anchors(page: Path) -> set[str]:
    """The anchors that a page's headings make."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def names_in(file: Path) -> frozenset[str]:
    """The names of all test functions of a file."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    nodes = ast.walk(ast.parse(file.read_text()))
    return frozenset(node.name for node in nodes if isinstance(node, functions) and node.name.startswith("test_"))


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_every_link_of_a_page_leads_to_something(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        file, _, anchor = target.partition("#")
        there = (page.parent / file).resolve() if file else page
        assert there.exists(), f"{named(page)} links to {target}"
        if anchor:
            assert anchor in anchors(there), f"{named(page)} links to {target}"


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    """As `file.py::test_name`, or as `tests/.../file.py` for a whole file."""
    text = page.read_text()
    for file, name in re.findall(r"`((?:tests|netns-tests)/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / file).is_file(), f"{named(page)} names {file}"
        if name:
            assert name in names_in(ROOT / file), f"{named(page)} names {file}::{name}"


def test_every_claim_of_the_security_page_names_a_test() -> None:
    """The rows of its table of claims; what is not built is said in words below, not in the table."""
    table = (ROOT / "docs/security.md").read_text().partition("## Claims")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ") and not line.startswith(("| claim", "| **"))]
    assert len(rows) > 20
    assert not [row for row in rows if not re.search(r"`(?:tests|netns-tests)/[\w/]+\.py(?:::\w+)?`", row)]


def test_the_tour_of_the_code_names_every_module_and_nothing_else() -> None:
    tour = (ROOT / "ARCHITECTURE.md").read_text().partition("## Tour")[2].partition("\n## ")[0]
    told = set(re.findall(r"^\| `([\w/]+\.py)` \|", tour, re.MULTILINE))
    modules = [*ROOT.glob("fabric/**/*.py"), *ROOT.glob("discovery/**/*.py")]
    stand = {named(path) for path in modules if path.name != "__init__.py"}
    assert told == stand, f"missing: {sorted(stand - told)}; gone: {sorted(told - stand)}"


def test_the_tour_has_each_module_in_the_words_that_open_it() -> None:
    tour = (ROOT / "ARCHITECTURE.md").read_text().partition("## Tour")[2]
    for file, words in re.findall(r"^\| `([\w/]+\.py)` \| (.+) \|$", tour, re.MULTILINE):
        docstring = ast.get_docstring(ast.parse((ROOT / file).read_text())) or ""
        opening = " ".join(docstring.partition("\n\n")[0].splitlines())
        assert words.replace("\\|", "|") == opening, f"{file} opens with {opening!r}"


PROGRAMS = {"fabric": get_command(fabric), "discoveryd": get_command(discoveryd)}


def typed(page: Path) -> list[list[str]]:
    """The commands of ours in a page, as words: from its blocks of code, and from `code` within its sentences."""
    parts = page.read_text().split("```")
    blocks, sentences = parts[1::2], parts[::2]
    lines = [line.partition("  ")[0] for block in blocks for line in block.splitlines()]
    pieces = [code for text in sentences for code in re.findall(r"`([^`]+)`", text)]
    found = (re.search(r"(?:^|[\s(])((?:fabric|discoveryd) [a-z].*)", piece) for piece in (*lines, *pieces))
    return [re.split(r"[\s\[\]]+", match[1]) for match in found if match]


def follow(words: list[str]) -> tuple[object, list[str]]:
    """The command that the words lead to, and the words behind it."""
    command: object = PROGRAMS[words[0]]
    rest = words[1:]
    while isinstance(command, TyperGroup) and rest and not rest[0].startswith("-"):
        command, rest = command.commands[rest[0]], rest[1:]
    return command, rest


@pytest.mark.parametrize("page", DOCUMENTS, ids=named)
def test_every_command_that_a_page_names_is_there_with_its_options(page: Path) -> None:
    for words in typed(page):
        try:
            command, rest = follow(words)
        except KeyError as error:
            pytest.fail(f"{named(page)} names {' '.join(words)}: there is no {error}")
        assert isinstance(command, TyperCommand | TyperGroup)
        known = {option for parameter in command.params for option in parameter.opts}
        told = {word.partition("=")[0] for word in rest[: rest.index("|") if "|" in rest else None] if word[:2] == "--"}
        assert told <= known, f"{named(page)} names {' '.join(words)}"


def settings_of(heading: str) -> Mapping[str, str]:
    """Name -> meaning, of each row of a table of settings in the page about operations."""
    section = (ROOT / "docs/operations.md").read_text().partition(f"\n{heading}\n")[2].partition("\n## ")[0]
    table = section.partition("| setting | default | meaning |\n")[2].partition("\n\n")[0]
    rows = [row.split(" | ") for row in table.splitlines()[1:]]
    return {name: row[2] for row in rows for name in re.findall(r"`(\w+)`", row[0])}


def test_every_setting_of_an_endpoint_is_told_and_no_other() -> None:
    assert set(settings_of("### Settings")) == {field.name for field in msgspec.structs.fields(EndpointConfig)}


def test_every_setting_of_the_service_is_told_and_no_other() -> None:
    told = set(settings_of("## The service"))
    assert told <= set(ServiceConfig.__struct_fields__)
    bounds = re.compile(r"max_\w+|\w+_rate|\w+_burst")
    assert not [name for name in ServiceConfig.__struct_fields__ if name not in told and not bounds.fullmatch(name)]


def test_every_target_that_the_readme_tells_people_to_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/performance.md"))
    told = {target for page in pages for target in re.findall(r"`make ([a-z]+)", page.read_text())}
    assert told <= targets | {"it"}
