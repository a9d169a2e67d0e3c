"""The algorithm `kmeans-pytorch`."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from kmeans_pytorch import kmeans as package

from imagekin import errors
from imagekin_worker.kmeans import pytorch_package
from imagekin_worker.kmeans.measure import Options
from kit.partitions import METRICS, blobs, check, noise


def original_labels(rows: np.ndarray, n_clusters: int, metric: str, seed: int) -> np.ndarray:
    """Cluster with the package as the original class called it."""
    np.random.seed(seed)
    labels, _ = package(X=torch.from_numpy(rows), num_clusters=n_clusters, distance=metric)
    return labels.numpy()


@pytest.mark.parametrize("metric", METRICS)
def test_original_gives_the_packages_own_clusters(metric: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = blobs()
    expected = original_labels(rows, 5, metric, 100)
    capfd.readouterr()
    before = np.random.get_state(legacy=False)["state"]["key"].copy()
    shares: list[float] = []
    found = pytorch_package.run(rows, 5, Options(metric=metric, n_init=1), progress=shares.append)
    check(found, rows, 5, metric)
    assert len(set(zip(expected.tolist(), found.labels.tolist(), strict=True))) == 5
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == found.iterations + 1
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(before, np.random.get_state(legacy=False)["state"]["key"])


def test_original_keeps_the_best_start() -> None:
    rows = noise()
    inertias = [pytorch_package.run(rows, 6, Options(seed=seed, n_init=1)).inertia for seed in (100, 101, 102)]
    assert len(set(inertias)) > 1
    assert pytorch_package.run(rows, 6, Options(seed=100, n_init=3)).inertia == min(inertias)


def test_original_is_refused_past_its_memory_budget() -> None:
    rows = noise(100, 10)
    needed = 4 * 100 * 5 * 10
    pytorch_package.run(rows, 5, Options(metric="cosine", memory_budget_bytes=needed, n_init=1))
    with pytest.raises(errors.InvalidRequest, match=r"100 images x 5 clusters x 10 .*algorithm=kmeans"):
        pytorch_package.run(rows, 5, Options(metric="cosine", memory_budget_bytes=needed - 1, n_init=1))
    with pytest.raises(errors.InvalidRequest):
        pytorch_package.run(rows, 5, Options(metric="euclidean", memory_budget_bytes=needed, n_init=1))


def test_original_stops_where_the_package_would_loop_without_end() -> None:
    rows = np.repeat(noise(3), 10, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(pytorch_package.Diverged, match="algorithm=kmeans"):
            pytorch_package.run(rows, 6, Options(n_init=2))


def test_original_stops_past_its_limit_and_when_told() -> None:
    with pytest.raises(pytorch_package.Diverged, match="within 2 iterations"):
        pytorch_package.run(noise(), 6, Options(max_iterations=2, n_init=1))
    answers = iter([False, False, True])
    with pytest.raises(pytorch_package.Stopped):
        pytorch_package.run(noise(), 6, Options(n_init=1), should_stop=lambda: next(answers))


@pytest.mark.parametrize("metric", METRICS)
def test_original_with_one_cluster_or_one_row(metric: str) -> None:
    rows = noise(20)
    check(pytorch_package.run(rows, 1, Options(metric=metric, n_init=1)), rows, 1, metric)
    check(pytorch_package.run(rows[:1], 1, Options(metric=metric, n_init=1)), rows[:1], 1, metric)
    with pytest.raises(errors.InvalidRequest):
        pytorch_package.run(rows, 21, Options(metric=metric, n_init=1))
