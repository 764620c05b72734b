"""The documents stay true: links lead somewhere, and what they name exists."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

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


def test_every_target_that_the_readme_tells_people_to_make_is_there() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    pages = (ROOT / name for name in ("README.md", "CONTRIBUTING.md", "docs/operations.md", "docs/performance.md"))
    told = {target for page in pages for target in re.findall(r"`make ([a-z]+)", page.read_text())}
    assert told <= targets | {"it"}
