"""Which images to look at or to label first.

`representative`: the medoids of a k-means with one cluster for each image wanted, largest cluster first.
`diverse`: farthest first (Gonzalez 1985): each image is the one farthest from all chosen before it, so that strange
ones come early.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from imagekin import errors
from imagekin.enums import Metric
from imagekin_worker.analysis import stepper
from imagekin_worker.analysis.stepper import Stepper, ViewedRows
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options
from imagekin_worker.matrix.view import View

DEFAULT_SEED = 100
# One start: medoids of as many clusters as images are wanted depend little on it.
N_INIT = 1
MAX_ITERATIONS = 25
# Rows that the next ones are chosen among between two passes over all rows: more make fewer passes, each choice dearer.
POOL_ROWS = 2048
# Choices between two passes, at most: a block's products with them stay in cache.
CHOICES_PER_PASS = 256
# Rows of one product.
BLOCK_ROWS = 4096
# Cosines this close count as equal: they are float32's rounding, and choices must not hang on it.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Selection:
    """The chosen rows in the order chosen.

    `distances`: 1 - cosine to the nearest one chosen before it or avoided; for the first one, if nothing is avoided, to
    the mean of all. `coverage`: the mean cosine of all images to their nearest chosen one.
    """

    indices: np.ndarray
    distances: np.ndarray
    coverage: float


class Diverse(Stepper):
    """Farthest first over rows (n, dim) of raw vectors, exact; the first one is the most typical of all.

    `avoid` (a, dim), raw vectors: the chosen rows lie away from them, too. At most n rows are chosen. Raises
    InvalidRequest if `count` is below 1 or shapes differ. A plain loop passes over all rows for each choice. Here one
    pass allows several choices among the rows that were farthest: distances only fall, so a row among these that is
    still farther than all others were is the next choice. The result is the same, except for choices that rounding
    decides.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        count: int,
        *,
        avoid: np.ndarray | None = None,
        memory_budget_bytes: int,
        folder: Path,
    ) -> None:
        self._rows = ViewedRows(rows, view, memory_budget_bytes, folder)
        self._avoid = avoid_rows(view, avoid)
        if count < 1:
            raise errors.InvalidRequest("At least one image must be chosen.")
        self._count = min(count, self._rows.n)
        self._position = 0
        # what the rows are held against in this pass: a sum of all rows to begin with
        self._phase = "avoid" if len(self._avoid) else "mean"
        self._sum = np.zeros(self._rows.dim)
        # the largest cosine to what was chosen or is avoided, and to what was chosen alone
        self._nearest = np.full(self._rows.n, -np.inf, np.float32)
        self._covered = self._nearest.copy() if len(self._avoid) else self._nearest
        self._chosen: list[int] = []
        self._distances: list[float] = []
        self._applied = 0
        self._targets: torch.Tensor | None = None

    @classmethod
    def resume(
        cls,
        rows: np.ndarray,
        view: View,
        state: bytes,
        *,
        avoid: np.ndarray | None = None,
        memory_budget_bytes: int,
        folder: Path,
    ) -> Diverse:
        """Continue from `state` with the same rows (n, dim), view and avoided ones (a, dim).

        Raises JobError if it is of others.
        """
        scalars, arrays = stepper.unpacked(state, rows.shape)
        self = cls(rows, view, scalars["count"], avoid=avoid, memory_budget_bytes=memory_budget_bytes, folder=folder)
        self._phase, self._position, self._applied = scalars["phase"], scalars["position"], scalars["applied"]
        self._distances = scalars["distances"]
        self._chosen = arrays["chosen"].tolist()
        self._sum, self._nearest = arrays["sum"], arrays["nearest"]
        self._covered = arrays.get("covered", self._nearest)
        return self

    def state(self) -> bytes:
        scalars = {
            "shape": [self._rows.n, self._rows.dim],
            "count": self._count,
            "phase": self._phase,
            "position": self._position,
            "applied": self._applied,
            "distances": self._distances,
        }
        arrays = {"chosen": np.array(self._chosen, np.int64), "sum": self._sum, "nearest": self._nearest}
        if len(self._avoid):
            arrays["covered"] = self._covered
        return stepper.packed(scalars, arrays)

    @property
    def finished(self) -> bool:
        return self._phase == "done"

    @property
    def fraction(self) -> float:
        if self.finished:
            return 1.0
        # a pass after some choices is what they cost
        return 0.98 * (self._applied / self._count) + 0.01 * (self._phase != "mean")

    def result(self) -> Selection:
        """Return what was chosen; raises JobError before `advance` has returned True."""
        if not self.finished:
            raise errors.JobError("The selection is not finished.")
        return Selection(
            np.array(self._chosen, np.int64),
            np.array(self._distances).clip(min=0),
            float(np.minimum(self._covered, 1).mean(dtype=np.float64)),
        )

    def _step(self) -> None:
        if not self._rows.ready():
            return
        if self._phase == "choose":
            self._choose()
            return
        span = self._rows.spans(BLOCK_ROWS, self._position)[0] if self._position < self._rows.n else None
        if span is not None:
            if self._phase == "mean":
                self._sum += self._rows.array[span].sum(0, dtype=np.float64)
            else:
                self._hold(span)
            self._position = span.stop
            self._rows.release()
        if self._position >= self._rows.n:
            self._end_pass()

    def _hold(self, span: slice) -> None:
        """Compare a block with the columns of this pass."""
        if self._targets is None:
            self._targets = self._aimed()
        best = (self._rows.tensor(span) @ self._targets).amax(1).numpy()
        if self._phase == "typical":
            self._nearest[span] = best
        else:
            np.maximum(self._nearest[span], best, out=self._nearest[span])
        if self._phase == "apply" and len(self._avoid):
            np.maximum(self._covered[span], best, out=self._covered[span])

    def _aimed(self) -> torch.Tensor:
        """Return the columns (dim, m) by which this pass multiplies rows."""
        if self._phase == "typical":
            mean = self._sum / max(np.linalg.norm(self._sum), 1e-30)
            return torch.from_numpy(mean.astype(np.float32))[:, None]
        if self._phase == "avoid":
            return torch.from_numpy(self._avoid.T.copy())
        return self._rows.take(np.array(self._chosen[self._applied :])).T

    def _end_pass(self) -> None:
        self._position, self._targets = 0, None
        if self._phase == "mean":
            self._phase = "typical"
            return
        if self._phase == "typical":
            first = int(self._nearest.argmax())
            self._distances.append(1 - float(self._nearest[first]))
            self._chosen.append(first)
            self._nearest.fill(-np.inf)
            self._phase = "apply"
            return
        if self._phase == "apply":
            self._applied = len(self._chosen)
            self._nearest[self._chosen] = 1
        self._phase = "choose" if len(self._chosen) < self._count else "done"

    def _choose(self) -> None:
        """Choose among the rows that were farthest after the last pass, as long as one of them must be the next."""
        free = np.ones(self._rows.n, bool)
        free[self._chosen] = False
        places = np.flatnonzero(free)
        pool, limit = _farthest(places, self._nearest[places])
        vectors = self._rows.take(pool)
        nearest = self._nearest[pool]
        most = min(self._count - len(self._chosen), CHOICES_PER_PASS, len(pool))
        for turn in range(most):
            at = int(nearest.argmin())
            if turn and nearest[at] > limit - ROUNDING:
                break
            self._chosen.append(int(pool[at]))
            self._distances.append(1 - float(nearest[at]))
            np.maximum(nearest, (vectors @ vectors[at]).numpy(), out=nearest)
            nearest[at] = np.inf
        self._phase = "apply"


class Representative(Stepper):
    """Medoids of k-means with `count` clusters over rows (n, dim) of raw vectors, in the view; largest cluster first.

    With `avoid` (a, dim), raw vectors, there are a more clusters, at most twice `count` in all; of their medoids those
    farthest from the avoided ones are kept. Raises InvalidRequest if `count` is below 1 or shapes differ.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        count: int,
        *,
        seed: int = DEFAULT_SEED,
        avoid: np.ndarray | None = None,
        memory_budget_bytes: int,
        folder: Path,
    ) -> None:
        self._rows = ViewedRows(rows, view, memory_budget_bytes, folder)
        self._avoid = avoid_rows(view, avoid)
        if count < 1:
            raise errors.InvalidRequest("At least one image must be chosen.")
        self._count = min(count, self._rows.n)
        self._seed, self._budget = seed, memory_budget_bytes
        self._kmeans: KMeans | None = None
        self._clusters: bytes | None = None
        self._chosen: np.ndarray | None = None
        self._distances = np.empty(0)
        self._position, self._covered = 0, 0.0

    @classmethod
    def resume(
        cls,
        rows: np.ndarray,
        view: View,
        state: bytes,
        *,
        avoid: np.ndarray | None = None,
        memory_budget_bytes: int,
        folder: Path,
    ) -> Representative:
        """Continue from `state` with the same rows (n, dim), view and avoided ones (a, dim).

        Raises JobError if it is of others.
        """
        scalars, arrays = stepper.unpacked(state, rows.shape)
        self = cls(
            rows,
            view,
            scalars["count"],
            seed=scalars["seed"],
            avoid=avoid,
            memory_budget_bytes=memory_budget_bytes,
            folder=folder,
        )
        if "clusters" in arrays:
            self._clusters = arrays["clusters"].tobytes()
        if "chosen" in arrays:
            self._chosen, self._distances = arrays["chosen"], arrays["distances"]
        self._position, self._covered = scalars["position"], scalars["covered"]
        return self

    def state(self) -> bytes:
        scalars = {
            "shape": [self._rows.n, self._rows.dim],
            "count": self._count,
            "seed": self._seed,
            "position": self._position,
            "covered": self._covered,
        }
        arrays = {}
        if self._chosen is not None:
            arrays = {"chosen": self._chosen, "distances": self._distances}
        elif self._kmeans is not None or self._clusters is not None:
            saved = self._clusters if self._kmeans is None else self._kmeans.state()
            arrays = {"clusters": np.frombuffer(saved or b"", np.uint8)}
        return stepper.packed(scalars, arrays)

    @property
    def finished(self) -> bool:
        return self._chosen is not None and self._position == self._rows.n

    @property
    def fraction(self) -> float:
        if self._chosen is not None:
            return 0.95 + 0.05 * self._position / self._rows.n
        return 0.0 if self._kmeans is None else 0.95 * self._kmeans.progress

    def result(self) -> Selection:
        """Return what was chosen; raises JobError before `advance` has returned True."""
        if not self.finished or self._chosen is None:
            raise errors.JobError("The selection is not finished.")
        return Selection(self._chosen, self._distances, self._covered / self._rows.n)

    def _step(self) -> None:
        if not self._rows.ready():
            return
        if self._chosen is not None:
            self._cover(self._chosen)
            return
        if self._kmeans is None:
            self._kmeans = self._begun()
        if self._kmeans.advance(until=lambda: True):
            self._conclude(self._kmeans.result().medoids)
            self._kmeans = None

    def _begun(self) -> KMeans:
        if self._clusters is not None:
            return KMeans.resume(self._rows.array, self._clusters)
        clusters = min(self._count + min(len(self._avoid), self._count), self._rows.n)
        options = Options(
            metric=Metric.COSINE,
            seed=self._seed,
            n_init=N_INIT,
            max_iterations=MAX_ITERATIONS,
            memory_budget_bytes=self._budget,
        )
        return KMeans(self._rows.array, clusters, options)

    def _conclude(self, medoids: np.ndarray) -> None:
        vectors = self._rows.take(medoids)
        if len(medoids) > self._count:
            near = (vectors @ torch.from_numpy(self._avoid.T.copy())).amax(1).numpy()
            kept = np.sort(np.argsort(near, kind="stable")[: self._count])
            medoids, vectors = medoids[kept], vectors[torch.from_numpy(kept)]
        self._chosen = medoids.astype(np.int64)
        self._distances = self._apart(vectors)

    def _apart(self, vectors: torch.Tensor) -> np.ndarray:
        """Return 1 - cosine of each chosen row to the nearest one before it or avoided; of the first to the mean."""
        nearest = np.full(len(vectors), -np.inf)
        if len(self._avoid):
            nearest = (vectors @ torch.from_numpy(self._avoid.T.copy())).amax(1).numpy().astype(np.float64)
        for start in range(0, len(vectors), BLOCK_ROWS):
            some = slice(start, start + BLOCK_ROWS)
            products = (vectors[some] @ vectors.T).numpy()
            before = np.tri(len(products), len(vectors), start - 1, dtype=bool)
            nearest[some] = np.maximum(nearest[some], np.where(before, products, -np.inf).max(1))
        if not np.isfinite(nearest[0]):
            mean = vectors.mean(0, dtype=torch.float64)
            nearest[0] = float(vectors[0].double() @ mean / max(float(mean.norm()), 1e-30))
        return (1 - nearest).clip(min=0)

    def _cover(self, chosen: np.ndarray) -> None:
        span = self._rows.spans(BLOCK_ROWS, self._position)[0]
        targets = self._rows.take(chosen)
        best = (self._rows.tensor(span) @ targets.T).amax(1).clamp_(max=1)
        self._covered += float(best.sum(dtype=torch.float64))
        self._position = span.stop
        self._rows.release()


def avoid_rows(view: View, avoid: np.ndarray | None) -> np.ndarray:
    """Return the avoided vectors in the view (a, dim); raises InvalidRequest if dimensions differ."""
    return np.empty((0, view.dim), np.float32) if avoid is None or not len(avoid) else view.transform(avoid)


def _farthest(places: np.ndarray, nearest: np.ndarray) -> tuple[np.ndarray, float]:
    """Return the `POOL_ROWS` farthest places, ascending, and the cosine of the next one, inf if there is no other."""
    if len(places) <= POOL_ROWS:
        return places, np.inf
    order = np.argpartition(nearest, POOL_ROWS)
    return np.sort(places[order[:POOL_ROWS]]), float(nearest[order[POOL_ROWS]])
