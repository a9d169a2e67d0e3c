"""K-means: imagekin, faiss, scikit-learn, and kmeans-pytorch on as many rows as it can take."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from peers import MARKS, Table

from imagekin_worker.bench import kmeans, search, timing
from imagekin_worker.bench.workbench import SEED, Workbench

pytestmark = MARKS

ROWS, CLUSTERS = 8_000, 100
FAISS_ITERATIONS = 20
MOST_INERTIA = 1.05


def test_clustering(bench: Workbench) -> None:
    faiss: Any = pytest.importorskip("faiss", reason="pip install 'imagekin[benchmarks]'")
    cluster: Any = importlib.import_module("sklearn.cluster")

    def with_faiss(rows: np.ndarray, n_clusters: int) -> float:
        work = faiss.Kmeans(rows.shape[1], n_clusters, niter=FAISS_ITERATIONS, seed=SEED,
                            max_points_per_centroid=len(rows))  # fmt: skip
        with search.faiss_products():
            work.train(rows)
            return float(work.index.search(rows, 1)[0].sum())

    ways: dict[str, Callable[[np.ndarray, int], float]] = {
        "imagekin": lambda rows, n: kmeans.ours(rows, n, 1, "cpu"),
        f"faiss, {FAISS_ITERATIONS} iterations": with_faiss,
        "scikit-learn": lambda rows, n: cluster.KMeans(n, n_init=1, random_state=SEED).fit(rows).inertia_,
        "kmeans-pytorch": lambda rows, n: kmeans.package(rows, n, "cpu"),
    }
    table = Table("one start each", "way", "rows", "k", "s", "over imagekin's time", "inertia over imagekin's")
    small = (bench.sizes.peer_rows, bench.sizes.peer_clusters)
    for count, n_clusters in ((ROWS, CLUSTERS), small):
        rows = kmeans.rows_in_groups(count, n_clusters)
        inertias: dict[str, float] = {}

        def run(name: str, rows: np.ndarray = rows, n: int = n_clusters, into: dict = inertias) -> float:
            return timing.seconds(lambda: into.update({name: ways[name](rows, n)}))

        # kmeans-pytorch allocates rows x k x dim numbers
        names = [name for name in ways if name != "kmeans-pytorch" or (count, n_clusters) == small]
        seconds = timing.in_turns({name: lambda name=name: run(name) for name in names}, bench.sizes.repetitions)
        for name in names:
            share = inertias[name] / inertias["imagekin"]
            table.add(name, count, n_clusters, seconds[name], seconds[name] / seconds["imagekin"], f"{share:.4f}")
            assert 1 / share <= MOST_INERTIA, f"{name} found much better clusters"
    table.show()
