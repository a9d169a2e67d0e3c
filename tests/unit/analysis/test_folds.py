"""Cross-validation: folds and intervals."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binomtest

from imagekin_worker.analysis import folds


def test_each_class_is_spread_evenly() -> None:
    labels = np.repeat([0, 1, 2, 3], [50, 7, 2, 1])
    found = folds.stratified(labels, 5, 3)
    for label in range(4):
        counts = np.bincount(found[labels == label], minlength=5)
        assert counts.max() - counts.min() <= 1
    assert np.ptp(np.bincount(found)) <= 1
    assert (found == folds.stratified(labels, 5, 3)).all() and (found != folds.stratified(labels, 5, 4)).any()


@pytest.mark.parametrize(("hits", "total"), [(0, 10), (3, 10), (10, 10), (870, 1000)])
def test_the_interval_is_wilsons(hits: int, total: int) -> None:
    expected = binomtest(hits, total).proportion_ci(method="wilson")
    assert folds.wilson(hits, total) == pytest.approx((expected.low, expected.high))


def test_nothing_tried_tells_nothing() -> None:
    assert folds.wilson(0, 0) == (0, 1)


def test_the_bootstrap_draws_whole_groups() -> None:
    random = np.random.default_rng(0)
    values = random.normal(1, 1, 100)
    low, high = folds.bootstrap(values, np.arange(100), 1)
    assert low == pytest.approx(values.mean() - 1.96 * values.std() / 10, abs=0.05)
    assert high == pytest.approx(values.mean() + 1.96 * values.std() / 10, abs=0.05)
    # said four times it is not surer
    again = folds.bootstrap(np.tile(values, 4), np.tile(np.arange(100), 4), 1)
    assert again == pytest.approx((low, high), abs=1e-9)


def test_overlapping_parts_widen_the_interval() -> None:
    """By hand: mean 0.25, variance 1/60 of four parts, of which each held out one row of five; t of 3 is 3.1824."""
    low, high = folds.corrected(np.array([0.1, 0.2, 0.3, 0.4]), np.ones(4), np.full(4, 4)) or (0, 0)
    half = 3.182446 * ((1 / 4 + 1 / 4) / 60) ** 0.5
    assert (low, high) == (pytest.approx(0.25 - half), pytest.approx(0.25 + half))
    assert folds.corrected(np.ones(2), np.ones(2), np.ones(2)) is None
    assert folds.corrected(np.zeros(10), np.ones(10), np.ones(10)) == (0, 0)
