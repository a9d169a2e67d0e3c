"""The original class's k-means, algorithm `kmeans-pytorch`: the package kmeans_pytorch behind a guard.

The package (0.3) compares all rows with all centers in one allocation, loops forever once a cluster is empty, has
neither seed nor limit, and prints. Here it is refused past a memory budget, stopped on NaN and past a limit, seeded and
silent. The default algorithm, `kmeans`, does not have these problems.
"""

from __future__ import annotations

import importlib.util
import math
import threading
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import torch

from imagekin import errors
from imagekin.enums import Metric
from imagekin_worker.kmeans import measure

MEMORY_BUDGET_BYTES = 2 << 30
DEFAULT_MAX_ITERATIONS = 500

# Each run may take the whole budget, so one at a time.
_turn = threading.Lock()


class Stopped(errors.JobError):
    """The clustering was stopped before it was done."""


class Diverged(errors.NotConverged):
    """kmeans-pytorch did not finish: a cluster lost its images (duplicates can cause this); use algorithm=kmeans."""


def run(
    rows: np.ndarray,
    n_clusters: int,
    options: measure.Options = measure.AS_USUAL,
    *,
    progress: Callable[[float], None] = lambda _: None,
    should_stop: Callable[[], bool] = lambda: False,
) -> measure.Clustering:
    """Cluster float32 rows (n, dim) as the original class did, start i with numpy's seed `seed` + i; best by inertia.

    `progress` gets the share done, 0 to 1; `should_stop` is asked at every iteration.
    Raises InvalidRequest past the memory budget, Diverged if no start finished, Stopped if told to stop.
    """
    metric, source = Metric(options.metric), measure.Rows(rows, options.device)
    measure.check_n_clusters(n_clusters, source.n)
    check_memory(source.n, n_clusters, source.dim, metric, options.memory_budget_bytes or MEMORY_BUDGET_BYTES)
    n_init, max_iterations = options.starts(source.n), options.max_iterations or DEFAULT_MAX_ITERATIONS
    best: measure.Clustering | None = None
    failure: Diverged | None = None
    with _turn:
        for start in range(n_init):

            def watch(iteration: int, start: int = start) -> None:
                if should_stop():
                    raise Stopped
                progress((start + iteration / (iteration + 10)) / n_init)

            try:
                found = _start(source, n_clusters, metric, options.seed + start, _Meter(max_iterations, watch))
            except Diverged as diverged:
                failure = diverged
                continue
            if best is None or found.inertia < best.inertia:
                best = found
    if best is None:
        assert failure is not None
        raise failure
    progress(1.0)
    return best


def check_memory(n: int, n_clusters: int, dim: int, metric: Metric, budget_bytes: int = MEMORY_BUDGET_BYTES) -> None:
    """Raise InvalidRequest if kmeans_pytorch would allocate more: n * n_clusters * dim floats, euclidean twice."""
    arrays = 1 if metric is Metric.COSINE else 2
    needed_bytes = 4 * n * n_clusters * dim * arrays
    if needed_bytes > budget_bytes:
        raise errors.InvalidRequest(
            f"kmeans-pytorch would need {needed_bytes / 2**30:.1f} GiB for {n} images x {n_clusters} clusters x {dim} "
            f"dimensions; the limit is {budget_bytes / 2**30:.1f} GiB. Use algorithm=kmeans, which needs far less."
        )


def _start(source: measure.Rows, n_clusters: int, metric: Metric, seed: int, meter: _Meter) -> measure.Clustering:
    rows = source[slice(0, source.n)]
    if n_clusters == 1:
        # The package squeezes the one column of distances away and then fails on it; the answer is the mean.
        centers, iterations = rows.mean(0, keepdim=True, dtype=torch.float64).float(), 1
    else:
        package = _private_package(meter, seed)
        _, centers = package.kmeans(X=rows, num_clusters=n_clusters, distance=metric.value, device=source.device)
        iterations = meter.iteration
    found = centers.cpu().numpy()
    return measure.conclude(source, metric, found, measure.measure(source, found, metric), iterations)


def _private_package(meter: _Meter, seed: int) -> ModuleType:
    """Return a private copy of kmeans_pytorch, so that replacing parts of it changes nothing elsewhere.

    It draws its first centers as the package does from numpy's global generator, which the class seeded, but from a
    generator of our own. Its `print` does nothing.
    """
    spec = importlib.util.find_spec("kmeans_pytorch")
    if spec is None or spec.loader is None:
        raise errors.JobError("The package kmeans-pytorch is not installed on this worker; use algorithm=kmeans.")
    package: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(package)
    random = np.random.RandomState(seed % 2**32)

    def initialize(rows: torch.Tensor, n_clusters: int) -> torch.Tensor:
        return rows[random.choice(len(rows), n_clusters, replace=False)]

    package.initialize = initialize
    package.tqdm = meter
    package.print = lambda *_, **__: None
    return package


class _Meter:
    """Replaces tqdm: it sees every iteration, and raising is the only way out of the package's loop."""

    def __init__(self, max_iterations: int, watch: Callable[[int], None]) -> None:
        self.iteration = 0
        self._max_iterations = max_iterations
        self._watch = watch

    def __call__(self, **_: Any) -> _Meter:
        return self

    def set_postfix(self, *, center_shift: str, **_: str) -> None:
        if not math.isfinite(float(center_shift)):
            raise Diverged

    def update(self) -> None:
        self.iteration += 1
        self._watch(self.iteration)
        if self.iteration >= self._max_iterations:
            raise Diverged(
                f"kmeans-pytorch did not finish within {self._max_iterations} iterations; use algorithm=kmeans."
            )
