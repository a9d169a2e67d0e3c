"""Rows to cluster, and what holds a clustering against them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Clustering, Options

METRICS = ["euclidean", "cosine"]


def blobs(n: int = 600, dim: int = 16, k: int = 8, spread: float = 0.3, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((k, dim)) * 2
    return (centers[random.integers(0, k, n)] + spread * random.standard_normal((n, dim))).astype(np.float32)


def noise(n: int = 500, dim: int = 12, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def cluster(rows: np.ndarray, n_clusters: int, **options: Any) -> Clustering:
    job = KMeans(rows, n_clusters, Options(**options))
    assert job.advance()
    return job.result()


def directions(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def all_distances(rows: np.ndarray, centers: np.ndarray, metric: str) -> np.ndarray:
    if metric == "cosine":
        return 1 - directions(rows) @ directions(centers).T
    return np.linalg.norm(rows.astype(np.float64)[:, None] - centers.astype(np.float64)[None], axis=2)


def check(found: Clustering, rows: np.ndarray, n_clusters: int, metric: str) -> None:
    """Hold every field against the rows and the centers, in float64 and without the code under test."""
    n = len(rows)
    assert found.n_clusters == n_clusters and found.metric == metric
    assert found.centers.shape == (n_clusters, rows.shape[1]) and found.centers.dtype == np.float32
    assert found.labels.shape == (n,) and found.labels.dtype == np.int32
    assert found.distances.dtype == np.float32
    assert np.isfinite(found.centers).all() and np.isfinite(found.distances).all()
    members = [np.flatnonzero(found.labels == label) for label in range(n_clusters)]
    assert found.sizes.tolist() == [len(member) for member in members]
    assert found.sizes.min() >= 1
    order = [(-len(member), member[0]) for member in members]
    assert order == sorted(order)
    distances = all_distances(rows, found.centers, metric)
    own = distances[np.arange(n), found.labels]
    scale = 1.0 if metric == "cosine" else max(1.0, float(np.abs(rows).max()))
    np.testing.assert_allclose(found.distances, own, rtol=1e-4, atol=2e-6 * scale)
    cosines = (directions(rows) * directions(found.centers)[found.labels]).sum(1)
    for label, member in enumerate(members):
        assert found.medoids[label] in member
        assert own[found.medoids[label]] <= own[member].min() + 1e-6 * scale
        assert found.cohesion[label] == pytest.approx(cosines[member].mean(), abs=1e-5)
    assert found.inertia == pytest.approx((own if metric == "cosine" else own**2).sum(), rel=1e-5, abs=1e-9 * scale * n)
