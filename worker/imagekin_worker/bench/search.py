"""Exact search over the resident matrix, against faiss's flat index of inner products."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np
import torch

from imagekin_worker.bench import timing
from imagekin_worker.bench.report import Figure, NotMeasured
from imagekin_worker.bench.workbench import SEED, Workbench
from imagekin_worker.neighbors import Matrix

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
    """Put rows into a matrix as a worker has it resident."""
    matrix = Matrix(rows.shape[1], capacity=len(rows))
    names = [f"{number:08}" for number in range(len(rows))]
    matrix.upsert(names, names, rows)
    return matrix


def faiss_index(rows: np.ndarray) -> Any:
    """Put rows into faiss's exact index, on as many threads as torch has. Raises NotMeasured without faiss."""
    try:
        faiss: Any = importlib.import_module("faiss")
    except ImportError as error:
        raise NotMeasured('faiss is not installed: pip install "imagekin[benchmarks]"') from error
    faiss.omp_set_num_threads(torch.get_num_threads())
    index = faiss.IndexFlatIP(rows.shape[1])
    index.add(rows)
    return index


def _figure(bench: Workbench, count: int) -> Figure:
    rows, matrix, index = bench.once("search", lambda: _prepared(bench))
    queries = rows_like_embeddings(count, DIM, SEED + 1)
    ours, theirs = matrix.search(queries, TOP_K), index.search(queries, TOP_K)[1]
    agreement = np.mean([
        len({neighbor.id for neighbor in found} & {f"{row:08}" for row in answer}) / TOP_K
        for found, answer in zip(ours, theirs, strict=True)
    ])  # fmt: skip
    found = timing.in_turns(
        {
            "ours": lambda: timing.seconds(lambda: matrix.search(queries, TOP_K)),
            "faiss": lambda: timing.seconds(lambda: index.search(queries, TOP_K)),
            "sum": lambda: timing.seconds(lambda: float(rows.sum())),
        },
        bench.sizes.search_repeats,
    )
    if count == 1:
        speeds = [rows.nbytes / found[name] / 1e9 for name in ("ours", "sum")]
        limit = f"memory: {speeds[0]:.1f} GB/s are read (one core adding up all numbers reads {speeds[1]:.1f})"
    else:
        limit = f"the matrix product: {2 * rows.size * count / found['ours'] / 1e9:.0f} GFLOP/s with picking the best"
    details = {"rows": len(rows), "queries": count, "top_k": TOP_K, "agreement": round(float(agreement), 4)}
    ratio = found["faiss"] / found["ours"]
    return Figure(1000 * found["ours"], 1000 * found["faiss"], "ms", ratio, limit, details)


def _prepared(bench: Workbench) -> tuple[np.ndarray, Matrix, Any]:
    rows = rows_like_embeddings(bench.sizes.search_rows, DIM)
    return rows, filled(rows), faiss_index(rows)
