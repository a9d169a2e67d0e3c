"""Adapted spaces: better neighbors, or a refusal."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from imagekin import errors
from imagekin_worker.analysis import adaptation
from imagekin_worker.analysis.adaptation import Adaptation, Projection
from imagekin_worker.matrix import view
from kit.interruptions import finished, interrupted
from kit.overlapping import kinds, some_labelled

BUDGET = 1 << 30
ROWS, LABELS = kinds(400, spread=1.5)
VIEW = view.of(ROWS, "space")
GIVEN = some_labelled(LABELS, 20)


def adapting(given: np.ndarray = GIVEN, **options: Any) -> Adaptation:
    return Adaptation(ROWS, VIEW, given, **{"memory_budget_bytes": BUDGET} | options)


def mean_average_precision(rows: np.ndarray, labels: np.ndarray) -> float:
    """By sorting, one query after the other."""
    found = []
    for query in range(len(rows)):
        others = np.delete(np.arange(len(rows)), query)
        order = others[np.argsort(-(rows[others] @ rows[query]), kind="stable")]
        hits = np.flatnonzero(labels[order] == labels[query])
        found.append(np.mean((np.arange(len(hits)) + 1) / (hits + 1)))
    return float(np.mean(found))


def test_unlabelled_images_have_better_neighbors() -> None:
    found = finished(adapting()).result()
    rest = GIVEN < 0
    before = mean_average_precision(VIEW.transform(ROWS[rest]), LABELS[rest])
    after = mean_average_precision(found.projection.apply(ROWS[rest]), LABELS[rest])
    assert after > before + 0.05
    # half of the labels promise less than all of them keep
    assert found.after.map > found.before.map and found.better
    assert found.map_gain[0] < found.after.map - found.before.map < found.map_gain[1]


def test_ranks_are_counted_as_by_sorting() -> None:
    rows = VIEW.transform(ROWS[:90])
    found = adaptation.ranked(torch.from_numpy(rows), torch.from_numpy(LABELS[:90]), torch.arange(90))
    assert found[:, 1].mean() == pytest.approx(mean_average_precision(rows, LABELS[:90]), abs=1e-6)
    near = np.argsort(np.where(np.eye(90, dtype=bool), 9, -(rows @ rows.T)), axis=1)[:, :5]
    assert found[:, 0].mean() == pytest.approx((LABELS[near] == LABELS[:90, None]).mean())


def test_labels_without_meaning_are_refused() -> None:
    given = GIVEN.copy()
    given[given >= 0] = np.random.default_rng(0).permutation(given[given >= 0])
    made = finished(adapting(given))
    with pytest.raises(errors.NotBetter):
        made.result()
    assert not made.result(force=True).better


def test_few_labels_with_meaning_pass_and_chance_does_not() -> None:
    """Five labels a class, of which half would be too few to prove a gain."""
    passed, by_chance = 0, 0
    for seed in range(10):
        given = some_labelled(LABELS, 5, seed)
        passed += finished(adapting(given)).result(force=True).better
        given[given >= 0] = np.random.default_rng(seed).permutation(given[given >= 0])
        by_chance += finished(adapting(given)).result(force=True).better
    assert passed >= 8 and by_chance <= 1


def test_an_example_finds_those_of_its_class_among_the_learned() -> None:
    rows = torch.from_numpy(VIEW.transform(ROWS[:120]))
    labels = torch.from_numpy(LABELS[:120])
    found = adaptation.found_kin(rows[:30], labels[:30], rows[30:], labels[30:])
    for query in range(30):
        order = np.argsort(-(rows[30:] @ rows[query]).numpy(), kind="stable")
        kin = LABELS[30:120][order] == LABELS[query]
        assert found[query] == pytest.approx(kin[: kin.sum()].mean())


def test_two_examples_a_class_prove_nothing() -> None:
    made = finished(adapting(some_labelled(LABELS, 2)))
    with pytest.raises(errors.NotBetter, match="three"):
        made.result()
    assert made.result(force=True).projection.dim == 45
    with pytest.raises(errors.TooFewLabels):
        adapting(some_labelled(LABELS, 1))


def test_it_goes_on_after_a_kill() -> None:
    whole = finished(adapting()).result()
    found = interrupted(
        adapting(), lambda state: Adaptation.resume(ROWS, VIEW, GIVEN, state, memory_budget_bytes=BUDGET), 4
    ).result()
    assert (found.before, found.after, found.map_gain) == (whole.before, whole.after, whole.map_gain)
    assert found.examples_gain == whole.examples_gain
    assert found.projection.fingerprint == whole.projection.fingerprint
    state = adapting().state()
    with pytest.raises(errors.JobError):
        Adaptation.resume(ROWS, VIEW, some_labelled(LABELS, 9), state, memory_budget_bytes=BUDGET)


def test_a_projection_survives_being_saved() -> None:
    made = finished(adapting()).result().projection
    loaded = Projection.load(made.saved())
    assert loaded.fingerprint == made.fingerprint and loaded.dim == made.dim == 45
    found = loaded.apply(ROWS)
    np.testing.assert_array_equal(found, made.apply(ROWS))
    assert found.shape == (400, 45) and found.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, 5:] * 2**0.5, VIEW.transform(ROWS), atol=1e-6)
    assert not made.apply(np.zeros((1, 40), np.float32)).any()
    for broken in (b"", made.saved()[:-4], made.saved()[:50]):
        with pytest.raises(errors.JobError):
            Projection.load(broken)
