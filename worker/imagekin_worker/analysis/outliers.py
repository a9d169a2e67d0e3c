"""Outliers: images that are far from their nearest neighbors.

The distance of an image is its mean distance (1 - cosine in the view) to the 10 nearest of other content.
Near-duplicates count once, since two copies of a strange picture would hide each other: k-nearest-neighbor outliers
(Ramaswamy, Rastogi and Shim 2000; the mean as in Angiulli and Pizzuti 2002, and in Cleanlab). The result is a rank and
a percentile, not a hard line.

In the raw view that distance is the score. In the calibrated view it is half of it: without the mean all photographs
stand at right angles to each other, so that among 243 of them noise, black frames and text pages were not stranger than
the rest (AUROC .87). What the mean takes away still shows in the squared lengths ||(x' - m) - (q' - m)||^2 / 2, the
distance of the same neighbors with the mean (AUROC 1 there, but .78 instead of .93 for three pictures of a kind that is
not in the collection). The score is the geometric mean of both (1 and .85).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagekin import errors
from imagekin_worker.analysis import groups, stepper
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.neighborhoods import ListedPairs, Lists, Memory, Neighborhoods
from imagekin_worker.analysis.pairs import Nearest
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.matrix.view import View

NEIGHBORS = 10
# Near-duplicates: Cleanlab's line, of the median nearest distance.
LINE_SHARE = 0.13
# Lengths in one step: some 40 MB of rows.
MEASURED_ROWS = 8192
# "again": rows among whose nearest too many were copies.
_SHARES = {"neighbors": 0.85, "pairs": 0.07, "again": 0.03, "lengths": 0.05}
_PHASES = (*_SHARES, "done")


@dataclass(frozen=True)
class Ranking:
    """`order` (n,): rows, strangest first, ties by row. By row: `scores` (n,), `percentiles` (n,) and `nearest`.

    A percentile is the share of images that are less strange, in percent. `nearest` is the nearest image of other
    content, -1 if all have the same.
    """

    order: NDArray[np.int64]
    scores: NDArray[np.float64]
    percentiles: NDArray[np.float64]
    nearest: NDArray[np.int64]


class Outliers(Stepper):
    """Ranks raw vectors `rows` (n, dim) by how strange they are, in steps.

    Images nearer than 1 - 0.13 x the median nearest distance count as one, as do those with equal `identical` (n,), the
    first row that has the same bytes. Lists of the nearest rows are taken from `memory`, or left there. Memory: the
    rows in the view up to `memory_budget_bytes` (beyond that they are in a file in `folder`), and 200 bytes an image.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        *,
        identical: NDArray[np.int64] | None = None,
        memory: Memory | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> None:
        self._rows, self._view, self._memory = rows, view, memory
        self._room: dict[str, Any] = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        # one row for all that are identical, and which of these each row is
        self._once, self._of = np.unique(np.arange(len(rows)) if identical is None else identical, return_inverse=True)
        self._all = ViewedBlocks(Blocks(rows, None if len(self._once) == len(rows) else self._once), view)
        self._phase = "neighbors"
        self._work: Neighborhoods | ListedPairs | Nearest | None = None
        # of all of these rows, and once contents are known, of those that stand for one
        self._lists = Lists(np.zeros((0, 0), np.int32), np.zeros((0, 0), np.float32))
        # of these rows, the one that stands for each one's content
        self._leaders = np.arange(len(self._once))
        # ||x' - m|| of what stands for a content, as far as it is known
        self._lengths = np.zeros(0)

    @classmethod
    def resume(
        cls,
        rows: np.ndarray,
        view: View,
        state: bytes,
        *,
        identical: NDArray[np.int64] | None = None,
        memory: Memory | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> Outliers:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        room = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        self = cls(rows, view, identical=identical, memory=memory, **room)
        scalars, arrays = stepper.unpacked(state, (len(rows), rows.shape[1]))
        self._phase = scalars["phase"]
        self._lists = Lists(arrays["places"], arrays["cosines"])
        self._leaders, self._lengths = arrays["leaders"], arrays["lengths"]
        if work := arrays["work"].tobytes():
            self._work = self._resumed(work)
        return self

    def state(self) -> bytes:
        """Return all progress: up to 200 bytes an image, so save it from time to time and not after every step."""
        about = {"shape": list(self._rows.shape), "phase": self._phase}
        work = np.frombuffer(b"" if self._work is None else self._work.state(), np.uint8)
        arrays = {"leaders": self._leaders, "lengths": self._lengths, "work": work}
        return stepper.packed(about, {**arrays, **self._lists._asdict()})

    @property
    def finished(self) -> bool:
        return self._phase == "done"

    @property
    def phase(self) -> str:
        """The current phase: neighbors, pairs, again, lengths, done."""
        return self._phase

    @property
    def fraction(self) -> float:
        done = sum(_SHARES[name] for name in _PHASES[: _PHASES.index(self._phase)])
        part = 0.0 if self._work is None else self._work.fraction
        if self._phase == "lengths":
            part = len(self._lengths) / max(1, len(self._standing()[0]))
        return min(1.0, done + (_SHARES[self._phase] * part if not self.finished else 0.0))

    def result(self) -> Ranking:
        """Return the ranking; raises JobError before `advance` has returned True."""
        if not self.finished:
            raise errors.JobError("The search for outliers is not finished.")
        standing, of = self._standing()
        places, cosines = self._lists
        if places.shape[1]:
            scores = self._scores(places, cosines.astype(np.float64))[of]
            nearest = self._once[standing[places[:, 0]]][of]
        else:
            scores, nearest = np.zeros(len(of)), np.full(len(of), -1)
        order = np.argsort(-scores, kind="stable")
        below = np.searchsorted(np.sort(scores), scores, side="left")
        return Ranking(order, scores, 100 * below / max(1, len(scores)), nearest)

    def _scores(self, places: NDArray[np.integer], cosines: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the score (m,) of each row from its neighbors' places and cosines, both (m, neighbors)."""
        distances = np.maximum(1 - cosines.mean(1), 0)
        if self._view.mean is None:
            return distances
        own, others = self._lengths[:, None], self._lengths[places]
        with_mean = ((own**2 + others**2) / 2 - own * others * cosines).mean(1)
        return np.sqrt(distances * np.maximum(with_mean, 0))

    def _standing(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return which of the rows stand for a content, and for each image which of them stands for it."""
        standing, of = np.unique(self._leaders, return_inverse=True)
        return standing, of[self._of]

    def _step(self) -> None:
        if self._phase == "lengths":
            self._measure()
            return
        if self._work is None:
            self._work = Neighborhoods(self._all, memory=self._memory, **self._room)
        if not self._work.advance(lambda: True):
            return
        if isinstance(self._work, Neighborhoods):
            self._lists = self._work.result()
            self._phase, self._work = "pairs", ListedPairs(self._all, self._line(), self._lists, **self._room)
        elif isinstance(self._work, ListedPairs):
            self._leaders = _led(len(self._once), *self._work.result()[:2])
            self._choose()
            rows, threads = self._all.among(self._standing()[0]), self._room["threads"]
            self._phase, self._work = "again", Nearest(rows, self._lacking(), NEIGHBORS, threads=threads)
        else:
            lacking = self._lacking()
            for mine, found in zip(self._lists, self._work.result(), strict=True):
                mine[lacking] = found
            self._phase, self._work = "done" if self._view.mean is None else "lengths", None

    def _line(self) -> float:
        """Return the cosine from which on images count as one."""
        cosines = self._lists.cosines
        distances = 1 - cosines[:, 0].astype(np.float64) if cosines.size else np.zeros(1)
        return min(1.0, 1 - LINE_SHARE * float(np.median(distances)))

    def _choose(self) -> None:
        """Leave in the lists what stands for a content, by its number among these; -1 where there is too little."""
        standing, _ = self._standing()
        count = min(NEIGHBORS, max(len(standing) - 1, 0))
        number = np.full(len(self._once), -1, np.int32)
        number[standing] = np.arange(len(standing))
        places, cosines = number[self._lists.places[standing]], self._lists.cosines[standing]
        order = np.argsort(places < 0, axis=1, kind="stable")[:, :count]
        self._lists = Lists(np.take_along_axis(places, order, 1), np.take_along_axis(cosines, order, 1))

    def _lacking(self) -> NDArray[np.int64]:
        """Return the rows (m,) among whose nearest too many were copies."""
        return np.flatnonzero((self._lists.places < 0).any(1))

    def _measure(self) -> None:
        """Measure the next block of lengths."""
        standing = self._once[self._standing()[0]]
        start = len(self._lengths)
        block = self._view.powered(Blocks(self._rows, standing).read(slice(start, start + MEASURED_ROWS)))
        reciprocals = self._view.terms(block).reciprocals
        measured = np.divide(1, reciprocals, out=np.zeros(len(block)), where=reciprocals > 0)
        self._lengths = np.concatenate([self._lengths, measured])
        if len(self._lengths) == len(standing):
            self._phase = "done"

    def _resumed(self, work: bytes) -> Neighborhoods | ListedPairs | Nearest:
        if self._phase == "neighbors":
            return Neighborhoods.resume(self._all, work, memory=self._memory, **self._room)
        if self._phase == "pairs":
            return ListedPairs.resume(self._all, work, **self._room)
        rows, threads = self._all.among(self._standing()[0]), self._room["threads"]
        return Nearest.resume(rows, self._lacking(), work, threads=threads)


def _led(n: int, first: np.ndarray, second: np.ndarray) -> NDArray[np.int64]:
    """Return the leader (n,) of each row: the densest rows first, ties by row, each with what is left around it."""
    graph = groups.Graph(n, first, second)
    contents = np.arange(n)
    free = np.ones(n, bool)
    for row in np.argsort(-graph.degrees, kind="stable")[: np.count_nonzero(graph.degrees)].tolist():
        if free[row]:
            around = [other for other in graph.around(row) if free[other]]
            contents[around] = row
            free[[row, *around]] = False
    return contents
