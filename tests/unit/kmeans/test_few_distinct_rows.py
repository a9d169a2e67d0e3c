"""Fewer distinct rows than clusters: rows that are alike have one label, and the number of clusters is told."""

from __future__ import annotations

import numpy as np
import pytest

from imagekin.enums import Metric
from imagekin_worker.kmeans import measure


def rows(distinct: int, copies: int, dim: int = 32) -> np.ndarray:
    random = np.random.default_rng(distinct)
    found = np.repeat(random.standard_normal((distinct, dim)).astype(np.float32), copies, axis=0)
    return np.ascontiguousarray(found[random.permutation(len(found))])


@pytest.mark.parametrize("metric", list(Metric))
@pytest.mark.parametrize(("distinct", "copies", "k"), [(3, 4, 5), (1, 7, 2), (4, 1, 5), (30, 50, 31)])
def test_each_distinct_row_is_a_cluster(metric: Metric, distinct: int, copies: int, k: int) -> None:
    given = rows(distinct, copies)
    found = measure.of_few(measure.Rows(given), metric, k)
    assert found is not None
    assert found.n_clusters == distinct
    assert found.sizes.tolist() == [copies] * distinct
    for label in range(distinct):
        members = given[found.labels == label]
        assert (members == members[0]).all()
        assert found.labels[found.medoids[label]] == label
    assert found.inertia == 0
    assert np.allclose(found.cohesion, 1)


@pytest.mark.parametrize(("distinct", "k"), [(5, 5), (6, 5), (3, 1)])
def test_where_there_are_enough_there_is_something_to_find(distinct: int, k: int) -> None:
    assert measure.of_few(measure.Rows(rows(distinct, 3)), Metric.EUCLIDEAN, k) is None


def test_zeros_are_alike_whatever_their_sign_and_rows_that_are_no_numbers_are_not_looked_at() -> None:
    zeros = np.array([[0.0, 1.0], [-0.0, 1.0], [2.0, 2.0]], np.float32)
    found = measure.of_few(measure.Rows(zeros), Metric.EUCLIDEAN, 3)
    assert found is not None
    assert found.labels.tolist() == [0, 0, 1]
    zeros[2, 0] = np.nan
    assert measure.of_few(measure.Rows(zeros), Metric.EUCLIDEAN, 3) is None


@pytest.mark.parametrize("metric", list(Metric))
def test_a_cluster_that_lost_its_rows_takes_all_that_are_alike(metric: Metric) -> None:
    given = np.ascontiguousarray(np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 1, 2, 2, 3]])
    centers = np.vstack([given.mean(0), np.full((2, 4), 100, np.float32)]).astype(np.float32)
    if metric is Metric.COSINE:
        centers = np.vstack([given.mean(0), -np.ones((2, 4), np.float32) / 2]).astype(np.float32)
        centers[0] /= np.linalg.norm(centers[0])
    source = measure.Rows(given)
    found = measure.conclude(source, metric, centers, measure.measure(source, centers, metric), 1)
    for value in range(4):
        assert len(set(found.labels[given[:, value] == 1].tolist())) == 1
    assert found.n_clusters == 3
    assert found.sizes.sum() == 8
