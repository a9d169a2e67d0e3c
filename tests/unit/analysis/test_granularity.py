"""The number of clusters: silhouettes as scikit-learn counts them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from imagekin import errors
from imagekin_worker.analysis import granularity
from imagekin_worker.analysis.granularity import GranularitySearch, silhouette
from imagekin_worker.matrix import view
from kit.interruptions import finished, interrupted


def crowds(n_crowds: int, n: int = 400, dim: int = 24) -> np.ndarray:
    random = np.random.default_rng(n_crowds)
    centers = np.maximum(random.standard_normal((n_crowds, dim)), 0) * 4
    return (centers[np.arange(n) % n_crowds] + np.abs(random.standard_normal((n, dim))) * 0.5).astype(np.float32)


@pytest.mark.parametrize("n_crowds", [3, 7, 13])
def test_crowds_are_counted(n_crowds: int) -> None:
    rows = crowds(n_crowds)
    found = finished(GranularitySearch(rows, view.of(rows, "space"), max_clusters=20)).result()
    assert found.n_clusters == n_crowds
    assert [number for number, _ in found.scores] == list(range(2, 21))
    assert dict(found.scores)[n_crowds] == max(score for _, score in found.scores)


def test_silhouettes_are_scikit_learns() -> None:
    rows = crowds(5, 150)
    unit = view.of(rows, "space").exact(rows)
    random = np.random.default_rng(0)
    for labels in (np.arange(150) % 5, random.integers(0, 9, 150), np.r_[np.zeros(149, int), 1]):
        distances = (1 - unit @ unit.T).clip(0)
        np.fill_diagonal(distances, 0)
        expected = silhouette_score(distances, labels, metric="precomputed")
        assert silhouette(distances.astype(np.float32), labels) == pytest.approx(expected, abs=1e-6)
    assert silhouette(distances, np.zeros(150, int)) == 0


def test_of_many_rows_a_sample_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granularity, "CLUSTERED_ROWS", 200)
    monkeypatch.setattr(granularity, "SCORED_ROWS", 120)
    rows = crowds(6)
    found = finished(GranularitySearch(rows, view.of(rows, "space"), max_clusters=10)).result()
    assert found.n_clusters == 6


def test_it_goes_on_after_a_kill() -> None:
    rows = crowds(4)
    made = view.of(rows, "space")
    whole = finished(GranularitySearch(rows, made, max_clusters=9)).result()
    found = interrupted(
        GranularitySearch(rows, made, max_clusters=9), lambda state: GranularitySearch.resume(rows, made, state), 2
    ).result()
    assert found == whole


def test_few_rows_and_many_clusters() -> None:
    rows = crowds(2, 5)
    search = GranularitySearch(rows, view.of(rows, "space"))
    assert search.numbers == [2, 3, 4] and finished(search).result().n_clusters in (2, 3, 4)
    assert granularity.tried(64) == [*range(2, 61), 63, 64]
    for wrong in ({"max_clusters": 1},):
        with pytest.raises(errors.InvalidRequest):
            GranularitySearch(rows, view.of(rows, "space"), **wrong)
    with pytest.raises(errors.InvalidRequest):
        GranularitySearch(rows[:2], view.of(rows[:2], "space"))
