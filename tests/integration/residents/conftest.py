"""What a worker's matrices are kept in, and what they read of SQL."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagekin.store import reading
from imagekin_worker.matrix import loaded
from imagekin_worker.matrix.file_cache import MatrixCache
from kit.processes import PLENTY


@pytest.fixture(autouse=True)
def few_changes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a file be written anew after few changes."""
    monkeypatch.setattr(loaded, "FEWEST_CHANGES", 8)


@pytest.fixture(params=["raw", "calibrated"])
def view(request: pytest.FixtureRequest) -> str:
    """The view that is searched in."""
    return request.param


@pytest.fixture
def cache(tmp_path: Path) -> MatrixCache:
    return MatrixCache(tmp_path / "matrices", PLENTY)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """How many images each reading of SQL brought."""
    counts: list[int] = []
    changes = reading.changes

    def counted(*args: Any) -> Iterator[reading.Change]:
        counts.append(0)
        for change in changes(*args):
            counts[-1] += len(change.ids)
            yield change

    monkeypatch.setattr(reading, "changes", counted)
    yield counts
