"""K-means in slices: it stops when told to, continues in another process, and reaches the same labels."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from imagekin import errors
from imagekin.enums import Metric
from imagekin_worker.kmeans import batches, measure, seeding

DEFAULT_MAX_ITERATIONS = 100
# A cost below this share of the row's own size is rounding of the float32 matrix product, not distance.
ROUNDING = 1e-5
# The centers that a pass over the rows compares them with.
AIMED_AT = {"iterate": "centers", "full": "centers", "measure": "best_centers"}
# The part of the progress that the last passes over all rows are, after mini-batches.
FULL_SHARE = 0.35


@dataclass
class _Progress:
    """The progress of a k-means; all that `state` saves."""

    n: int
    dim: int
    n_clusters: int
    metric: str
    seed: int
    n_init: int
    tolerance: float
    max_iterations: int
    variance: float = 0.0
    batch_rows: int | None = None
    # rows of this pass
    size: int = 0
    # iterations that are to be over before the batch grows or the start ends
    last_iteration: int = 0
    phase: str = "seed"
    run: int = 0
    iteration: int = 0
    position: int = 0
    best_inertia: float = math.inf
    best_iterations: int = 0
    # By name, as most live in one phase only.
    arrays: dict[str, torch.Tensor] = field(default_factory=dict)


class KMeans:
    """K-means: k-means++ seeds, Lloyd's iterations, emptied clusters re-seeded, best of `n_init` starts by inertia.

    Cosine is spherical k-means (Dhillon and Modha 2001): rows count by direction, centers have length 1. A start ends
    when its centers move less than scikit-learn's tolerance (sum of squared moves <= tolerance * mean variance of a
    dimension) or after `max_iterations`. The same rows, seed, device and number of threads give the same labels, in any
    slices. Rows that take more than `memory_budget_bytes` are clustered in mini-batches (see
    imagekin_worker.kmeans.batches).

    Raises InvalidRequest for more clusters than rows and for rows that are not finite.
    """

    def __init__(
        self,
        rows: np.ndarray,
        n_clusters: int,
        options: measure.Options = measure.AS_USUAL,
    ) -> None:
        self._all = self._rows = measure.Rows(rows, options.device)
        measure.check_n_clusters(n_clusters, self._rows.n)
        most = batches.largest(self._rows.n, self._rows.dim, n_clusters, options.memory_budget_bytes)
        n_init, metric = options.starts(most or self._rows.n), Metric(options.metric)
        max_iterations = DEFAULT_MAX_ITERATIONS if options.max_iterations is None else options.max_iterations
        if max_iterations < 1 or options.tolerance < 0:
            raise errors.InvalidRequest("max_iterations must be at least 1, tolerance at least 0.")
        self._now = _Progress(
            self._rows.n, self._rows.dim, n_clusters, metric, options.seed, n_init, options.tolerance, max_iterations
        )
        self._now.batch_rows = most
        self._metric = metric
        self._forget()
        sample = self._sample(run=0)
        shift = torch.zeros_like(sample[0]) if self._metric is Metric.COSINE else sample.mean(0)
        self._now.variance = float(sample.var(0, correction=0).mean())
        self._work_on(self._sizes()[0], shift)

    @classmethod
    def resume(cls, rows: np.ndarray, state: bytes, *, device: str | torch.device = "cpu") -> KMeans:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        self = cls.__new__(cls)
        self._all = measure.Rows(rows, device)
        with np.load(io.BytesIO(state), allow_pickle=False) as saved:
            scalars: dict[str, Any] = json.loads(saved["scalars"].item())
            arrays = {name: torch.from_numpy(saved[name]).to(device) for name in saved.files if name != "scalars"}
        if (scalars["n"], scalars["dim"]) != (self._all.n, self._all.dim):
            raise errors.JobError("The saved progress of this clustering belongs to other rows.")
        self._metric = Metric(scalars["metric"])
        shift, extent = arrays.pop("shift"), arrays.pop("extent")
        self._now = _Progress(**scalars, arrays=arrays)
        self._forget()
        self._rows = self._first_rows(self._now.size)
        self._scorer = measure.Scorer(self._rows, self._metric, shift, extent)
        if self._now.phase in AIMED_AT:
            self._scorer.aim(arrays[AIMED_AT[self._now.phase]])
        return self

    def state(self) -> bytes:
        """Return all progress as an npz file without pickles; about 4 n + 20 n_clusters * dim bytes at most times."""
        now = self._now
        scalars = {name: value for name, value in vars(now).items() if name != "arrays"}
        arrays = {**now.arrays, "shift": self._scorer.shift, "extent": self._scorer.extent}
        out = io.BytesIO()
        saved = {name: tensor.cpu().numpy() for name, tensor in arrays.items()}
        np.savez(out, allow_pickle=False, scalars=np.array(json.dumps(scalars)), **saved)
        return out.getvalue()

    @property
    def finished(self) -> bool:
        return self._now.phase == "done"

    @property
    def phase(self) -> str:
        """The current phase: seed, iterate, full (the passes over all rows after mini-batches), measure, done."""
        return self._now.phase

    @property
    def progress(self) -> float:
        """The share of the work that is done, 0 to 1, never falling; the number of iterations to come is a guess."""
        now = self._now
        full = 0.0 if now.batch_rows is None else FULL_SHARE
        if now.phase == "done":
            return 1.0
        if now.phase == "measure":
            return 0.95 + 0.05 * now.position / now.n
        if now.phase == "full":
            left = now.last_iteration - now.iteration - now.position / now.n
            return 0.95 - full * left / batches.FULL_PASSES
        if now.phase == "seed":
            part = 0.1 * len(now.arrays.get("chosen", ())) / now.n_clusters
        else:
            passes = now.iteration + now.position / now.size
            part = 0.1 + 0.9 * passes / (passes + 10)
        return (0.95 - full) * (now.run + part) / now.n_init

    @property
    def batch_rows(self) -> int | None:
        """The number of rows of the largest mini-batch, None if every pass covers all rows."""
        return self._now.batch_rows

    def advance(self, until: Callable[[], bool] = lambda: False) -> bool:
        """Work until `until()`, called after every block of rows, returns True; return whether all is done."""
        steps = {
            "seed": self._choose_seed,
            "iterate": self._iterate_block,
            "full": self._iterate_block,
            "measure": self._measure_block,
        }
        while not self.finished:
            steps[self._now.phase]()
            self._rows.release()
            if until():
                break
        return self.finished

    def result(self) -> measure.Clustering:
        """Return the clustering; raises JobError before `advance` has returned True."""
        if not self.finished:
            raise errors.JobError("The clustering is not finished.")
        saved = {name: tensor.cpu().numpy() for name, tensor in self._now.arrays.items()}
        placement = measure.Placement(saved["labels"], saved["distances"], saved["cosines"])
        return measure.conclude(self._rows, self._metric, saved["best_centers"], placement, self._now.best_iterations)

    def _forget(self) -> None:
        """Begin without what can be computed again."""
        self._seeding: seeding.Seeding | None = None
        self._distances: torch.Tensor | None = None
        self._batch: np.ndarray | None = None

    def _sizes(self) -> list[int]:
        """Return how many rows the passes of a start cover, one batch after the other."""
        now = self._now
        return [now.n] if now.batch_rows is None else batches.sizes(now.batch_rows, now.n_clusters)

    def _first_rows(self, size: int) -> measure.Rows:
        """Return all rows, or a batch: the first ones in a random order that is the same in every start."""
        now = self._now
        if now.batch_rows is None or size == now.n:
            return self._all
        if self._batch is None:
            drawn = seeding.generator(now.seed, -1).choice(now.n, now.batch_rows, replace=False)
            self._batch = self._all.gather(drawn)
        return measure.Rows(self._batch[:size], self._all.device)

    def _work_on(self, size: int, shift: torch.Tensor) -> None:
        """Let the next passes cover the first `size` rows. Raises InvalidRequest if one is not finite."""
        self._now.size = size
        self._rows = self._first_rows(size)
        self._scorer = measure.Scorer.prepare(self._rows, self._metric, shift)

    def _sample(self, run: int) -> torch.Tensor:
        """Return the rows (m, dim) that a start draws its seeds from, of length 1 for cosine."""
        now = self._now
        rows = self._all.pick(torch.from_numpy(seeding.sample_rows(now.n, now.n_clusters, (now.seed, run))))
        return measure.unit(rows) if self._metric is Metric.COSINE else rows

    def _begin_seeding(self) -> seeding.Seeding:
        now = self._now
        sample = self._sample(now.run) - self._scorer.shift
        # the starts share what they draw from where that is all rows
        shared = len(sample) == now.n
        steps = now.n_clusters * (now.n_init if shared else 1)
        if self._distances is None and seeding.distances_pay(len(sample), steps):
            self._distances = seeding.distances(sample)
        begun = seeding.Seeding(
            sample,
            now.n_clusters,
            (now.seed, now.run),
            chosen=now.arrays.get("chosen"),
            closest=now.arrays.get("closest"),
            distances=self._distances,
        )
        if not shared or now.run == now.n_init - 1:
            self._distances = None
        return begun

    def _choose_seed(self) -> None:
        now = self._now
        if self._seeding is None:
            self._seeding = self._begin_seeding()
        self._seeding.step()
        now.arrays |= {"chosen": self._seeding.chosen, "closest": self._seeding.closest}
        if len(self._seeding.chosen) == now.n_clusters:
            centers = self._sample(now.run)[self._seeding.chosen]
            self._seeding = None
            del now.arrays["chosen"], now.arrays["closest"]
            now.phase, now.iteration, now.last_iteration = "iterate", 0, now.max_iterations
            self._start_iteration(centers)

    def _start_iteration(self, centers: torch.Tensor) -> None:
        now, device = self._now, self._rows.device
        now.position = 0
        now.arrays |= {
            "centers": centers,
            "sums": torch.zeros(centers.shape, dtype=torch.float64, device=device),
            "counts": torch.zeros(len(centers), dtype=torch.int64, device=device),
            "costs": torch.empty(now.size, dtype=torch.float32, device=device),
        }
        self._scorer.aim(centers)

    def _next_block(self) -> slice:
        now = self._now
        block = slice(now.position, min(now.position + self._rows.block_rows(now.n_clusters), now.size))
        now.position = block.stop
        return block

    def _iterate_block(self) -> None:
        now = self._now
        block = self._next_block()
        rows, labels, costs = self._scorer.nearest(block)
        weights = self._scorer.extent[block] if self._metric is Metric.COSINE else None
        counts = torch.bincount(labels, minlength=now.n_clusters)
        now.arrays["sums"] += _sum_by_label(rows, labels, counts, weights)
        now.arrays["counts"] += counts
        now.arrays["costs"][block] = costs
        if now.position == now.size:
            self._end_iteration()

    def _end_iteration(self) -> None:
        now = self._now
        now.iteration += 1
        old = now.arrays["centers"]
        new = self._means(old)
        self._reseed_empty(new)
        moved = float(((new.double() - old.double()) ** 2).sum())
        if now.iteration < now.last_iteration and moved > now.tolerance * now.variance:
            self._start_iteration(new)
        elif now.phase == "full":
            now.arrays["best_centers"], now.best_iterations = new, now.iteration
            self._start_measuring()
        elif now.size != self._sizes()[-1]:
            now.last_iteration = now.iteration + now.max_iterations
            self._work_on(min(2 * now.size, self._sizes()[-1]), self._scorer.shift)
            self._start_iteration(new)
        else:
            self._end_run(old)

    def _means(self, old: torch.Tensor) -> torch.Tensor:
        """Return the means of this pass; a cluster without members, or whose members cancel out, keeps its center."""
        sums, counts = self._now.arrays["sums"], self._now.arrays["counts"][:, None]
        if self._metric is Metric.COSINE:
            means = measure.unit(sums)
            kept = means.abs().sum(1, keepdim=True) == 0
        else:
            means, kept = sums / counts.clamp_min(1), counts == 0
        return torch.where(kept, old, means.float())

    def _reseed_empty(self, centers: torch.Tensor) -> None:
        """Move the centers of emptied clusters to the rows that cost most; rows that cost nothing need no center."""
        costs = self._now.arrays["costs"]
        empty = torch.nonzero(self._now.arrays["counts"] == 0)[:, 0]
        if not len(empty):
            return
        far = torch.sort(costs, descending=True, stable=True).indices[: len(empty)]
        far = far[costs[far] > ROUNDING * self._scorer.scale()[far]]
        seeds = self._rows.pick(far)
        centers[empty[: len(far)]] = measure.unit(seeds) if self._metric is Metric.COSINE else seeds

    def _end_run(self, centers: torch.Tensor) -> None:
        now = self._now
        inertia = float(now.arrays["costs"].sum(dtype=torch.float64))
        if inertia < now.best_inertia:
            now.best_inertia, now.best_iterations = inertia, now.iteration
            now.arrays["best_centers"] = centers
        now.run += 1
        if now.run < now.n_init:
            now.phase, now.position = "seed", 0
            self._drop_pass()
            if now.size != self._sizes()[0]:
                self._work_on(self._sizes()[0], self._scorer.shift)
        elif now.batch_rows is None:
            self._start_measuring()
        else:
            now.phase, now.iteration = "full", now.best_iterations
            now.last_iteration = now.iteration + batches.FULL_PASSES
            self._work_on(now.n, self._scorer.shift)
            self._start_iteration(now.arrays["best_centers"])

    def _drop_pass(self) -> None:
        for name in ("centers", "sums", "counts", "costs"):
            del self._now.arrays[name]

    def _start_measuring(self) -> None:
        now, device = self._now, self._rows.device
        self._drop_pass()
        now.phase, now.position = "measure", 0
        self._scorer.aim(now.arrays["best_centers"])
        now.arrays["labels"] = torch.empty(now.n, dtype=torch.int32, device=device)
        for name in ("distances", "cosines"):
            now.arrays[name] = torch.empty(now.n, dtype=torch.float64, device=device)

    def _measure_block(self) -> None:
        now = self._now
        block = self._next_block()
        measured = measure.measure_block(self._scorer, block, now.arrays["best_centers"])
        for name, values in zip(measure.Placement._fields, measured, strict=True):
            now.arrays[name][block] = values
        if now.position == now.n:
            now.phase = "done"


def _sum_by_label(
    rows: torch.Tensor, labels: torch.Tensor, counts: torch.Tensor, weights: torch.Tensor | None
) -> torch.Tensor:
    """Return the sum (k, dim) of the rows of each label.

    An embedding bag gathers and sums at once, and unlike `index_add_` in the same order every time on CUDA too.
    """
    order = _ordered(labels, len(counts))
    offsets = torch.cumsum(counts, 0) - counts
    ordered_weights = None if weights is None else weights[order]
    return functional.embedding_bag(order, rows, offsets, mode="sum", per_sample_weights=ordered_weights)


def _ordered(labels: torch.Tensor, n_clusters: int) -> torch.Tensor:
    """Return the rows sorted by label, keeping their order within a label."""
    if labels.device.type == "cpu" and n_clusters <= np.iinfo(np.int16).max:
        # by radix, in a tenth of the time
        return torch.from_numpy(np.argsort(labels.short().numpy(), kind="stable"))
    return torch.argsort(labels, stable=True)
