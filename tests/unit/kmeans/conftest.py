"""K-means on rows as few as tests can check by other means."""

from __future__ import annotations

import pytest

from imagekin_worker.kmeans import batches


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a few hundred rows be several batches."""
    monkeypatch.setattr(batches, "FIRST_ROWS", 64)
    monkeypatch.setattr(batches, "FIRST_ROWS_PER_CLUSTER", 4)
    monkeypatch.setattr(batches, "MOST_ROWS_PER_CLUSTER", 32)
