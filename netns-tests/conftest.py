"""What every namespace test shares: whether such tests can run here at all, and the laboratory."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from _pytest.terminal import TerminalReporter
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from fabric.lab import Lab, Overlay, why_not

REQUIRE = "FABRIC_REQUIRE_NETNS"
HERE = Path(__file__).parent

PATIENT = {
    f"test_{name}.py"
    for name in ("authority", "endings", "lifetimes", "nat_behaviour", "two_services", "without_discovery")
}
"""Files that mostly wait for clocks: these run beside the others."""


class TwoRows(LoadScopeScheduling):  # type: ignore[misc] # xdist has no types
    """For `pytest -n 2`: what is patient goes to one process and everything else to the other, each one after another,
    so that no two tests load the machine or measure at the same time."""

    def _split_scope(self, nodeid: str) -> str:
        return "patient" if Path(nodeid.partition("::")[0]).name in PATIENT else "busy"


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> TwoRows:
    return TwoRows(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skips them, with the reason, where namespaces are not allowed; $FABRIC_REQUIRE_NETNS=1 fails instead.

    The hook sees every test of a session: those of other folders are left alone.
    """
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    for item in ours:
        item.add_marker(pytest.mark.netns)
    reason = why_not() if ours else None
    if reason is None:
        return
    if os.environ.get(REQUIRE) == "1":
        raise pytest.UsageError(f"{REQUIRE}=1, but {reason}")
    for item in ours:
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def figure(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """Takes a line with something measured; all of them are shown at the end of the session, and in its report."""
    return lambda line: record_property("figure", line)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What the daemons said is lost with the laboratory: a failure's report keeps the end of it."""
    report = yield
    lab = getattr(item, "funcargs", {}).get("lab")
    if report.failed and isinstance(lab, Lab) and lab.stands:
        report.sections.append(("Daemons of the laboratory", lab.describe()))
    return report


def pytest_terminal_summary(terminalreporter: TerminalReporter) -> None:
    """One line for each figure, whatever became of the test that measured it."""
    reports = [report for outcome in ("passed", "failed") for report in terminalreporter.stats.get(outcome, [])]
    lines = [line for report in reports for name, line in report.user_properties if name == "figure"]
    if lines:
        terminalreporter.section("figures")
    for line in lines:
        terminalreporter.write_line(f"figure: {line}")


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """An empty internet, for the tests of one file; what is left of it at the end is an error."""
    with Lab() as made:
        yield made


@pytest.fixture(scope="module")
def overlay(lab: Lab) -> Overlay:
    """A discovery service on that internet, with nobody enrolled yet."""
    return Overlay(lab)
