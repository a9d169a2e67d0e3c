"""Selections against loops written out in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagekin import errors
from imagekin_worker.analysis import selection
from imagekin_worker.analysis.selection import Diverse, Representative
from imagekin_worker.matrix import view
from kit.interruptions import finished, interrupted

BUDGET = 1 << 30


def crowds(n: int = 600, dim: int = 32, crowds: int = 12, seed: int = 0) -> np.ndarray:
    """Crowds of unequal size, and a few rows far from all."""
    random = np.random.default_rng(seed)
    centers = np.maximum(random.standard_normal((crowds, dim)), 0) * 3
    sizes = random.dirichlet(np.ones(crowds))
    rows = centers[random.choice(crowds, n, p=sizes)] + np.abs(random.standard_normal((n, dim))) * 0.5
    return rows.astype(np.float32)


ROWS = crowds()
VIEW = view.of(ROWS, "space")


def farthest_first(vectors: np.ndarray, count: int, avoid: np.ndarray | None) -> tuple[list[int], list[float], float]:
    """The plain loop: one pass over all rows for each choice."""
    unit = VIEW.exact(vectors)
    mean = unit.sum(0) / np.linalg.norm(unit.sum(0))
    own = np.full(len(unit), -np.inf)
    if avoid is None:
        chosen = [int((unit @ mean).argmax())]
        distances = [float(1 - (unit @ mean).max())]
        nearest = unit @ unit[chosen[0]]
    else:
        nearest = (unit @ VIEW.exact(avoid).T).max(1)
        chosen, distances = [], []
    while len(chosen) < count:
        far = np.where(np.isin(np.arange(len(unit)), chosen), np.inf, nearest)
        chosen.append(int(far.argmin()))
        distances.append(float(1 - far.min()))
        nearest = np.maximum(nearest, unit @ unit[chosen[-1]])
    for one in chosen:
        own = np.maximum(own, unit @ unit[one])
    return chosen, distances, float(own.mean())


def diverse(count: int, tmp_path: Path, rows: np.ndarray = ROWS, **options: Any) -> Diverse:
    return Diverse(rows, VIEW, count, memory_budget_bytes=options.pop("budget", BUDGET), folder=tmp_path, **options)


@pytest.mark.parametrize("avoid", [None, ROWS[:7]])
@pytest.mark.parametrize("pool", [8, 64, 2048])
def test_diverse_is_farthest_first(
    avoid: np.ndarray | None, pool: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "POOL_ROWS", pool)
    found = finished(diverse(80, tmp_path, avoid=avoid)).result()
    chosen, distances, coverage = farthest_first(ROWS, 80, avoid)
    assert found.indices.tolist() == chosen
    np.testing.assert_allclose(found.distances, distances, atol=2e-6)
    assert found.coverage == pytest.approx(coverage, abs=1e-6)


@pytest.mark.parametrize("budget", [BUDGET, 1000])
@pytest.mark.parametrize("avoid", [None, ROWS[:7]])
def test_diverse_goes_on_after_a_kill(
    avoid: np.ndarray | None, budget: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(selection, "POOL_ROWS", 40)
    monkeypatch.setattr(selection, "BLOCK_ROWS", 100)
    whole = finished(diverse(60, tmp_path, avoid=avoid)).result()

    def resume(state: bytes) -> Diverse:
        return Diverse.resume(ROWS, VIEW, state, avoid=avoid, memory_budget_bytes=budget, folder=tmp_path)

    for steps in (3, 7):
        found = interrupted(diverse(60, tmp_path, avoid=avoid, budget=budget), resume, steps).result()
        np.testing.assert_array_equal(found.indices, whole.indices)
        np.testing.assert_array_equal(found.distances, whole.distances)
        assert found.coverage == whole.coverage


def test_all_rows_are_chosen_once_where_more_are_asked_for(tmp_path: Path) -> None:
    rows = np.concatenate([ROWS[:40], ROWS[:10]])
    for made in (diverse(70, tmp_path, rows), representative(70, tmp_path, rows)):
        found = finished(made).result()
        assert sorted(found.indices) == list(range(50)) and found.coverage == pytest.approx(1, abs=1e-6)
        assert (found.distances >= 0).all()


def representative(count: int, tmp_path: Path, rows: np.ndarray = ROWS, **options: Any) -> Representative:
    budget = options.pop("budget", BUDGET)
    return Representative(rows, VIEW, count, memory_budget_bytes=budget, folder=tmp_path, **options)


def test_representative_covers_better_than_diverse_and_chance(tmp_path: Path) -> None:
    found = finished(representative(20, tmp_path)).result()
    assert len(set(found.indices.tolist())) == 20
    unit = VIEW.exact(ROWS)
    assert found.coverage == pytest.approx((unit @ unit[found.indices].T).max(1).mean(), abs=1e-6)
    assert found.coverage > finished(diverse(20, tmp_path)).result().coverage
    random = np.random.default_rng(0)
    by_chance = [(unit @ unit[random.choice(600, 20, replace=False)].T).max(1).mean() for _ in range(20)]
    assert found.coverage > max(by_chance)
    before = np.where(np.tri(20, k=-1), unit[found.indices] @ unit[found.indices].T, -np.inf).max(1)
    np.testing.assert_allclose(found.distances[1:], 1 - before[1:], atol=2e-6)


def test_representative_goes_on_after_a_kill_and_depends_on_the_seed(tmp_path: Path) -> None:
    whole = finished(representative(15, tmp_path, avoid=ROWS[:5])).result()

    def resume(state: bytes) -> Representative:
        return Representative.resume(ROWS, VIEW, state, avoid=ROWS[:5], memory_budget_bytes=BUDGET, folder=tmp_path)

    found = interrupted(representative(15, tmp_path, avoid=ROWS[:5]), resume, 3).result()
    np.testing.assert_array_equal(found.indices, whole.indices)
    assert found.coverage == whole.coverage
    other = finished(representative(15, tmp_path, avoid=ROWS[:5], seed=7)).result()
    assert other.indices.tolist() != whole.indices.tolist()


@pytest.mark.parametrize("method", [diverse, representative])
def test_what_is_avoided_is_kept_away_from(method: Any, tmp_path: Path) -> None:
    free = finished(method(10, tmp_path)).result()
    avoid = ROWS[free.indices]
    away = finished(method(10, tmp_path, avoid=avoid)).result()
    near = (VIEW.exact(ROWS[away.indices]) @ VIEW.exact(avoid).T).max(1)
    assert near.max() < 0.98 and not set(away.indices) & set(free.indices)
    assert away.distances[0] == pytest.approx(1 - near[0], abs=1e-5)


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    for method in (diverse, representative):
        with pytest.raises(errors.InvalidRequest):
            method(0, tmp_path)
        with pytest.raises(errors.InvalidRequest):
            method(3, tmp_path, avoid=ROWS[:2, :5])
        with pytest.raises(errors.JobError):
            method(3, tmp_path).result()
    state = diverse(3, tmp_path).state()
    with pytest.raises(errors.JobError):
        Diverse.resume(ROWS[:50], VIEW, state, memory_budget_bytes=BUDGET, folder=tmp_path)
