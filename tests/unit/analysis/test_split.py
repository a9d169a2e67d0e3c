"""Splits: shares come out, classes too, and what belongs together stays together."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekin import errors
from imagekin_worker.analysis.split import joined, split

SHARES = {"train": 0.8, "val": 0.1, "test": 0.1}


def chained(groups: list[np.ndarray]) -> np.ndarray:
    """Return pairs (m, 2) that join each group."""
    return np.concatenate([np.zeros((0, 2), int), *(np.stack([group[:-1], group[1:]], 1) for group in groups)])


def test_shares_and_classes_come_out_even() -> None:
    classes = np.random.default_rng(0).permutation(np.repeat(np.arange(4), [500, 300, 20, 7]))
    found = split(SHARES, 827, classes=classes)
    assert found.names == ["train", "test", "val"]
    ideal = np.outer([0.8, 0.1, 0.1], [500, 300, 20, 7])
    assert np.abs(found.counts - ideal).max() < 1.5 and found.counts.sum() == 827
    assert np.abs(found.counts.sum(1) - [661.6, 82.7, 82.7]).max() <= 1
    for share in range(3):
        np.testing.assert_array_equal(np.bincount(classes[found.side == share], minlength=4), found.counts[share])


def test_many_small_classes_still_make_the_shares() -> None:
    found = split(SHARES, 600, classes=np.repeat(np.arange(200), 3))
    assert np.abs(found.counts.sum(1) - [480, 60, 60]).max() <= 1


def test_groups_stay_on_one_side_and_shares_hold() -> None:
    random = np.random.default_rng(1)
    classes = random.integers(0, 3, 1000)
    groups = [random.choice(1000, random.integers(2, 30), replace=False) for _ in range(12)]
    found = split(SHARES, 1000, classes=classes, pairs=chained(groups))
    for group in groups:
        assert len(set(found.side[group])) == 1
    assert np.abs(found.counts.sum(1) - [800, 100, 100]).max() <= 2


@given(
    n=st.integers(1, 60),
    seed=st.integers(0, 5),
    groups=st.lists(st.lists(st.integers(0, 59), min_size=1, max_size=6), max_size=12),
)
def test_whatever_the_groups_every_image_has_one_side(n: int, seed: int, groups: list[list[int]]) -> None:
    inside = [np.array([image for image in group if image < n], int) for group in groups]
    classes = np.arange(n) % 3
    found = split({"a": 0.5, "b": 0.5}, n, classes=classes, pairs=chained(inside), seed=seed)
    assert set(found.side) <= {0, 1} and found.counts.sum() == n
    for group in inside:
        assert len(set(found.side[group])) <= 1
    again = split({"b": 0.5, "a": 0.5}, n, classes=classes, pairs=chained(inside), seed=seed)
    np.testing.assert_array_equal(found.side, again.side)


def test_seeds_differ() -> None:
    assert (split(SHARES, 200, seed=1).side != split(SHARES, 200, seed=2).side).any()


def test_pairs_with_a_common_image_are_one_group() -> None:
    found = joined(np.array([[5, 2], [7, 5], [1, 0]]), 10)
    assert [group.tolist() for group in found] == [[0, 1], [2, 5, 7]]


@pytest.mark.parametrize("shares", [{}, {"a": 0.5, "b": 0.4}, {"a": 1.2, "b": -0.2}, {"a": 1.0, "b": 0.0}])
def test_wrong_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(errors.InvalidRequest):
        split(shares, 10)
    with pytest.raises(errors.InvalidRequest):
        split(SHARES, 10, classes=np.zeros(9, int))
    with pytest.raises(errors.InvalidRequest):
        split(SHARES, 10, pairs=np.array([[3, 10]]))


def test_thirds_may_be_rounded() -> None:
    found = split({"a": 0.333, "b": 0.333, "c": 0.333}, 300)
    assert found.counts.sum(1).tolist() == [100, 100, 100]
