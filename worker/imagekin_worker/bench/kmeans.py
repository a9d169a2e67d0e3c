"""K-means: an iteration over the bare product of its shape, and whole runs against kmeans-pytorch."""

from __future__ import annotations

import importlib
import itertools
import statistics
import time
from typing import Any

import numpy as np
import torch

from imagekin import errors
from imagekin_worker.bench import timing
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.search import rows_like_embeddings
from imagekin_worker.bench.workbench import SEED, Workbench
from imagekin_worker.kmeans import pytorch_package
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options, Rows

DIM = 1280
GPU_CLUSTERS = 1000
LATENT_DIM = 32
STARTS = 8
MOST_INERTIA = 1.01


def against_product(bench: Workbench) -> Figure:
    """Measure the seconds of an iteration over those of the matrix product of all rows with all centers."""
    n_clusters = GPU_CLUSTERS if bench.on_gpu else bench.sizes.kmeans_clusters
    # without groups, so that no run comes to its end before its last iteration
    rows = rows_like_embeddings(bench.sizes.kmeans_rows, DIM)
    resident = torch.from_numpy(rows).to(bench.device)
    centers = resident[:n_clusters].T.contiguous()

    def product() -> None:
        torch.mm(resident, centers)
        if bench.on_gpu:
            torch.cuda.synchronize()

    product()
    count = bench.sizes.iterations
    found = timing.in_turns(
        {
            "iteration": lambda: statistics.median(_iterations_s(rows, n_clusters, count, bench.device)),
            "product": lambda: statistics.median(timing.seconds(product) for _ in range(count)),
        },
        bench.sizes.repetitions,
    )
    iteration = found["iteration"]
    limit = f"the product; {1 - found['product'] / iteration:.0%} goes into labels, sums and costs"
    details = {"rows": len(rows), "dim": DIM, "n_clusters": n_clusters}
    return Figure(1000 * iteration, 1000 * found["product"], "ms", iteration / found["product"], limit, details)


def against_package(bench: Workbench) -> Figure:
    """Measure a whole run against kmeans-pytorch's, both with one start, and the inertia against scikit-learn's.

    Raises NotMeasured without scikit-learn, or if kmeans-pytorch did not finish.
    """
    n_clusters = bench.sizes.peer_clusters
    rows = rows_in_groups(bench.sizes.peer_rows, n_clusters)
    try:
        found = timing.in_turns(
            {
                "ours": lambda: timing.seconds(lambda: ours(rows, n_clusters, 1, bench.device)),
                "theirs": lambda: timing.seconds(lambda: package(rows, n_clusters, bench.device)),
            },
            bench.sizes.repetitions,
        )
    except errors.JobError as error:
        raise NotMeasured(f"kmeans-pytorch: {error.detail}") from error
    best, reference = ours(rows, n_clusters, STARTS, bench.device), sklearn_inertia(rows, n_clusters)
    share = best / reference
    limit = f"k-means++ seeding; inertia {share:.4f} of scikit-learn's, both the best of {STARTS} starts"
    return Figure(
        found["ours"],
        found["theirs"],
        "s",
        found["theirs"] / found["ours"],
        limit,
        {"rows": len(rows), "dim": DIM, "n_clusters": n_clusters, "inertia_over_sklearn": round(share, 5)},
        None if share <= MOST_INERTIA else f"inertia {share:.3f} times scikit-learn's",
    )


def rows_in_groups(count: int, groups: int) -> np.ndarray:
    """Draw rows (count, DIM) float32 in overlapping groups, none negative, as a CNN's embeddings of an archive are."""
    random = np.random.default_rng(SEED)
    middles = random.standard_normal((groups, LATENT_DIM), dtype=np.float32)
    spread = random.standard_normal((count, LATENT_DIM), dtype=np.float32)
    latent = middles[random.integers(0, groups, count)] + 0.7 * spread
    rows = latent @ random.standard_normal((LATENT_DIM, DIM), dtype=np.float32) / np.float32(np.sqrt(LATENT_DIM))
    rows += 0.3 * random.standard_normal(rows.shape, dtype=np.float32)
    return np.maximum(rows, 0, out=rows)


def ours(rows: np.ndarray, n_clusters: int, n_init: int, device: str) -> float:
    """Cluster rows (n, dim) with imagekin and return the inertia."""
    work = KMeans(rows, n_clusters, Options(n_init=n_init, device=device))
    work.advance()
    return work.result().inertia


def package(rows: np.ndarray, n_clusters: int, device: str) -> float:
    """Cluster rows (n, dim) with kmeans-pytorch behind its guard and return the inertia; raises JobError."""
    return pytorch_package.run(rows, n_clusters, Options(n_init=1, device=device)).inertia


def sklearn_inertia(rows: np.ndarray, n_clusters: int) -> float:
    """Cluster rows (n, dim) with scikit-learn and return the inertia. Raises NotMeasured without it."""
    try:
        cluster: Any = importlib.import_module("sklearn.cluster")
    except ImportError as error:
        raise NotMeasured('scikit-learn is not installed: pip install "imagekin[benchmarks]"') from error
    return float(cluster.KMeans(n_clusters, n_init=STARTS, random_state=SEED).fit(rows).inertia_)


def _iterations_s(rows: np.ndarray, n_clusters: int, count: int, device: str) -> list[float]:
    """Time each of `count` iterations but the last, whose end cannot be seen. Raises NotMeasured for fewer."""
    options = Options(n_init=1, tolerance=0, max_iterations=count, device=device)
    work = KMeans(rows, n_clusters, options)
    blocks = len(list(Rows(rows, device).blocks(n_clusters)))
    marks: list[float] = []

    def mark() -> bool:
        """Note the time after seeding and after each block."""
        if work.phase == "iterate":
            marks.append(time.perf_counter())
        return False

    work.advance(mark)
    if work.result().iterations != count:
        raise NotMeasured(f"the rows were clustered after {work.result().iterations} iterations, before {count}")
    return [after - before for before, after in itertools.pairwise(marks[::blocks])]
