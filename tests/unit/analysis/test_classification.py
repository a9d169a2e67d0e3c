"""Classification: labels of the rest, and how far to believe them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from imagekin import errors
from imagekin_worker.analysis import classification, labelled
from imagekin_worker.analysis.classification import Classification
from imagekin_worker.matrix import view
from kit.interruptions import finished, interrupted
from kit.overlapping import kinds, some_labelled

BUDGET = 1 << 30
ROWS, LABELS = kinds(400)
VIEW = view.of(ROWS, "space")
GIVEN = some_labelled(LABELS, 12)


def classifying(given: np.ndarray = GIVEN, **options: Any) -> Classification:
    return Classification(ROWS, VIEW, given, **{"memory_budget_bytes": BUDGET} | options)


@pytest.mark.parametrize("methods", [("discriminant",), ("logistic",), classification.METHODS])
def test_each_method_finds_the_labels(methods: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "METHODS", methods)
    found = finished(classifying()).result()
    assert found.method in methods
    assert sorted(found.indices) == np.flatnonzero(GIVEN < 0).tolist()
    assert (np.diff(found.probabilities) <= 0).all() and 0 < found.probabilities[-1] <= found.probabilities[0] <= 1
    right = found.labels == LABELS[found.indices]
    assert right.mean() > 0.75
    # what cross-validation promised holds, and so do the probabilities
    assert found.low <= found.accuracy <= found.high and found.low - 0.05 <= right.mean() <= found.high + 0.05
    assert found.probabilities.mean() == pytest.approx(right.mean(), abs=0.1)
    assert right[: len(right) // 2].mean() > right[len(right) // 2 :].mean()
    assert found.validated == 72 and [figures.examples for figures in found.classes] == [12] * 6
    recalls = [figures.recall for figures in found.classes if figures.recall is not None]
    assert np.mean(recalls) == pytest.approx(found.accuracy)


def test_unsure_ones_are_left_out() -> None:
    everything = finished(classifying()).result()
    sure = finished(classifying(min_probability=0.8)).result()
    kept = everything.probabilities >= 0.8
    assert 0 < kept.sum() < len(kept)
    np.testing.assert_array_equal(sure.indices, everything.indices[kept])


def test_it_goes_on_after_a_kill(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "BLOCK_ROWS", 60)
    whole = finished(classifying(min_probability=0.3)).result()

    def resume(state: bytes) -> Classification:
        return Classification.resume(ROWS, VIEW, GIVEN, state, memory_budget_bytes=BUDGET)

    found = interrupted(classifying(min_probability=0.3), resume, 8).result()
    for name in ("indices", "labels", "probabilities"):
        np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert (found.accuracy, found.classes, found.method) == (whole.accuracy, whole.classes, whole.method)
    state = classifying().state()
    with pytest.raises(errors.JobError):
        Classification.resume(ROWS, VIEW, some_labelled(LABELS, 9), state, memory_budget_bytes=BUDGET)


def test_a_few_right_ones_do_not_make_everything_certain() -> None:
    few = np.full(len(LABELS), -1)
    for label in (0, 3):
        few[np.flatnonzero(label == LABELS)[:3]] = label
    found = finished(classifying(few)).result()
    assert found.accuracy == 1
    assert len(np.unique(found.probabilities)) > 0.9 * len(found.probabilities)
    assert found.probabilities[0] < 0.999


def test_a_class_of_one_is_learned_but_not_told_of() -> None:
    given = GIVEN.copy()
    given[np.flatnonzero(given == 5)[1:]] = -1
    found = finished(classifying(given)).result()
    assert found.validated == 60
    alone = found.classes[5]
    assert alone.examples == 1 and alone.recall is None


def test_all_labelled_is_an_answer() -> None:
    found = finished(classifying(LABELS)).result()
    assert not len(found.indices) and found.validated == 400


def test_the_budget_bounds_what_is_learned_from() -> None:
    budget = labelled.COPIES * 4 * 40 * 90
    found = finished(classifying(LABELS, memory_budget_bytes=budget)).result()
    assert 80 <= found.validated <= 90
    assert all(figures.examples >= 13 for figures in found.classes)


def test_too_few_labels_are_refused() -> None:
    for given in (np.full(400, -1), np.where(np.arange(400) < 5, 0, -1), np.where(np.arange(400) < 6, LABELS, -1)):
        with pytest.raises(errors.TooFewLabels):
            classifying(given)
    with pytest.raises(errors.JobError):
        classifying().result()


def test_names_become_numbers() -> None:
    names, numbers = labelled.encoded(["b", None, "a", "b"])
    assert names == ["a", "b"] and numbers.tolist() == [1, -1, 0, 1]
