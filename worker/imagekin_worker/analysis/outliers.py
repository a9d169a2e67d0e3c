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

import numpy as np
from numpy.typing import NDArray

from imagekin import errors
from imagekin_worker.analysis import groups, pairs, stepper
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.findings import Group
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.matrix.view import View

NEIGHBORS = 10
# Near-duplicates where the caller knows of none: Cleanlab's line, of a sample's median.
LINE_SHARE = 0.13
SAMPLED_ROWS = 4000
# Lengths in one step: some 40 MB of rows.
MEASURED_ROWS = 8192
_SHARES = {"nearest": 0.05, "pairs": 0.1, "neighbors": 0.8, "lengths": 0.05}
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


def collapsed(n: int, found: list[Group]) -> NDArray[np.int64]:
    """Return for each of n images (n,) the row that represents its content: the one that its group keeps, or itself."""
    contents = np.arange(n)
    for group in found:
        contents[[member.row for member in group.members]] = group.keep
    return contents


class Outliers(Stepper):
    """Ranks raw vectors `rows` (n, dim) by how strange they are, in steps.

    `contents` (n,): rows that represent each image's content, from `collapsed` after a search for duplicates; without
    it, images nearer than 1 - 0.13 x the median nearest distance count as one, as do those with equal `identical` (n,),
    the first row that has the same bytes. Memory: the rows in the view up to
    `memory_budget_bytes` (beyond that they are in a file in `folder`), and 100 bytes an image.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        *,
        contents: NDArray[np.int64] | None = None,
        identical: NDArray[np.int64] | None = None,
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> None:
        if contents is not None and len(contents) != len(rows):
            raise errors.InvalidRequest("There must be one content for each vector.")
        self._rows, self._view, self._contents = rows, view, contents
        self._budget, self._folder, self._threads = memory_budget_bytes, folder, threads
        # one row for all that are identical, and which of these each row is
        self._once, self._of = np.unique(np.arange(len(rows)) if identical is None else identical, return_inverse=True)
        self._all = ViewedBlocks(Blocks(rows, None if len(self._once) == len(rows) else self._once), view)
        last = len(self._once) - 1
        self._sample = np.unique(np.linspace(0, last, SAMPLED_ROWS).astype(np.int64)) if len(rows) else None
        self._phase = "nearest" if contents is None else "neighbors"
        self._line = 1.0
        self._work: pairs.Nearest | pairs.Pairs | pairs.Neighbors | None = None
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
        memory_budget_bytes: int,
        folder: Path,
        threads: int = 1,
    ) -> Outliers:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        room = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        self = cls(rows, view, identical=identical, **room)
        scalars, arrays = stepper.unpacked(state, (len(rows), rows.shape[1]))
        self._phase, self._line = scalars["phase"], scalars["line"]
        self._contents = arrays["contents"] if scalars["known"] else None
        self._lengths = arrays["lengths"].astype(np.float64)
        work = arrays["work"].tobytes()
        self._work = self._resumed(work) if work else None
        return self

    def state(self) -> bytes:
        """Return all progress: up to 100 bytes an image, so save it from time to time and not after every step."""
        about = {"shape": list(self._rows.shape), "phase": self._phase, "line": self._line}
        known = self._contents is not None
        work = np.frombuffer(self._work.state() if self._work is not None else b"", np.uint8)
        contents = self._contents if self._contents is not None else np.zeros(0, np.int64)
        return stepper.packed(about | {"known": known}, {"contents": contents, "lengths": self._lengths, "work": work})

    @property
    def finished(self) -> bool:
        return self._phase == "done"

    @property
    def phase(self) -> str:
        """The current phase: nearest, pairs, neighbors, lengths, done."""
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
        if not self.finished or not isinstance(self._work, pairs.Neighbors):
            raise errors.JobError("The search for outliers is not finished.")
        standing, of = self._standing()
        places, cosines = self._work.result()
        if places.shape[1]:
            scores, nearest = self._scores(places, cosines.astype(np.float64))[of], standing[places[:, 0]][of]
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
        """Return the rows that represent a content, and for each image which of them represents it."""
        assert self._contents is not None
        standing, of = np.unique(self._contents, return_inverse=True)
        return standing, of

    def _step(self) -> None:
        if self._phase == "lengths":
            self._measure()
            return
        if self._work is None:
            self._work = self._begun()
        if not self._work.advance(lambda: True):
            return
        if isinstance(self._work, pairs.Nearest):
            cosines = self._work.result()[1]
            distances = 1 - cosines[:, 0].astype(np.float64) if cosines.size else np.zeros(1)
            self._line = min(1.0, 1 - LINE_SHARE * float(np.median(distances)))
            self._phase, self._work = "pairs", None
        elif isinstance(self._work, pairs.Pairs):
            self._contents = self._once[_led(len(self._once), *self._work.result()[:2])][self._of]
            self._phase, self._work = "neighbors", None
        else:
            self._phase = "done" if self._view.mean is None else "lengths"

    def _measure(self) -> None:
        """Measure the next block of lengths."""
        standing = self._standing()[0]
        start = len(self._lengths)
        block = self._view.powered(Blocks(self._rows, standing).read(slice(start, start + MEASURED_ROWS)))
        reciprocals = self._view.terms(block).reciprocals
        measured = np.divide(1, reciprocals, out=np.zeros(len(block)), where=reciprocals > 0)
        self._lengths = np.concatenate([self._lengths, measured])
        if len(self._lengths) == len(standing):
            self._phase = "done"

    def _begun(self) -> pairs.Nearest | pairs.Pairs | pairs.Neighbors:
        if self._phase == "nearest":
            return pairs.Nearest(self._all, self._queries, 1, threads=self._threads)
        if self._phase == "pairs":
            return pairs.Pairs(
                self._all,
                self._line,
                memory_budget_bytes=self._budget,
                folder=self._folder,
                threads=self._threads,
            )
        return pairs.Neighbors(
            self._standing_rows(),
            NEIGHBORS,
            memory_budget_bytes=self._budget,
            folder=self._folder,
            threads=self._threads,
        )

    def _resumed(self, work: bytes) -> pairs.Nearest | pairs.Pairs | pairs.Neighbors:
        if self._phase == "nearest":
            return pairs.Nearest.resume(self._all, self._queries, work, threads=self._threads)
        place = {"memory_budget_bytes": self._budget, "folder": self._folder, "threads": self._threads}
        if self._phase == "pairs":
            return pairs.Pairs.resume(self._all, work, **place)
        return pairs.Neighbors.resume(self._standing_rows(), work, **place)

    @property
    def _queries(self) -> NDArray[np.int64]:
        return np.zeros(0, np.int64) if self._sample is None else self._sample

    def _standing_rows(self) -> ViewedBlocks:
        standing = self._standing()[0]
        return ViewedBlocks(Blocks(self._rows, None if len(standing) == len(self._rows) else standing), self._view)


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
