"""How many clusters a collection has: the number at which the silhouette (Rousseeuw 1987) peaks.

The curve is mostly flat, so its peak is a suggestion, and all scores are part of the answer. K-means and silhouettes
are computed on a random sample, with the metric of the clustering.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from imagekin import errors
from imagekin.enums import Metric
from imagekin_worker.analysis import stepper
from imagekin_worker.analysis.blocks import Blocks
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.kmeans import measure, seeding
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options

# Below this there is nothing to choose.
LEAST_ROWS = 3
DEFAULT_SEED = 100
DEFAULT_MAX_CLUSTERS = 50
# Rows that are clustered, and of these the ones whose silhouettes count.
CLUSTERED_ROWS, SCORED_ROWS = 4000, 2000
N_INIT = 4
MAX_ITERATIONS = 50
# Every number of clusters up to this one is tried, then steps of a twentieth.
ALL_UP_TO = 60
STEP = 1.05


@dataclass(frozen=True)
class Granularity:
    """The number of clusters with the highest silhouette (on a tie, the smallest), and (number, silhouette) of each."""

    n_clusters: int
    scores: list[tuple[int, float]]


class GranularitySearch(Stepper):
    """Tries numbers of clusters from 2 to `max_clusters` on rows (n, dim) as k-means takes them.

    `max_clusters` is cut to the number of distinct rows, and to n - 1. Raises InvalidRequest if there are fewer than 3
    rows or it is below 2. Memory: about 4,000 rows and 16 MB, for any number of rows.
    """

    def __init__(
        self,
        rows: np.ndarray,
        metric: Metric | str,
        *,
        max_clusters: int = DEFAULT_MAX_CLUSTERS,
        seed: int = DEFAULT_SEED,
    ) -> None:
        if len(rows) < LEAST_ROWS or max_clusters < 2:
            raise errors.InvalidRequest("To choose a number of clusters, at least 3 images and 2 clusters are needed.")
        self._shape, self._metric, self._seed, self._most = rows.shape, Metric(metric), seed, max_clusters
        random = seeding.generator(seed)
        sample = np.arange(len(rows))
        if len(rows) > CLUSTERED_ROWS:
            sample = np.sort(random.choice(len(rows), CLUSTERED_ROWS, replace=False))
        self._rows = Blocks(rows).take(sample)
        scored = np.arange(len(sample))
        if len(sample) > SCORED_ROWS:
            scored = np.sort(random.choice(len(sample), SCORED_ROWS, replace=False))
        self._scored = scored
        self._distances: np.ndarray | None = None
        # k-means cannot tell equal rows apart
        distinct = len({row.tobytes() for row in self._rows})
        self.numbers = tried(max(2, min(max_clusters, distinct, len(sample) - 1)))
        self._scores: list[float] = []
        # of the number that is being tried
        self._kmeans: KMeans | None = None

    @classmethod
    def resume(cls, rows: np.ndarray, state: bytes) -> GranularitySearch:
        """Continue from `state` with the same rows (n, dim); raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, rows.shape)
        self = cls(rows, scalars["metric"], max_clusters=scalars["max_clusters"], seed=scalars["seed"])
        self._scores = scalars["scores"]
        if len(arrays["kmeans"]):
            self._kmeans = KMeans.resume(self._rows, arrays["kmeans"].tobytes())
        return self

    def state(self) -> bytes:
        scalars = {
            "shape": list(self._shape),
            "metric": self._metric,
            "max_clusters": self._most,
            "seed": self._seed,
            "scores": self._scores,
        }
        kmeans = b"" if self._kmeans is None else self._kmeans.state()
        return stepper.packed(scalars, {"kmeans": np.frombuffer(kmeans, np.uint8)})

    @property
    def finished(self) -> bool:
        return len(self._scores) == len(self.numbers)

    @property
    def fraction(self) -> float:
        # the work grows with the number of clusters
        done = float(sum(self.numbers[: len(self._scores)]))
        if self._kmeans is not None:
            done += self.numbers[len(self._scores)] * self._kmeans.progress
        return done / sum(self.numbers)

    def result(self) -> Granularity:
        """Return the number found; raises JobError before `advance` has returned True."""
        if not self.finished:
            raise errors.JobError("The number of clusters is not found yet.")
        best = self.numbers[int(np.argmax(np.round(self._scores, 9)))]
        return Granularity(best, list(zip(self.numbers, self._scores, strict=True)))

    def _step(self) -> None:
        if self._distances is None:
            self._distances = distances(self._rows[self._scored], self._metric)
        if self._kmeans is None:
            options = Options(metric=self._metric, seed=self._seed, n_init=N_INIT, max_iterations=MAX_ITERATIONS)
            self._kmeans = KMeans(self._rows, self.numbers[len(self._scores)], options)
        if self._kmeans.advance(until=lambda: True):
            self._scores.append(silhouette(self._distances, self._kmeans.result().labels[self._scored]))
            self._kmeans = None


def tried(most: int) -> list[int]:
    """Return the numbers of clusters to try, from 2 to `most`."""
    found = list(range(2, min(most, ALL_UP_TO) + 1))
    while found[-1] < most:
        found.append(min(most, int(found[-1] * STEP)))
    return found


def distances(rows: np.ndarray, metric: Metric) -> np.ndarray:
    """Return the distances (m, m) between rows (m, dim), euclidean or 1 - cosine."""
    some = torch.from_numpy(rows)
    if metric is Metric.EUCLIDEAN:
        return seeding.distances(some).clamp_(min=0).sqrt_().numpy()
    some = measure.unit(some)
    return (1 - some @ some.T).clamp_(min=0).fill_diagonal_(0).numpy()


def silhouette(distances: np.ndarray, labels: np.ndarray) -> float:
    """Return the mean silhouette of rows by their distances (m, m) and labels (m,), 0 for a single cluster.

    A row alone in its cluster counts 0, as in scikit-learn.
    """
    _, labels, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    if len(sizes) < 2:
        return 0.0
    members = np.zeros((len(labels), len(sizes)), np.float32)
    members[np.arange(len(labels)), labels] = 1
    sums = (distances @ members).astype(np.float64)
    own = sums[np.arange(len(labels)), labels] / np.maximum(sizes[labels] - 1, 1)
    means = sums / sizes
    means[np.arange(len(labels)), labels] = np.inf
    other = means.min(1)
    larger = np.maximum(own, other)
    found = np.divide(other - own, larger, out=np.zeros_like(own), where=larger > 0)
    return float(np.where(sizes[labels] > 1, found, 0).mean())
