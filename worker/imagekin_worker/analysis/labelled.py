"""The labelled images of a collection, in the view and in memory, for classifiers and projections to learn from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from imagekin import errors
from imagekin_worker.analysis.blocks import Blocks
from imagekin_worker.kmeans import seeding
from imagekin_worker.matrix.view import View

# Learning takes the rows, and parts of them once more.
COPIES = 3


def encoded(values: Sequence[str | None]) -> tuple[list[str], np.ndarray]:
    """Return the sorted classes and the label (n,) of each image: the number of its class, -1 if it is unlabelled."""
    names = sorted({value for value in values if value is not None})
    numbers = {name: number for number, name in enumerate(names)}
    return names, np.array([-1 if value is None else numbers[value] for value in values], np.int64)


class Labelled:
    """Labelled rows, gathered in steps: all of them, or, if they exceed the budget, a random part of each class.

    `index` (m,): which rows they are; `labels` (m,) int64; `rows` (m, dim) float32 in the view, once `ready`.
    Raises TooFewLabels if fewer than two classes have two examples.
    """

    def __init__(self, rows: np.ndarray, view: View, labels: np.ndarray, memory_budget_bytes: int, seed: int) -> None:
        self._source, self._view = Blocks(rows), view
        if len(labels) != len(rows):
            raise errors.InvalidRequest(f"{len(rows)} vectors came with {len(labels)} labels.")
        examples = np.bincount(labels[labels >= 0])
        if (examples >= 2).sum() < 2:
            raise errors.TooFewLabels
        self.n_classes = len(examples)
        self.index = _most(labels, memory_budget_bytes // (COPIES * 4 * self._source.dim), seed)
        self.labels = torch.from_numpy(labels[self.index])
        self.rows = torch.empty((len(self.index), self._source.dim), dtype=torch.float32)
        self._position = 0

    @property
    def fraction(self) -> float:
        """The share of the rows gathered so far."""
        return self._position / len(self.index)

    def ready(self) -> bool:
        """Return whether all rows are gathered; if not, gather some."""
        if self._position < len(self.index):
            step = next(self._source.spans()).stop
            span = slice(self._position, min(self._position + step, len(self.index)))
            found = self._view.transform(self._source.take(self.index[span]))
            self.rows[span] = torch.from_numpy(found)
            self._position = span.stop
        return self._position == len(self.index)


def _most(labels: np.ndarray, most: int, seed: int) -> np.ndarray:
    """Return the labelled rows in ascending order; beyond `most`, the same share of each class, at least two rows."""
    index = np.flatnonzero(labels >= 0)
    if len(index) <= most:
        return index
    random = seeding.generator(seed)
    kept = []
    for label in np.unique(labels[index]):
        members = random.permutation(index[labels[index] == label])
        kept.append(members[: max(2, len(members) * most // len(index))])
    return np.sort(np.concatenate(kept))
