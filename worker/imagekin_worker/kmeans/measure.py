"""What a clustering is, and how rows are compared with centers.

`measure` and `conclude` turn any centers into a `Clustering`; `assign` places later images. Rows are float32
(n, dim) and never copied as a whole on a CPU: every pass goes over blocks, one matrix product each.
"""

from __future__ import annotations

import hashlib
import math
import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from imagekin import errors
from imagekin.enums import Metric
from imagekin_worker.matrix import lengths

# Scores of one block of rows against all centers. More rows than the second number gain nothing on a CPU.
CPU_BLOCK_BYTES, CPU_BLOCK_ROWS = 32 << 20, 8192
CUDA_BLOCK_BYTES, CUDA_BLOCK_ROWS = 256 << 20, 65536
# Rows that are copied at a time into a sample: each may bring megabytes of its neighborhood into memory, as the system
# maps files in large pages where it can.
GATHERED_ROWS = 64
# Rows that are measured in float64 at a time.
MEASURED_ROWS = 1024


# A run takes about as long as its starts together: with many rows each one is dear, with few one alone is a lottery.
MANY_ROWS, STARTS = 50_000, 8


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to cluster, for both algorithms.

    `n_init` starts, None for `starts`; `max_iterations` of each, None for the algorithm's own limit. A start of
    `kmeans` ends when its centers move less than `tolerance`. Beyond `memory_budget_bytes` `kmeans` works in
    mini-batches and `kmeans-pytorch` refuses; None is the algorithm's own budget.
    """

    metric: Metric | str = Metric.EUCLIDEAN
    seed: int = 100
    n_init: int | None = None
    max_iterations: int | None = None
    tolerance: float = 1e-4
    memory_budget_bytes: int | None = None
    device: str | torch.device = "cpu"

    def starts(self, n: int) -> int:
        """Return how many starts `n` rows get. Raises InvalidRequest for fewer than one."""
        if self.n_init is not None and self.n_init < 1:
            raise errors.InvalidRequest("n_init must be at least 1.")
        return self.n_init or (STARTS if n < MANY_ROWS else 1)


AS_USUAL = Options()


@dataclass(frozen=True)
class Clustering:
    """What k-means found: labels ordered by size, largest 0 (ties: lowest first member), no cluster without a member.

    `centers` (k, dim) float32; `labels` (n,) int32; `distances` (n,) float32, euclidean or 1 - cosine to the row's own
    center; `sizes` (k,) int64; `medoids` (k,) int64, the row nearest to the center; `cohesion` (k,) float64, the mean
    cosine to the center; `inertia`, the sum of squared distances (euclidean) or of 1 - cosine (cosine).
    """

    metric: Metric
    centers: np.ndarray
    labels: np.ndarray
    distances: np.ndarray
    sizes: np.ndarray
    medoids: np.ndarray
    cohesion: np.ndarray
    inertia: float
    iterations: int

    @property
    def n_clusters(self) -> int:
        return len(self.centers)


class Placement(NamedTuple):
    """Where rows belong: `labels` (n,) int32, `distances` and `cosines` to the own center (n,) float64."""

    labels: np.ndarray
    distances: np.ndarray
    cosines: np.ndarray


class Rows:
    """Float32 rows (n, dim) read in blocks on a device: resident there if they fit in half of the free memory.

    Raises InvalidRequest for any other array. Read-only arrays and memory maps are fine; `release` keeps pages of a
    mapped file from counting as this process's memory.
    """

    def __init__(self, array: np.ndarray, device: str | torch.device = "cpu") -> None:
        if array.ndim != 2 or array.dtype != np.float32 or not array.flags.c_contiguous or not array.size:
            raise errors.InvalidRequest(
                f"Clustering needs a filled contiguous float32 array (n, dim), not {array.dtype} {array.shape}."
            )
        self.device = torch.device(device)
        self.n, self.dim = array.shape
        self.nbytes = array.nbytes
        self._mapping = _mapping(array)
        # Through DLPack because torch.from_numpy warns of read-only memory.
        self._tensor = torch.from_dlpack(np.asarray(array))
        if self.device.type == "cuda" and array.nbytes < torch.cuda.mem_get_info(self.device)[0] // 2:
            self._tensor = self._tensor.to(self.device)

    def __getitem__(self, block: slice) -> torch.Tensor:
        return self._tensor[block].to(self.device)

    def pick(self, index: torch.Tensor) -> torch.Tensor:
        """Return the rows at the given indices (m,), (m, dim)."""
        if self._mapping is not None:
            return torch.from_numpy(self.gather(index.cpu().numpy())).to(self.device)
        return self._tensor[index.to(self._tensor.device)].to(self.device)

    def gather(self, index: np.ndarray) -> np.ndarray:
        """Return a copy of the rows at the given indices (m, dim), in their order, read in the order of the file."""
        gathered = np.empty((len(index), self.dim), np.float32)
        order = np.argsort(index)
        for start in range(0, len(order), GATHERED_ROWS):
            places = order[start : start + GATHERED_ROWS]
            gathered[places] = self._tensor[torch.from_numpy(index[places])].cpu().numpy()
            self.release()
        return gathered

    def release(self) -> None:
        """Release the pages of a mapped file; the system keeps them cached while it has room."""
        if self._mapping is not None:
            self._mapping.madvise(mmap.MADV_DONTNEED)

    def block_rows(self, n_clusters: int) -> int:
        """Return how many rows one block holds when each is compared with `n_clusters` centers."""
        cuda = self.device.type == "cuda"
        budget, most = (CUDA_BLOCK_BYTES, CUDA_BLOCK_ROWS) if cuda else (CPU_BLOCK_BYTES, CPU_BLOCK_ROWS)
        return max(16, min(most, budget // (4 * n_clusters)))

    def blocks(self, n_clusters: int) -> Iterator[slice]:
        step = self.block_rows(n_clusters)
        return (slice(start, min(start + step, self.n)) for start in range(0, self.n, step))


def _mapping(array: np.ndarray) -> mmap.mmap | None:
    """Return the mapping of the file that the array's memory is, where letting its pages go cannot lose a change."""
    owner: object = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and owner.mode in ("r", "r+") and hasattr(mmap, "MADV_DONTNEED"):
            # numpy has no public name for it
            return getattr(owner, "_mmap", None)
        owner = owner.base
    return None


class Scorer:
    """Finds each row's nearest center with one matrix product a block.

    Euclidean: the centers are taken relative to a `shift` near the mean of all rows, so that the float32 product loses
    little when all rows lie far from the origin: |x - c|^2 = |x - s|^2 - 2 (x.(c - s) - s.(c - s) - |c - s|^2 / 2).
    `extent` (n,) holds |x - s|^2. Cosine: `extent` holds 1 / |x|, on which the nearest center does not depend.
    """

    def __init__(self, rows: Rows, metric: Metric, shift: torch.Tensor, extent: torch.Tensor) -> None:
        self.rows, self.metric, self.shift, self.extent = rows, metric, shift, extent
        self._factor = shift
        self._bias = shift

    @classmethod
    def prepare(cls, rows: Rows, metric: Metric, shift: torch.Tensor) -> Scorer:
        """Compute `extent` (n,) of all rows; raises InvalidRequest if a number or its square is not finite."""
        extent = torch.empty(rows.n, dtype=torch.float32, device=rows.device)
        for block in rows.blocks(1):
            extent[block] = torch.linalg.vector_norm(rows[block] - shift, dim=1) ** 2
            rows.release()
        if not torch.isfinite(extent).all():
            raise errors.InvalidRequest("Clustering needs finite vectors; one has NaN, infinite or huge numbers.")
        return cls(
            rows, metric, shift, lengths.tensor_reciprocals(extent.sqrt_()) if metric is Metric.COSINE else extent
        )

    def aim(self, centers: torch.Tensor) -> None:
        """Set the centers (k, dim) that `nearest` compares with."""
        relative = centers.double() - self.shift.double()
        self._factor = relative.float().T
        self._bias = -(relative @ self.shift.double() + (relative**2).sum(1) / 2).float()

    def nearest(self, block: slice) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the block's rows (m, dim), their labels (m,) and costs (m,): squared distance, or 1 - cosine."""
        rows = self.rows[block]
        if self.metric is Metric.COSINE:
            score, label = torch.mm(rows, self._factor).max(1)
            return rows, label, (1 - score * self.extent[block]).clamp_min_(0)
        score, label = torch.addmm(self._bias, rows, self._factor).max(1)
        return rows, label, (self.extent[block] - 2 * score).clamp_min_(0)

    def scale(self) -> torch.Tensor:
        """Return the scale (n,) of each row's cost: rounding errors are a small part of it.

        It is infinite for a vector of zeros under cosine, which costs 1 for any centers.
        """
        return torch.where(self.extent == 0, math.inf, 1.0) if self.metric is Metric.COSINE else self.extent


def check_n_clusters(n_clusters: int, n: int) -> None:
    """Raise InvalidRequest unless `n` rows can make `n_clusters` clusters."""
    if not 1 <= n_clusters <= n:
        raise errors.InvalidRequest(f"n_clusters is {n_clusters}; {n} images make 1 to {n} clusters.")


def measure(rows: Rows, centers: np.ndarray, metric: Metric) -> Placement:
    """Place each row at its nearest center (k, dim); raises InvalidRequest if dimensions differ."""
    if centers.ndim != 2 or centers.shape[1] != rows.dim or not len(centers):
        raise errors.InvalidRequest(f"The centers have shape {centers.shape}; the vectors have {rows.dim} dimensions.")
    target = torch.tensor(centers, dtype=torch.float32, device=rows.device)
    shift = target.mean(0)
    if metric is Metric.COSINE:
        target, shift = unit(target), torch.zeros_like(shift)
    scorer = Scorer.prepare(rows, metric, shift)
    scorer.aim(target)
    parts = [measure_block(scorer, block, target) for block in rows.blocks(len(centers))]
    return Placement(*(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True)))


def measure_block(
    scorer: Scorer, block: slice, centers: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return a block's labels (m,) int32, distances and cosines (m,) float64 to the scorer's centers.

    The product picks the center; distances are direct differences in float64, free of the product's rounding.
    """
    rows, labels, _ = scorer.nearest(block)
    pieces = zip(rows.split(MEASURED_ROWS), labels.split(MEASURED_ROWS), strict=True)
    measured = [_distances(scorer.metric, piece, centers[own]) for piece, own in pieces]
    distances, cosines = (torch.cat(part) for part in zip(*measured, strict=True))
    return labels.int(), distances, cosines


def _distances(metric: Metric, rows: torch.Tensor, own: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    cosines = (rows.double() * own).sum(1)
    for side in (rows, own):
        cosines *= lengths.tensor_reciprocals(torch.linalg.vector_norm(side, dim=1, dtype=torch.float64))
    cosines.clamp_(-1, 1)
    if metric is Metric.COSINE:
        return 1 - cosines, cosines
    return torch.linalg.vector_norm(rows - own, dim=1, dtype=torch.float64), cosines


def assign(
    rows: np.ndarray, centers: np.ndarray, metric: Metric | str, *, device: str | torch.device = "cpu"
) -> tuple[np.ndarray, np.ndarray]:
    """Place rows (n, dim) by centers (k, dim): return labels (n,) int32 and distances (n,) float32."""
    if not len(rows):
        return np.empty(0, np.int32), np.empty(0, np.float32)
    placement = measure(Rows(rows, device), centers, Metric(metric))
    return placement.labels, placement.distances.astype(np.float32)


def conclude(rows: Rows, metric: Metric, centers: np.ndarray, placement: Placement, iterations: int) -> Clustering:
    """Order the clusters of `labels` (n,) by size and describe them; the arguments are not changed.

    A cluster without members takes the row farthest from its center and all equal rows, so that every label has a
    medoid and equal rows have one label. Use `of_few` for fewer distinct rows than clusters; here they are separated
    one by one.
    """
    centers, placement = centers.copy(), Placement(*(array.copy() for array in placement))
    labels, distances, cosines = placement
    sizes = np.bincount(labels, minlength=len(centers))
    order = np.argsort(-distances, kind="stable")
    donors = iter(order)
    for cluster in np.flatnonzero(sizes == 0):
        alike = next((found for row in donors if (found := _given(rows, row, placement, sizes)) is not None), None)
        if alike is None:
            alike = next(np.array([row]) for row in order if sizes[labels[row]] > 1)
        sizes[labels[alike[0]]] -= len(alike)
        sizes[cluster] = len(alike)
        seed = rows[slice(alike[0], alike[0] + 1)]
        centers[cluster] = (unit(seed) if metric is Metric.COSINE else seed)[0].cpu().numpy()
        labels[alike], cosines[alike] = cluster, centers[cluster].any()
        distances[alike] = 1 - cosines[alike] if metric is Metric.COSINE else 0
    return _ordered(metric, centers, placement, iterations)


def _given(rows: Rows, row: int, placement: Placement, sizes: np.ndarray) -> np.ndarray | None:
    """Return the rows equal to `row` in its cluster, including itself; None if the cluster has no other row."""
    label = placement.labels[row]
    if sizes[label] < 2:
        return None
    near = np.isclose(placement.distances, placement.distances[row], rtol=1e-6) & (placement.labels == label)
    candidates = np.flatnonzero(near)
    seed = rows[slice(row, row + 1)]
    alike = [
        part[(rows.pick(torch.from_numpy(part)) == seed).all(1).cpu().numpy()]
        for part in np.array_split(candidates, -(-len(candidates) // MEASURED_ROWS))
    ]
    found = np.concatenate(alike)
    return found if len(found) < sizes[label] else None


def of_few(rows: Rows, metric: Metric, n_clusters: int) -> Clustering | None:
    """Return one cluster for each distinct row if there are fewer of them than clusters; None if there are enough.

    K-means cannot help there: clusters would be empty, or equal rows separated.
    """
    label_of: dict[bytes, int] = {}
    firsts: list[int] = []
    labels = np.empty(rows.n, np.int32)
    for block in rows.blocks(1):
        # -0.0 is 0.0
        for row, values in enumerate(rows[block].cpu().numpy() + 0.0, block.start):
            digest = hashlib.blake2b(values.tobytes(), digest_size=16).digest()
            if digest not in label_of:
                if len(firsts) == n_clusters - 1 or not np.isfinite(values).all():
                    return None
                label_of[digest] = len(firsts)
                firsts.append(row)
            labels[row] = label_of[digest]
        rows.release()
    picked = rows.pick(torch.tensor(firsts))
    centers = (unit(picked) if metric is Metric.COSINE else picked).cpu().numpy()
    cosines = (np.abs(centers).sum(1) > 0).astype(np.float64)[labels]
    distances = 1 - cosines if metric is Metric.COSINE else np.zeros(rows.n)
    return _ordered(metric, centers, Placement(labels, distances, cosines), 0)


def _ordered(metric: Metric, centers: np.ndarray, placement: Placement, iterations: int) -> Clustering:
    labels, distances, cosines = placement
    _, first, sizes = np.unique(labels, return_index=True, return_counts=True)
    order = np.lexsort((first, -sizes))
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    labels, sizes = rank[labels].astype(np.int32), sizes[order]
    by_distance = np.lexsort((distances, labels))
    _, nearest = np.unique(labels[by_distance], return_index=True)
    return Clustering(
        metric=metric,
        centers=centers[order].astype(np.float32),
        labels=labels,
        distances=distances.astype(np.float32),
        sizes=sizes,
        medoids=by_distance[nearest],
        cohesion=np.bincount(labels, weights=cosines) / sizes,
        inertia=float((distances if metric is Metric.COSINE else distances**2).sum()),
        iterations=iterations,
    )


def unit(rows: torch.Tensor) -> torch.Tensor:
    """Return rows (n, dim) scaled to length 1; zeros stay zeros."""
    return rows * lengths.tensor_reciprocals(torch.linalg.vector_norm(rows, dim=1, keepdim=True))
