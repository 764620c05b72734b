"""What every test shares: how hypothesis searches, here and in CI."""

from __future__ import annotations

import os

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
