"""Every test of the service runs over both stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from discovery.core.settings import Settings
from discovery.core.store import MemoryStore
from discovery.shell.store_sqlite import SqliteStore
from tests.discovery.town import Town

MakeTown = Callable[..., Town]


@pytest.fixture(params=["memory", "sqlite"])
def make_town(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeTown]:
    stores: list[SqliteStore] = []

    def make(settings: Settings | None = None) -> Town:
        if request.param == "memory":
            return Town(MemoryStore(), settings)
        directory = tmp_path / f"{len(stores)}"
        directory.mkdir()
        stores.append(SqliteStore(directory))
        return Town(stores[-1], settings)

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def town(make_town: MakeTown) -> Town:
    return make_town()
