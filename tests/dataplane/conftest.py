"""Both lanes for the tests that ask for nothing but the contract."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fabric.dataplane.reference import ReferenceLane
from fabric.errors import ConfigurationError
from tests.dataplane.pair import End, LaneMaker, native_lane

LANES: dict[str, LaneMaker] = {"reference": ReferenceLane, "native": native_lane}


@pytest.fixture(scope="module", params=list(LANES))
def each_lane(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a module once with each lane in every `End`: `pytestmark = pytest.mark.usefixtures("each_lane")`."""
    make_lane = LANES[request.param]
    try:
        make_lane(b"\x02\xfa\0\0\0\0", ())
    except ConfigurationError as error:
        pytest.skip(str(error))
    End.make_lane = staticmethod(make_lane)
    yield request.param
    End.make_lane = ReferenceLane
