"""Outliers: the same ranks as Cleanlab's where there are no copies, and copies that do not hide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cleanlab.outlier import OutOfDistribution

from imagekin import errors
from imagekin_worker.analysis import neighborhoods, outliers, pairs
from imagekin_worker.analysis.outliers import Outliers, Ranking
from imagekin_worker.matrix import view

BUDGET = 1 << 26


def vectors(n: int = 400, seed: int = 0) -> np.ndarray:
    """Eight kinds of images, and five strange ones at the end."""
    random = np.random.default_rng(seed)
    centers = random.standard_normal((8, 40))
    rows = centers[random.integers(0, 8, n)] + 0.6 * random.standard_normal((n, 40))
    return np.concatenate([rows, 2 * random.standard_normal((5, 40))]).astype(np.float32)


def ranked(rows: np.ndarray, tmp_path: Path, name: str = view.RAW, **options: Any) -> Ranking:
    search = Outliers(rows, view.of(rows, "space", name), memory_budget_bytes=BUDGET, folder=tmp_path, **options)
    search.advance()
    assert search.fraction == 1
    return search.result()


def test_ranks_are_cleanlabs(tmp_path: Path) -> None:
    rows = vectors()
    features = view.of(rows, "space", view.RAW).exact(rows)
    theirs = OutOfDistribution({"k": 10}).fit_score(features=features, verbose=False)
    found = ranked(rows, tmp_path)
    np.testing.assert_array_equal(found.order, np.argsort(theirs, kind="stable"))
    assert set(found.order[:5].tolist()) == {*range(400, 405)}
    assert (np.diff(found.scores[found.order]) <= 0).all()
    assert found.percentiles[found.order[0]] == pytest.approx(100 * 404 / 405) and found.percentiles.min() == 0


def test_scores_and_nearest_by_brute_force(tmp_path: Path) -> None:
    rows = vectors()
    made = view.of(rows, "space")
    unit, whole = made.exact(rows), made.powered(rows, np.float64)
    distances = 1 - unit @ unit.T
    np.fill_diagonal(distances, np.inf)
    nearest = np.argsort(distances, axis=1)[:, :10]
    centered, with_mean = (np.take_along_axis(each, nearest, 1).mean(1) for each in (distances, 1 - whole @ whole.T))
    found = ranked(rows, tmp_path, view.CALIBRATED)
    np.testing.assert_allclose(found.scores, np.sqrt(centered * with_mean), atol=1e-5)
    raw = view.of(rows, "space", view.RAW).exact(rows)
    cosines = -np.sort(-(raw @ raw.T - 2 * np.eye(len(raw))), axis=1)[:, :10]
    np.testing.assert_allclose(ranked(rows, tmp_path).scores, 1 - cosines.mean(1), atol=1e-6)
    np.testing.assert_array_equal(found.nearest, distances.argmin(1))


def test_copies_of_a_strange_image_do_not_hide_it(tmp_path: Path) -> None:
    rows = vectors()
    copies = np.repeat(rows[-1:], 15, axis=0) + np.random.default_rng(1).standard_normal((15, 40)) * 1e-3
    rows = np.concatenate([rows, copies.astype(np.float32)])
    found = ranked(rows, tmp_path)
    strange = {*range(400, 420)}
    assert set(found.order[:20].tolist()) == strange
    assert len(np.unique(found.scores[404:])) == 1 and not strange & set(found.nearest[404:].tolist())


def test_identical_images_count_once_also_where_all_have_twins(tmp_path: Path) -> None:
    rows = vectors()
    once = ranked(rows, tmp_path)
    thrice = ranked(np.tile(rows, (3, 1)), tmp_path, identical=np.tile(np.arange(len(rows)), 3))
    np.testing.assert_array_equal(thrice.scores, np.tile(once.scores, 3))
    np.testing.assert_array_equal(thrice.nearest, np.tile(once.nearest, 3))


def test_an_image_whose_nearest_are_copies_is_looked_at_again(tmp_path: Path) -> None:
    """Lists of 16 have no room for ten others beside so many copies of neighbors, which rank as if there were none."""
    rows = vectors()
    unit = view.of(rows, "space", view.RAW).exact(rows)
    # the next of one image, each of them nine times
    nearest = np.argsort(-(unit @ unit[7]))[1:6]
    copies = np.repeat(rows[nearest], 8, axis=0)
    copies += np.random.default_rng(1).standard_normal(copies.shape).astype(np.float32) * 1e-3
    found, without = ranked(np.concatenate([rows, copies]), tmp_path), ranked(rows, tmp_path)
    np.testing.assert_allclose(found.scores[: len(rows)], without.scores, atol=1e-3)
    assert found.scores[7] == pytest.approx(without.scores[7], abs=1e-3)


def test_the_same_after_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outliers, "MEASURED_ROWS", 100)
    for name in ("QUERY_ROWS", "ROWS"):
        monkeypatch.setattr(pairs, name, 128)
    monkeypatch.setattr(pairs, "STEP_WORK", 1)
    # with so short lists, copies leave too few others in some
    monkeypatch.setattr(neighborhoods, "LISTED", 11)
    rows = np.concatenate([vectors(), vectors()[:30] * 1.5, np.repeat(vectors()[:3], 12, axis=0)])
    made = view.of(rows, "space")
    straight = ranked(rows, tmp_path, view.CALIBRATED)
    place = {"memory_budget_bytes": BUDGET, "folder": tmp_path}
    search, phases, fraction = Outliers(rows, made, **place), set(), 0.0
    while not search.finished:
        phases.add(search.phase)
        before = search.state()
        while search.state() == before and not search.advance(lambda: True):
            pass
        assert search.fraction >= fraction
        fraction = search.fraction
        search = Outliers.resume(rows, made, search.state(), **place)
    for one, other in zip(vars(straight).values(), vars(search.result()).values(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert phases == {"neighbors", "pairs", "again", "lengths"}


@pytest.mark.parametrize("n", [0, 1, 2, 6])
def test_few_images(n: int, tmp_path: Path) -> None:
    found = ranked(vectors()[:n], tmp_path)
    assert len(found.order) == n and np.isfinite(found.scores).all()
    if n == 1:
        assert found.nearest.tolist() == [-1]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    rows = vectors()
    made = view.raw("space", 40, 405)
    search = Outliers(rows, made, memory_budget_bytes=BUDGET, folder=tmp_path)
    with pytest.raises(errors.JobError):
        search.result()
    with pytest.raises(errors.JobError):
        Outliers.resume(rows[1:], made, search.state(), memory_budget_bytes=BUDGET, folder=tmp_path)
