"""A space improved by labels: the view's vectors with a projection that separates the labelled classes.

A vector of it is the projection onto shrunk linear discriminants and the vector in the view, side by side, each with
length 1: the projection orders the distant images, the view decides the first places. Such a space is compared as it is
(`raw`).

What it gains is measured by learning from half of the examples of each class and searching the other half, both ways
round and several times. Whether it is made is decided by cross-validation in five parts, since half of five examples
teaches too little: an example that was held out must find more examples of its class among those that were learned
from. The measure for that is the precision at as many places as its class has examples there, whose mean is the same in
any arrangement if labels mean nothing; average precision is not, as learned examples of a class lie together. Parts of
repeated cross-validation overlap, so the interval is that of Nadeau and Bengio (2003).
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from imagekin import errors
from imagekin_worker.analysis import discriminant, folds, stepper
from imagekin_worker.analysis.labelled import Labelled
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.kmeans import seeding
from imagekin_worker.matrix.view import View

DEFAULT_SEED = 100
# Times that the examples are halved.
REPETITIONS = 4
# Times that they are divided, and into how many parts.
DIVISIONS, PARTS = 2, 5
_ROUNDS = 2 * REPETITIONS + DIVISIONS * PARTS
# Images searched for and among in each half, at most.
MOST_QUERIES, MOST_SEARCHED = 1000, 8000
TOP = 5

_LENGTHS = struct.Struct("<II")


@dataclass(frozen=True)
class Projection:
    """Turns raw vectors of a base space into vectors of an adapted one, (n, dim + d) float32 of length 1."""

    view: View
    axes: NDArray[np.float32]
    center: NDArray[np.float32]

    @property
    def dim(self) -> int:
        return self.view.dim + self.axes.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """Return 16 hex digits that name the adapted space."""
        return hashlib.blake2b(self.saved(), digest_size=8).hexdigest()

    def apply(self, vectors: np.ndarray) -> NDArray[np.float32]:
        """Return raw vectors (n, dim) in the adapted space; raises InvalidRequest if dimensions differ."""
        return joined(torch.from_numpy(self.view.transform(vectors)), self._discriminant).numpy()

    @cached_property
    def _discriminant(self) -> discriminant.Discriminant:
        return discriminant.Discriminant(torch.from_numpy(self.axes), torch.from_numpy(self.center), torch.empty(0))

    def saved(self) -> bytes:
        """Return the projection as 4 dim (d + 2) bytes and a few more."""
        view, about = self.view.saved(), json.dumps(list(self.axes.shape)).encode()
        parts = (_LENGTHS.pack(len(view), len(about)), view, about, self.center.tobytes(), self.axes.tobytes())
        return b"".join(parts)

    @classmethod
    def load(cls, saved: bytes) -> Projection:
        """Return the projection that `saved` packed; raises JobError if the bytes are something else."""
        try:
            of_view, of_about = _LENGTHS.unpack_from(saved)
            at = _LENGTHS.size + of_view
            view = View.load(saved[_LENGTHS.size : at])
            shape = json.loads(saved[at : at + of_about])
            numbers = np.frombuffer(saved, "<f4", offset=at + of_about).astype(np.float32)
            axes = numbers[view.dim :].reshape(shape)
        except (struct.error, ValueError, TypeError) as unreadable:
            raise errors.JobError("A saved projection cannot be read.") from unreadable
        return cls(view, axes, numbers[: view.dim])


@dataclass(frozen=True)
class Figures:
    """Neighbors of held-out examples: the share of their class among the nearest five, and mean average precision."""

    precision_at_5: float
    map: float


@dataclass(frozen=True)
class Adapted:
    """What the labels gain: `before` in the view, `after` in the adapted space, the gains' 95 % intervals by bootstrap.

    `examples_gain`: how much more of the learned examples nearest to one that was held out are of its class, None if
    nothing can be said. `better`: that is above 0 beyond doubt.
    """

    projection: Projection
    before: Figures
    after: Figures
    map_gain: tuple[float, float]
    precision_gain: tuple[float, float]
    examples_gain: tuple[float, float] | None

    @property
    def better(self) -> bool:
        return self.examples_gain is not None and self.examples_gain[0] > 0


class Adaptation(Stepper):
    """Learns from rows (n, dim) of raw vectors and their `labels` (n,): numbers of classes, -1 for unlabelled rows.

    The memory budget bounds the labelled rows that are learned from. Raises TooFewLabels if fewer than two classes
    have two examples.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        labels: np.ndarray,
        *,
        seed: int = DEFAULT_SEED,
        memory_budget_bytes: int,
    ) -> None:
        self._shape, self._view, self._seed = rows.shape, view, seed
        self._known = Labelled(rows, view, labels, memory_budget_bytes, seed)
        self._rounds = 0
        # (m, 4): which row, its two gains, and how it stood before, one for each query of each round
        self._queries: list[np.ndarray] = []
        # (j, 3): the mean gain of each part that was held out, how many examples it had, and the others
        self._parts = np.empty((0, 3))
        self._projection: Projection | None = None

    @classmethod
    def resume(
        cls, rows: np.ndarray, view: View, labels: np.ndarray, state: bytes, *, memory_budget_bytes: int
    ) -> Self:
        """Continue from `state` with the same rows (n, dim), view and labels (n,).

        Raises JobError if it is of others.
        """
        scalars, arrays = stepper.unpacked(state, rows.shape)
        self = cls(rows, view, labels, seed=scalars["seed"], memory_budget_bytes=memory_budget_bytes)
        if scalars["known"] != len(self._known.index):
            raise errors.JobError("The saved progress belongs to other labels.")
        self._rounds = scalars["rounds"]
        if len(arrays["queries"]):
            self._queries = [arrays["queries"]]
        self._parts = arrays["parts"]
        if "projection" in arrays:
            self._projection = Projection.load(arrays["projection"].tobytes())
        return self

    def state(self) -> bytes:
        scalars = {
            "shape": list(self._shape),
            "known": len(self._known.index),
            "seed": self._seed,
            "rounds": self._rounds,
        }
        arrays = {"queries": self._measured(), "parts": self._parts}
        if self._projection is not None:
            arrays["projection"] = np.frombuffer(self._projection.saved(), np.uint8)
        return stepper.packed(scalars, arrays)

    @property
    def finished(self) -> bool:
        return self._projection is not None

    @property
    def fraction(self) -> float:
        return 1.0 if self.finished else 0.9 * self._rounds / _ROUNDS

    def result(self, *, force: bool = False) -> Adapted:
        """Return what was learned.

        Raises NotBetter if the gain is not significant, unless `force`; JobError before `advance` has returned True.
        """
        if self._projection is None:
            raise errors.JobError("The adaptation is not finished.")
        found = self._measured()
        if not len(found):
            if not force:
                raise errors.NotBetter(
                    "No class has three examples, so nothing can be held out; add labels, or use `force`."
                )
            found = np.full((1, 5), np.nan)
        # mean of the images' own means, as the interval is drawn from
        row, before, after = found[:, 0], found[:, 1:3], found[:, 3:5]
        precision, average = (after - before).T
        made = Adapted(
            self._projection,
            Figures(*(float(value) for value in before.mean(0))),
            Figures(*(float(value) for value in after.mean(0))),
            folds.bootstrap(average, row, self._seed),
            folds.bootstrap(precision, row, self._seed),
            folds.corrected(*self._parts.T),
        )
        if not made.better and not force:
            raise errors.NotBetter
        return made

    def _measured(self) -> np.ndarray:
        return np.concatenate(self._queries) if self._queries else np.empty((0, 5))

    def _step(self) -> None:
        if not self._known.ready():
            return
        if self._rounds < _ROUNDS:
            if self._rounds < 2 * REPETITIONS:
                self._validate()
            else:
                self._hold_out(*divmod(self._rounds - 2 * REPETITIONS, PARTS))
            self._rounds += 1
            return
        everything = torch.ones(len(self._known.index), dtype=torch.bool)
        found = self._learned(everything)
        self._projection = Projection(self._view, found.axes.numpy(), found.center.numpy())

    def _learned(self, chosen: torch.Tensor) -> discriminant.Discriminant:
        known = self._known
        moments = discriminant.Moments.of(known.rows[chosen], known.labels[chosen], known.n_classes)
        return discriminant.fit(moments)

    def _validate(self) -> None:
        """Learn from one half of the examples, search the other half, and note the score of each query."""
        repetition, side = divmod(self._rounds, 2)
        half = folds.stratified(self._known.labels.numpy(), 2, self._seed + repetition) == side
        learned = self._learned(torch.from_numpy(half))
        others = np.flatnonzero(~half)
        random = seeding.generator(self._seed, repetition, side)
        if len(others) > MOST_SEARCHED:
            others = np.sort(random.choice(others, MOST_SEARCHED, replace=False))
        labels = self._known.labels[torch.from_numpy(others)]
        queries = np.flatnonzero(np.bincount(labels.numpy())[labels.numpy()] >= 2)
        if len(queries) > MOST_QUERIES:
            queries = np.sort(random.choice(queries, MOST_QUERIES, replace=False))
        if not len(queries):
            return
        rows = self._known.rows[torch.from_numpy(others)]
        at = torch.from_numpy(queries)
        before, after = ranked(rows, labels, at), ranked(joined(rows, learned), labels, at)
        self._queries.append(np.column_stack([self._known.index[others[queries]], before, after]))

    def _hold_out(self, division: int, part: int) -> None:
        """Learn from all but a part of the examples, and note what that part gains in finding its classes' others."""
        held = folds.stratified(self._known.labels.numpy(), PARTS, self._seed + division) == part
        others = np.flatnonzero(~held)
        random = seeding.generator(self._seed, REPETITIONS + division, part)
        known = np.bincount(self._known.labels.numpy()[others], minlength=self._known.n_classes)
        queries = np.flatnonzero(held & (known[self._known.labels.numpy()] > 0))
        if not len(queries):
            return
        learned = self._learned(torch.from_numpy(~held))
        sizes = len(queries), len(others)
        if len(queries) > MOST_QUERIES:
            queries = np.sort(random.choice(queries, MOST_QUERIES, replace=False))
        if len(others) > MOST_SEARCHED:
            others = np.sort(random.choice(others, MOST_SEARCHED, replace=False))
        rows, labels = self._known.rows, self._known.labels
        asked, among = torch.from_numpy(queries), torch.from_numpy(others)
        before = found_kin(rows[asked], labels[asked], rows[among], labels[among])
        after = found_kin(joined(rows[asked], learned), labels[asked], joined(rows[among], learned), labels[among])
        self._parts = np.vstack([self._parts, [np.nanmean(after - before), *sizes]])


def found_kin(queries: torch.Tensor, own: torch.Tensor, rows: torch.Tensor, labels: torch.Tensor) -> np.ndarray:
    """Return R-precision (q,): the share of a query's class among as many nearest rows as the class has rows.

    `queries` (q, dim) and `rows` (n, dim) have length 1, `own` (q,) and `labels` (n,) are their classes; a query whose
    class has no row gets NaN.
    """
    found = []
    for some, mine in zip(queries.split(256), own.split(256), strict=True):
        order = torch.sort(some @ rows.T, dim=1, descending=True, stable=True).indices
        kin = (labels[order] == mine[:, None]).double()
        counts = kin.sum(1)
        inside = torch.arange(kin.shape[1]) < counts[:, None]
        found.append((kin * inside).sum(1) / counts)
    return torch.cat(found).numpy()


def joined(rows: torch.Tensor, learned: discriminant.Discriminant) -> torch.Tensor:
    """Return the projections of rows (n, dim) in the view and the rows side by side (n, dim + d); zeros stay zeros."""
    projected = discriminant.unit(learned.project(rows))
    there = (rows != 0).any(1, keepdim=True)
    return torch.cat([projected * there, rows], 1) * 0.5**0.5


def ranked(rows: torch.Tensor, labels: torch.Tensor, queries: torch.Tensor) -> np.ndarray:
    """Return precision at 5 and average precision (q, 2) of some rows of length 1 among all others, by cosine."""
    found = []
    for some in queries.split(256):
        scores = rows[some] @ rows.T
        scores[torch.arange(len(some)), some] = -torch.inf
        order = torch.sort(scores, dim=1, descending=True, stable=True).indices[:, :-1]
        kin = (labels[order] == labels[some][:, None]).double()
        ranks = torch.arange(1, kin.shape[1] + 1, dtype=torch.float64)
        average = (kin.cumsum(1) / ranks * kin).sum(1) / kin.sum(1)
        found.append(torch.stack([kin[:, :TOP].sum(1) / TOP, average], 1))
    return torch.cat(found).numpy()
