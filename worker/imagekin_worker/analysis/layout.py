"""A map of a collection: similar images lie together in the plane.

t-SNE (van der Maaten and Hinton 2008) as openTSNE computes it (Poličar, Stražar and Zupan 2024): exact neighbors in
the view, Gaussian affinities of perplexity 30, from the first two principal components (Kobak and Berens 2019), 250
iterations with exaggeration 12, then 500 without. Of more than `LARGEST` images, an evenly spread sample is laid out,
and each other image is placed at the median of its nearest ones in it, as openTSNE places new points.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from imagekin import errors
from imagekin_worker.analysis import nearest, stepper
from imagekin_worker.analysis.stepper import Stepper, ViewedRows
from imagekin_worker.kmeans import seeding
from imagekin_worker.matrix.view import View

DEFAULT_SEED = 100
# More images than these would take hours.
LARGEST = 100_000
PERPLEXITY = 30
# Fewer images have no neighborhoods to keep: they lie as the principal components say.
LEAST_ROWS = 10
# (name of the phase, iterations, exaggeration, momentum)
PHASES = {"early": (250, 12.0, 0.5), "late": (500, 1.0, 0.8)}
ITERATIONS = sum(iterations for iterations, _, _ in PHASES.values())
# Below this many images exact repulsion by a tree is quicker than a grid.
GRID_FROM = 1000
# Standard deviation of the start along its first axis: far smaller than a step.
START_SCALE = 1e-4
# Rows that the principal components are found from.
COMPONENT_ROWS = 10_000
# Nearest ones that place an image outside of the sample.
PLACED_BY = 15
# What the neighbors are of all the work, about.
NEIGHBOR_SHARE = 0.5
# Iterations of a step: each step ends with half an iteration that only measures.
STEP_ITERATIONS, LEAST_STEP_ITERATIONS = 25, 5
STEP_POINTS = 250_000


class Layout(Stepper):
    """Lays out rows (n, dim) of raw vectors in the view; the same rows and seed give the same map.

    `memory_budget_bytes` bounds what the rows in the view take in memory; neighbors take another 720 bytes for each
    image that is laid out.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        *,
        seed: int = DEFAULT_SEED,
        memory_budget_bytes: int,
        folder: Path,
        largest: int = LARGEST,
    ) -> None:
        self._seed, self._largest = seed, largest
        self._sample = spread(len(rows), largest, seed)
        size = len(self._sample)
        if size == len(rows):
            self._all = self._rows = ViewedRows(rows, view, memory_budget_bytes, folder)
        else:
            half = memory_budget_bytes // 2
            self._all = ViewedRows(rows, view, half, folder)
            self._rows = ViewedRows(rows, view, half, folder, self._sample)
        self._neighbors = min(3 * PERPLEXITY, size - 1)
        self._phase = "neighbors" if size >= LEAST_ROWS else "few" if size else "done"
        self._position = self._iteration = 0
        self._indices = np.zeros((size, max(self._neighbors, 0)), np.int32)
        self._cosines = np.zeros(self._indices.shape, np.float32)
        self._places = np.zeros((size, 2))
        self._update, self._gains = np.zeros((size, 2)), np.ones((size, 2))
        self._outside = np.full((len(rows), 2), np.nan, np.float32) if size < len(rows) else None
        self._affinities: Any = None

    @classmethod
    def resume(cls, rows: np.ndarray, view: View, state: bytes, *, memory_budget_bytes: int, folder: Path) -> Layout:
        """Continue from `state` with the same rows (n, dim) and view; raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, rows.shape)
        self = cls(
            rows,
            view,
            seed=scalars["seed"],
            memory_budget_bytes=memory_budget_bytes,
            folder=folder,
            largest=scalars["largest"],
        )
        self._phase, self._position, self._iteration = scalars["phase"], scalars["position"], scalars["iteration"]
        found = len(arrays["indices"])
        self._indices[:found], self._cosines[:found] = arrays["indices"], arrays["cosines"]
        self._places, self._update, self._gains = arrays["places"], arrays["update"], arrays["gains"]
        if self._outside is not None:
            self._outside = arrays["outside"]
        return self

    def state(self) -> bytes:
        scalars = {
            "shape": [self._all.n, self._all.dim],
            "seed": self._seed,
            "largest": self._largest,
            "phase": self._phase,
            "position": self._position,
            "iteration": self._iteration,
        }
        found = self._position if self._phase == "neighbors" else len(self._indices)
        if self._phase in ("place", "done"):
            # all that neighbors were needed for is done
            found = 0
        arrays = {
            "indices": self._indices[:found],
            "cosines": self._cosines[:found],
            "places": self._places,
            "update": self._update,
            "gains": self._gains,
        }
        if self._outside is not None:
            arrays["outside"] = self._outside
        return stepper.packed(scalars, arrays)

    @property
    def finished(self) -> bool:
        return self._phase == "done"

    @property
    def fraction(self) -> float:
        size = len(self._sample)
        if self._phase in ("few", "neighbors"):
            return NEIGHBOR_SHARE * self._position / size
        if self._phase in PHASES:
            done = self._iteration + (PHASES["early"][0] if self._phase == "late" else 0)
            return NEIGHBOR_SHARE + (0.99 - NEIGHBOR_SHARE) * done / ITERATIONS
        return 1.0 if self.finished else 0.99 + 0.01 * self._position / self._all.n

    def result(self) -> np.ndarray:
        """Return x and y of each row (n, 2) float32 in 0..1; raises JobError before `advance` has returned True.

        Both axes have the same scale; the longer one fills 0..1, the other is centered.
        """
        if not self.finished:
            raise errors.JobError("The map is not finished.")
        places = self._places if self._outside is None else self._outside
        return framed(places)

    def _step(self) -> None:
        if not self._all.ready() or not self._rows.ready():
            return
        match self._phase:
            case "few":
                self._places = components(self._rows)
                self._after_layout()
            case "neighbors":
                self._find_neighbors()
            case "place":
                self._place()
            case _:
                self._optimize()

    def _find_neighbors(self) -> None:
        span = self._rows.spans(nearest.QUERY_ROWS, self._position)[0]
        own = np.arange(span.start, span.stop)
        found = nearest.nearest(self._rows, self._rows.take(own), self._neighbors, own)
        self._indices[span], self._cosines[span] = found
        self._position = span.stop
        if self._position == self._rows.n:
            start = components(self._rows)
            self._places = start * (START_SCALE / max(float(start[:, 0].std()), 1e-30))
            self._phase = "early"

    def _optimize(self) -> None:
        from openTSNE.tsne import gradient_descent, kl_divergence_bh, kl_divergence_fft

        iterations, exaggeration, momentum = PHASES[self._phase]
        size = len(self._places)
        if self._affinities is None:
            self._affinities = affinities(self._indices, self._cosines) * exaggeration
        descent: Any = gradient_descent()
        descent.update, descent.gains = self._update, self._gains
        steps = max(LEAST_STEP_ITERATIONS, min(STEP_ITERATIONS, STEP_POINTS // size))
        steps = min(steps, iterations - self._iteration)
        places = _Places(self._places)
        descent(
            places,
            self._affinities,
            steps,
            kl_divergence_fft if size >= GRID_FROM else kl_divergence_bh,
            # Belkina et al. 2019
            learning_rate=size / exaggeration,
            momentum=momentum,
            # its threads wait for each other in every iteration, and more of them change the last digits
            n_jobs=1,
        )
        self._places = np.asarray(places)
        self._update, self._gains = descent.update, descent.gains
        self._iteration += steps
        if self._iteration == iterations:
            self._iteration, self._affinities = 0, None
            if self._phase == "early":
                self._phase = "late"
            else:
                self._after_layout()

    def _after_layout(self) -> None:
        self._position = 0
        self._phase = "done" if self._outside is None else "place"

    def _place(self) -> None:
        assert self._outside is not None
        span = self._all.spans(nearest.QUERY_ROWS, self._position)[0]
        count = min(PLACED_BY, self._rows.n)
        queries = self._all.take(np.arange(span.start, span.stop))
        found, _ = nearest.nearest(self._rows, queries, count, None)
        self._outside[span] = np.median(self._places[found], axis=1)
        inside = (self._sample >= span.start) & (self._sample < span.stop)
        self._outside[self._sample[inside]] = self._places[inside]
        self._position = span.stop
        if self._position == self._all.n:
            self._phase = "done"


class _Places(np.ndarray):
    """Coordinates (n, 2) with the attributes that openTSNE expects of its own arrays."""

    def __new__(cls, places: np.ndarray) -> _Places:
        made = np.array(places, np.float64).view(cls)
        return made

    interp_coeffs = None
    box_x_lower_bounds = None


def spread(n: int, largest: int, seed: int) -> np.ndarray:
    """Return the ascending indices (m,) of at most `largest` rows, a random one out of each of m equal stretches."""
    if n <= largest:
        return np.arange(n)
    edges = np.linspace(0, n, largest + 1)
    return (edges[:-1] + seeding.generator(seed).random(largest) * np.diff(edges)).astype(np.int64)


def components(rows: ViewedRows) -> np.ndarray:
    """Return the first two principal components (n, 2) float64 of rows; their largest loadings are positive."""
    n, dim = rows.n, rows.dim
    sample = rows.take(spread(n, COMPONENT_ROWS, 0))
    mean = sample.mean(0, dtype=torch.float64).float()
    sample -= mean
    _, axes = torch.linalg.eigh((sample.T @ sample).double())
    axes = axes.flip(1)[:, :2]
    axes = axes * torch.sign(axes.gather(0, axes.abs().argmax(0, keepdim=True)))
    found = np.zeros((n, 2))
    for span in rows.spans(nearest.ROWS):
        found[span, : min(2, dim)] = (rows.tensor(span) - mean).numpy().astype(np.float64) @ axes.numpy()
        rows.release()
    return found


def affinities(indices: np.ndarray, cosines: np.ndarray) -> Any:
    """Return t-SNE's sparse joint probabilities (n, n) from the nearest rows of each row and their cosines."""
    from openTSNE.affinity import PerplexityBasedNN
    from openTSNE.nearest_neighbors import PrecomputedNeighbors

    # of vectors of length 1
    distances = np.sqrt(np.maximum(2 - 2 * cosines.astype(np.float64), 0))
    index = PrecomputedNeighbors(indices, distances)
    with warnings.catch_warnings():
        # it says that few rows have few neighbors
        warnings.simplefilter("ignore")
        return PerplexityBasedNN(perplexity=min(PERPLEXITY, indices.shape[1] / 3), knn_index=index).P


def framed(places: np.ndarray) -> np.ndarray:
    """Return coordinates (n, 2) moved and scaled into 0..1, the same scale on both axes."""
    low, high = places.min(0, initial=np.inf), places.max(0, initial=-np.inf)
    extent = float((high - low).max())
    if extent <= 0:
        return np.full(places.shape, 0.5, np.float32)
    return ((places - (low + high) / 2) / extent + 0.5).clip(0, 1).astype(np.float32)
