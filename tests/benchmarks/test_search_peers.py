"""Exact search: imagekin, faiss, scikit-learn, and the original class's loop."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from peers import MARKS, Table

from imagekin_worker.bench import original, search, timing
from imagekin_worker.bench.workbench import Workbench

pytestmark = MARKS

QUERIES = (1, 64)
# What the class's loop takes is in proportion to these.
LOOPED = 2_000


Ways = dict[str, Callable[[np.ndarray], list[set[int]]]]


def test_search(bench: Workbench) -> None:
    rows = search.rows_like_embeddings(bench.sizes.search_rows, search.DIM)
    ways = ways_over(rows)
    table = Table(f"{len(rows):,} x {search.DIM}, top {search.TOP_K}", "way", "queries", "ms", "over imagekin's time")
    for count in QUERIES:
        queries = search.rows_like_embeddings(count, search.DIM, seed=1)
        answers = {name: way(queries) for name, way in ways.items()}
        for name, answer in answers.items():
            shared = np.mean([len(one & other) for one, other in zip(answer, answers["imagekin"], strict=True)])
            assert shared >= search.TOP_K - 0.1, name
        works = {name: partial(timing.seconds, partial(way, queries)) for name, way in ways.items()}
        seconds = timing.in_turns(works, bench.sizes.search_repeats)
        for name, each in seconds.items():
            table.add(name, count, 1000 * each, each / seconds["imagekin"])
        if count == 1:
            each = timing.seconds(partial(class_loop, rows[:LOOPED], queries)) * len(rows) / LOOPED
            name = f"the original class ({LOOPED:,} rows, in proportion)"
            table.add(name, count, 1000 * each, each / seconds["imagekin"])
    table.show()


def ways_over(rows: np.ndarray) -> Ways:
    """Give each way to search among the rows: queries (q, dim) in, the places of the best of each out."""
    neighbors: Any = importlib.import_module("sklearn.neighbors")
    matrix, index = search.filled(rows), search.faiss_index(rows)
    brute = neighbors.NearestNeighbors(n_neighbors=search.TOP_K, metric="cosine", algorithm="brute").fit(rows)
    return {
        "imagekin": lambda queries: [{int(each.id) for each in one} for one in matrix.search(queries, search.TOP_K)],
        "faiss IndexFlatIP": lambda queries: faiss(index, queries),
        "scikit-learn, brute force": lambda queries: [set(one) for one in brute.kneighbors(queries)[1].tolist()],
    }


def faiss(index: Any, queries: np.ndarray) -> list[set[int]]:
    """Search in the way of faiss that suits the number of queries."""
    return [set(one) for one in search.faiss_search(index, queries, products=len(queries) > 1).tolist()]


def class_loop(rows: np.ndarray, query: np.ndarray) -> dict[str, float]:
    """Search as the class does, over vectors that it did not have to make."""
    peer = original.Original("resnet50", torch.nn.Identity(), torch.as_tensor, "cpu")
    peer.dataset = {str(number): torch.from_numpy(row[None]) for number, row in enumerate(rows)}
    return peer.similar_to(torch.from_numpy(query), search.TOP_K)
