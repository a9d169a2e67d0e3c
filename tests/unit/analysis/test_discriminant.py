"""Discriminants against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis

from imagekin_worker.analysis import discriminant
from imagekin_worker.analysis.discriminant import Moments
from kit.overlapping import kinds


@pytest.mark.parametrize("shrinkage", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [18, 300])
def test_distances_are_those_of_scikit_learn(shrinkage: float, n: int) -> None:
    rows, labels = kinds(n)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    found = discriminant.fit(Moments.of(torch.from_numpy(rows), torch.from_numpy(labels), 6), shrinkage)
    ours = found.project(torch.from_numpy(rows)).numpy().astype(np.float64)
    assert ours.shape == (n, 5)
    means = np.stack([ours[labels == label].mean(0) for label in range(6)])
    np.testing.assert_allclose(found.means.numpy(), means, atol=1e-3 * np.abs(means).max())
    # minus half the squared distance to each mean, but for what all classes have in common
    scores = ours @ means.T - (means**2).sum(1) / 2
    theirs = LinearDiscriminantAnalysis(solver="lsqr", shrinkage=shrinkage, priors=np.full(6, 1 / 6))
    expected = theirs.fit(rows.astype(np.float64), labels).decision_function(rows)
    scores -= scores.mean(1, keepdims=True)
    expected -= expected.mean(1, keepdims=True)
    np.testing.assert_allclose(scores, expected, atol=1e-4 * np.abs(expected).max())


def test_sums_can_be_taken_apart() -> None:
    rows, labels = kinds(120)
    tensors = torch.from_numpy(rows), torch.from_numpy(labels)
    whole = Moments.of(*tensors, 6)
    first, second = (Moments.of(tensors[0][half], tensors[1][half], 6) for half in (slice(50), slice(50, 120)))
    for found, expected in ((first + second, whole), (whole - first, second)):
        for name in ("counts", "sums", "products"):
            torch.testing.assert_close(getattr(found, name), getattr(expected, name), rtol=1e-4, atol=1e-2)


def test_a_class_without_examples_is_never_near() -> None:
    rows, labels = kinds(60)
    kept = torch.from_numpy(np.flatnonzero(labels != 2))
    tensors = torch.from_numpy(rows), torch.from_numpy(labels)
    found = discriminant.fit(Moments.of(tensors[0][kept], tensors[1][kept], 6))
    cosines = found.cosines(tensors[0])
    assert (cosines[:, 2] == -1).all() and torch.isfinite(cosines).all() and found.axes.shape == (40, 4)


def test_one_example_a_class_is_enough_to_learn_from() -> None:
    rows, labels = kinds(6)
    found = discriminant.fit(Moments.of(torch.from_numpy(rows), torch.from_numpy(labels), 6))
    assert (found.cosines(torch.from_numpy(rows)).argmax(1).numpy() == labels).all()
