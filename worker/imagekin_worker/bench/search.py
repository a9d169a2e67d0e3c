"""Exact search over the resident matrix, against faiss's flat index of inner products."""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch

from imagekin_worker.bench import timing
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import SEED, Workbench
from imagekin_worker.matrix.neighbors import Matrix

DIM = 1280
TOP_K = 10
AT_ONCE = 64


def one(bench: Workbench) -> Figure:
    """Measure one query."""
    return _figure(bench, 1)


def many(bench: Workbench) -> Figure:
    """Measure many queries at once."""
    return _figure(bench, AT_ONCE)


def rows_like_embeddings(count: int, dim: int, seed: int = SEED) -> np.ndarray:
    """Draw rows (count, dim) float32 of length 1, none negative, as a CNN's pooled activations are."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((count, dim), dtype=np.float32)
    np.maximum(rows, 0, out=rows)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    return rows


def filled(rows: np.ndarray) -> Matrix:
    """Put rows (n, dim) into a matrix as a worker has it resident."""
    matrix = Matrix(rows.shape[1], capacity=len(rows))
    names = [f"{number:08}" for number in range(len(rows))]
    matrix.upsert(names, rows)
    return matrix


def faiss_library() -> Any:
    """Import faiss and give it as many threads as torch has. Raises NotMeasured without it."""
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError as error:
        raise NotMeasured('faiss is not installed: pip install "imagekin[benchmarks]"') from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    return faiss


def faiss_index(rows: np.ndarray) -> Any:
    """Put rows (n, dim) into faiss's exact index. Raises NotMeasured without faiss."""
    index = faiss_library().IndexFlatIP(rows.shape[1])
    index.add(rows)
    return index


@contextmanager
def faiss_products() -> Iterator[None]:
    """Have faiss compute matrix products in the block, from one query on.

    By itself it does so past a number of queries that was 20 for years and is 128,000 in faiss 1.15: then 64 queries
    cost as much as 64 searches, and the comparison would flatter.
    """
    variables = faiss_library().cvar
    before = variables.distance_compute_blas_threshold
    variables.distance_compute_blas_threshold = 1
    try:
        yield
    finally:
        variables.distance_compute_blas_threshold = before


def faiss_search(index: Any, queries: np.ndarray, *, products: bool) -> np.ndarray:
    """Search in one of faiss's two ways; return the places (q, k) of the best of each query (q, dim)."""
    with faiss_products() if products else nullcontext():
        return index.search(queries, TOP_K)[1]


def _figure(bench: Workbench, count: int) -> Figure:
    rows, matrix, index = bench.once("search", lambda: _prepared(bench))
    queries = rows_like_embeddings(count, DIM, SEED + 1)
    ours, answers = matrix.search(queries, TOP_K), faiss_search(index, queries, products=True)
    agreement = np.mean([
        len({neighbor.id for neighbor in found} & {f"{row:08}" for row in answer}) / TOP_K
        for found, answer in zip(ours, answers, strict=True)
    ])  # fmt: skip
    works = {
        "imagekin": lambda: timing.seconds(lambda: matrix.search(queries, TOP_K)),
        "faiss, products": lambda: timing.seconds(lambda: faiss_search(index, queries, products=True)),
        "one core's sum": lambda: timing.seconds(lambda: float(rows.sum())),
    }
    if count == 1:
        works["faiss"] = lambda: timing.seconds(lambda: faiss_search(index, queries, products=False))
    found = timing.in_turns(works, bench.sizes.search_repeats)
    own, theirs = found["imagekin"], min(found["faiss, products"], found.get("faiss", math.inf))
    if count == 1:
        speeds = [rows.nbytes / found[name] / 1e9 for name in ("imagekin", "one core's sum")]
        limit = f"memory: {speeds[0]:.1f} GB/s are read (one core adding up all numbers reads {speeds[1]:.1f})"
    else:
        limit = f"the matrix product: {2 * rows.size * count / own / 1e9:.0f} GFLOP/s with picking the best"
    details = {"rows": len(rows), "queries": count, "top_k": TOP_K, "agreement": round(float(agreement), 4)}
    details |= {f"{name}_ms": round(1000 * seconds, 2) for name, seconds in found.items()}
    return Figure(1000 * own, 1000 * theirs, "ms", theirs / own, limit, details)


def _prepared(bench: Workbench) -> tuple[np.ndarray, Matrix, Any]:
    rows = rows_like_embeddings(bench.sizes.search_rows, DIM)
    return rows, filled(rows), faiss_index(rows)
