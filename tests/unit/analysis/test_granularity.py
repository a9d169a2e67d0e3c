"""The number of clusters: silhouettes as scikit-learn counts them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from imagekin import errors
from imagekin.enums import Metric
from imagekin_worker.analysis import granularity
from imagekin_worker.analysis.granularity import GranularitySearch, silhouette
from kit.interruptions import finished, interrupted


def crowds(n_crowds: int, n: int = 400, dim: int = 24) -> np.ndarray:
    random = np.random.default_rng(n_crowds)
    centers = np.maximum(random.standard_normal((n_crowds, dim)), 0) * 4
    return (centers[np.arange(n) % n_crowds] + np.abs(random.standard_normal((n, dim))) * 0.5).astype(np.float32)


@pytest.mark.parametrize(("n_crowds", "metric"), [(3, "cosine"), (7, "euclidean"), (13, "cosine")])
def test_crowds_are_counted(n_crowds: int, metric: str) -> None:
    rows = crowds(n_crowds)
    found = finished(GranularitySearch(rows, metric, max_clusters=20)).result()
    assert found.n_clusters == n_crowds
    assert [number for number, _ in found.scores] == list(range(2, 21))
    assert dict(found.scores)[n_crowds] == max(score for _, score in found.scores)


@pytest.mark.parametrize("metric", list(Metric))
def test_silhouettes_are_scikit_learns(metric: Metric) -> None:
    rows = crowds(5, 150)
    random = np.random.default_rng(0)
    distances = granularity.distances(rows, metric)
    for labels in (np.arange(150) % 5, random.integers(0, 9, 150), np.r_[np.zeros(149, int), 1]):
        expected = silhouette_score(rows.astype(np.float64), labels, metric=metric)
        assert silhouette(distances, labels) == pytest.approx(expected, abs=1e-5)
    assert silhouette(distances, np.zeros(150, int)) == 0


def test_equal_rows_count_once() -> None:
    rows = np.repeat(crowds(4, 4), 25, axis=0)
    search = GranularitySearch(rows, "euclidean")
    assert search.numbers == [2, 3, 4]
    found = finished(search).result()
    assert (found.n_clusters, found.scores[-1][1]) == (4, pytest.approx(1))
    assert GranularitySearch(np.ones((9, 5), np.float32), "euclidean").numbers == [2]


def test_of_many_rows_a_sample_is_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(granularity, "CLUSTERED_ROWS", 200)
    monkeypatch.setattr(granularity, "SCORED_ROWS", 120)
    rows = crowds(6)
    found = finished(GranularitySearch(rows, "cosine", max_clusters=10)).result()
    assert found.n_clusters == 6


def test_it_goes_on_after_a_kill() -> None:
    rows = crowds(4)
    whole = finished(GranularitySearch(rows, "cosine", max_clusters=9)).result()
    work = GranularitySearch(rows, "cosine", max_clusters=9)
    found = interrupted(work, lambda state: GranularitySearch.resume(rows, state), 2).result()
    assert found == whole


def test_few_rows_and_many_clusters() -> None:
    rows = crowds(2, 5)
    search = GranularitySearch(rows, "cosine")
    assert search.numbers == [2, 3, 4] and finished(search).result().n_clusters in (2, 3, 4)
    assert granularity.tried(64) == [*range(2, 61), 63, 64]
    for wrong in ({"max_clusters": 1},):
        with pytest.raises(errors.InvalidRequest):
            GranularitySearch(rows, "cosine", **wrong)
    with pytest.raises(errors.InvalidRequest):
        GranularitySearch(rows[:2], "cosine")
