"""K-means and near-duplicates of a million vectors: the tables of docs/scaling.md.

    python tests/benchmarks/million.py [--rows 1000000] [--iterations 5] [--folder FOLDER] [--way WAY]

Writes the vectors (1,280 dimensions, 5.1 GB for a million) into a file in FOLDER, maps it, and works on it in three
ways, each in a process of its own: `whole` clusters it with every pass over all rows, for so many iterations,
`batches` as a memory budget of 1 GiB makes it, in mini-batches, and `duplicates` finds its near-duplicates within the
same budget, every 50th row being nearly the one before. Prints a line of JSON for each. A plain program, not a test.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from imagekin_worker.analysis import hashes
from imagekin_worker.analysis.blocks import Blocks
from imagekin_worker.analysis.duplicates import Duplicates
from imagekin_worker.analysis.groups import Images
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options
from imagekin_worker.matrix.view import CALIBRATED, Accumulator
from imagekin_worker.network.devices import cores

DIM, LATENT_DIM, CLUSTERS = 1280, 32, 100
DRAWN_ROWS = 50_000
BUDGET_BYTES = 1 << 30
COPIES_ONE_IN = 50
WAYS = ("whole", "batches", "duplicates")


def write(path: Path, count: int) -> None:
    """Write rows in overlapping groups, none negative, a part in memory at a time."""
    random = np.random.default_rng(2026)
    middles = random.standard_normal((CLUSTERS, LATENT_DIM), np.float32)
    spread = random.standard_normal((LATENT_DIM, DIM), np.float32) / np.float32(np.sqrt(LATENT_DIM))
    with path.open("wb") as file:
        for start in range(0, count, DRAWN_ROWS):
            size = min(DRAWN_ROWS, count - start)
            latent = middles[random.integers(0, CLUSTERS, size)]
            latent = latent + 0.7 * random.standard_normal(latent.shape, np.float32)
            rows = latent @ spread + 0.3 * random.standard_normal((size, DIM), np.float32)
            rows[1::COPIES_ONE_IN] = 1.01 * rows[:-1:COPIES_ONE_IN]
            np.maximum(rows, 0, out=rows).tofile(file)


def measure(path: Path, way: str, iterations: int) -> dict[str, float | str]:
    """Work on a file's rows; `memory_mib` is the peak of this process's own, beside the pages of the file."""
    rows = np.memmap(path, np.float32, "r").reshape(-1, DIM)
    return duplicates(rows) if way == "duplicates" else cluster(rows, way, iterations)


def duplicates(rows: np.ndarray) -> dict[str, float | str]:
    """Find the near-duplicates of rows (n, 1280), whose pictures have nothing in common."""
    drawn = np.random.default_rng(8)
    names = [str(number) for number in range(len(rows))]
    codes = drawn.integers(0, 1 << 64, (2, len(rows)), np.uint64)
    zeros = np.zeros(len(rows), np.int64)
    images = Images(names, names, codes[0], codes[1], zeros, zeros > 0, zeros, zeros, zeros.astype(np.float64))
    grays = drawn.integers(0, 256, (1000, hashes.GRAY_DIM), np.uint8)
    began: dict[str, float] = {}
    own = 0
    started = time.perf_counter()
    blocks, summed = Blocks(rows), Accumulator("million", DIM)
    for span in blocks.spans():
        summed.add(blocks.read(span))
    view = summed.view(CALIBRATED)
    with tempfile.TemporaryDirectory(prefix="million-") as folder:
        work = Duplicates(
            rows,
            view,
            images,
            thumbnails=lambda at: grays[at % len(grays)],
            memory_budget_bytes=BUDGET_BYTES,
            folder=Path(folder),
            threads=cores(),
        )

        def note() -> bool:
            nonlocal own
            own = max(own, _own_mib())
            began.setdefault(work.phase, time.perf_counter())
            return False

        work.advance(note)
        found = work.result()
    ends = [*list(began.values())[1:], time.perf_counter()]
    seconds = {f"{name}_s": round(end - begin, 1) for (name, begin), end in zip(began.items(), ends, strict=True)}
    return {
        "way": "duplicates",
        "rows": len(rows),
        **seconds,
        "all_s": round(time.perf_counter() - started, 1),
        "threshold": found.threshold,
        "groups": len(found.groups),
        "memory_mib": max(own, _own_mib()),
        "with_pages_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def cluster(rows: np.ndarray, way: str, iterations: int) -> dict[str, float | str]:
    """Cluster rows (n, 1280) with every pass over all of them, or in mini-batches."""
    started = time.perf_counter()
    if way == "whole":
        work = KMeans(rows, CLUSTERS, Options(n_init=1, tolerance=0, max_iterations=iterations))
    else:
        work = KMeans(rows, CLUSTERS, Options(n_init=1, memory_budget_bytes=BUDGET_BYTES))
    checked = time.perf_counter()
    # the seeds are a tenth of the progress of the first start
    passes, own = [checked], 0

    def note() -> bool:
        nonlocal own
        own = max(own, _own_mib())
        if work.phase != "seed" and len(passes) == 1:
            passes.append(time.perf_counter())
        return False

    work.advance(note)
    ended = time.perf_counter()
    found = work.result()
    seconds = {"check_s": checked - started, "seed_s": passes[-1] - checked, "iterate_s": ended - passes[-1]}
    return {
        "way": way,
        "rows": len(rows),
        **{name: round(value, 2) for name, value in seconds.items()},
        "all_s": round(ended - started, 2),
        "iterations": found.iterations,
        "inertia": found.inertia,
        "memory_mib": own,
    }


def _own_mib() -> int:
    """Return this process's memory but for mapped files, where there is a /proc."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) // 1024
    return 0


def main() -> None:
    """Write the file, measure each way over it, and remove it."""
    parser = argparse.ArgumentParser(description="Measure k-means and near-duplicates of a million vectors.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--way", choices=WAYS, action="append", help="only this one; may be repeated")
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.measure:
        print(json.dumps(measure(Path(said.measure[0]), said.measure[1], said.iterations)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="million-", dir=said.folder) as folder:
        path = Path(folder) / "rows.f32"
        write(path, said.rows)
        for way in said.way or WAYS:
            again = [sys.executable, __file__, "--iterations", str(said.iterations), "--measure", str(path), way]
            subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
