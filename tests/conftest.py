"""What every test shares: how hypothesis searches, here and in CI, and in what order processors share the tests."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

# No deadline an example: these machines are shared, and a slow moment is not a defect. What failed is printed as a
# blob that `@reproduce_failure` replays. CI searches from fixed seeds, so that what lands is what was seen to pass.
settings.register_profile("here", deadline=None, print_blob=True)
settings.register_profile(
    "ci", deadline=None, print_blob=True, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
# `make check` looks shortly, and often; `make test` looks well.
settings.register_profile("check", deadline=None, print_blob=True, max_examples=25)
settings.load_profile("ci" if os.environ.get("CI") else "here")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processors share the tests, files with slow ones come first: nobody is left with one at the end."""
    if hasattr(config, "workerinput"):
        slow = {item.path for item in items if item.get_closest_marker("slow") is not None}
        items.sort(key=lambda item: (item.path not in slow, item.path.name != "test_thousand.py"))
