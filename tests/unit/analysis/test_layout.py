"""Maps: neighbors stay together, in slices as in one go."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors

from imagekin import errors
from imagekin_worker.analysis import layout, nearest
from imagekin_worker.analysis.layout import Layout
from imagekin_worker.analysis.stepper import ViewedRows
from imagekin_worker.matrix import view
from kit.interruptions import finished, interrupted

BUDGET = 1 << 30


def crowds(n: int, dim: int = 24, crowds: int = 8, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    centers = np.maximum(random.standard_normal((crowds, dim)), 0) * 3
    labels = random.integers(0, crowds, n)
    return (centers[labels] + np.abs(random.standard_normal((n, dim)))).astype(np.float32), labels


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer iterations lay out rows as few as these."""
    monkeypatch.setattr(layout, "PHASES", {"early": (60, 12.0, 0.5), "late": (90, 1.0, 0.8)})


def kin_among_nearest(places: np.ndarray, labels: np.ndarray, count: int = 5) -> float:
    near = NearestNeighbors(n_neighbors=count + 1).fit(places).kneighbors(return_distance=False)[:, 1:]
    return float((labels[near] == labels[:, None]).mean())


def laid_out(rows: np.ndarray, tmp_path: Path, **options: Any) -> Layout:
    budget = options.pop("budget", BUDGET)
    return Layout(rows, view.of(rows, "space"), memory_budget_bytes=budget, folder=tmp_path, **options)


@pytest.mark.parametrize("grid", [100, 10_000])
def test_crowds_stay_together(grid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "GRID_FROM", grid)
    rows, labels = crowds(300)
    places = finished(laid_out(rows, tmp_path)).result()
    assert places.shape == (300, 2) and places.dtype == np.float32
    extent = places.max(0) - places.min(0)
    assert places.min() >= 0 and places.max() <= 1 and extent.max() == pytest.approx(1)
    np.testing.assert_allclose((places.max(0) + places.min(0)) / 2, 0.5, atol=1e-6)
    assert kin_among_nearest(places, labels) > 0.95


@pytest.mark.parametrize(("largest", "budget"), [(1000, BUDGET), (120, BUDGET), (120, 1000)])
def test_a_map_goes_on_after_a_kill(largest: int, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "QUERY_ROWS", 50)
    monkeypatch.setattr(layout, "STEP_ITERATIONS", 10)
    rows, _ = crowds(260)
    made = view.of(rows, "space")
    whole = finished(laid_out(rows, tmp_path, largest=largest)).result()

    def resume(state: bytes) -> Layout:
        return Layout.resume(rows, made, state, memory_budget_bytes=budget, folder=tmp_path)

    found = interrupted(laid_out(rows, tmp_path, largest=largest, budget=budget), resume, 9).result()
    np.testing.assert_array_equal(found, whole)


def test_beyond_the_largest_a_sample_is_laid_out_and_the_rest_placed(tmp_path: Path) -> None:
    rows, labels = crowds(500)
    first = finished(laid_out(rows, tmp_path, largest=200)).result()
    assert np.isfinite(first).all() and kin_among_nearest(first, labels) > 0.9
    again = finished(laid_out(rows, tmp_path, largest=200)).result()
    np.testing.assert_array_equal(first, again)
    other = finished(laid_out(rows, tmp_path, largest=200, seed=1)).result()
    assert not np.array_equal(first, other)


def test_the_sample_is_spread_over_all() -> None:
    found = layout.spread(1000, 100, 3)
    assert (found // 10 == np.arange(100)).all()
    assert layout.spread(50, 100, 3).tolist() == list(range(50))


def test_neighbors_are_exact(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "ROWS", 64)
    rows, _ = crowds(300)
    made = view.of(rows, "space")
    viewed = ViewedRows(rows, made, BUDGET, tmp_path)
    while not viewed.ready():
        pass
    own = np.arange(40, 90)
    indices, cosines = nearest.nearest(viewed, viewed.take(own), 7, own)
    products = made.exact(rows)[own] @ made.exact(rows).T
    products[np.arange(50), own] = -2
    expected = np.argsort(-products, axis=1)[:, :7]
    np.testing.assert_array_equal(indices, expected)
    np.testing.assert_allclose(cosines, np.take_along_axis(products, expected, 1), atol=2e-6)


def test_components_are_those_of_scikit_learn(tmp_path: Path) -> None:
    rows, _ = crowds(200)
    made = view.of(rows, "space")
    viewed = ViewedRows(rows, made, BUDGET, tmp_path)
    while not viewed.ready():
        pass
    ours, theirs = layout.components(viewed), PCA(2, svd_solver="full").fit_transform(made.exact(rows))
    np.testing.assert_allclose(np.abs(ours), np.abs(theirs), atol=1e-5)


@pytest.mark.parametrize("n", [0, 1, 2, 5, 9, 10, 12])
def test_few_images_have_a_map_too(n: int, tmp_path: Path) -> None:
    rows, _ = crowds(12)
    places = finished(laid_out(rows[:n], tmp_path)).result() if n else laid_out(rows[:0], tmp_path).result()
    assert places.shape == (n, 2) and np.isfinite(places).all()
    assert len(np.unique(places, axis=0)) == n


def test_images_that_are_alike_have_a_map_too(tmp_path: Path) -> None:
    places = finished(laid_out(np.ones((40, 8), np.float32), tmp_path)).result()
    assert np.isfinite(places).all()


def test_progress_of_others_is_refused(tmp_path: Path) -> None:
    rows, _ = crowds(60)
    state = laid_out(rows, tmp_path).state()
    with pytest.raises(errors.JobError):
        Layout.resume(rows[:30], view.of(rows, "space"), state, memory_budget_bytes=BUDGET, folder=tmp_path)
    with pytest.raises(errors.JobError):
        laid_out(rows, tmp_path).result()
