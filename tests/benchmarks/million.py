"""K-means on a million vectors: the table of docs/scaling.md.

    python tests/benchmarks/million.py [--rows 1000000] [--iterations 5] [--folder FOLDER]

Writes the vectors (1,280 dimensions, 5.1 GB for a million) into a file in FOLDER, maps it, and clusters it twice, each
way in a process of its own: every pass over all rows, for so many iterations, and whole as a memory budget of 1 GiB
makes it, in mini-batches. Prints a line of JSON for each. A plain program, not a test.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options

DIM, LATENT_DIM, CLUSTERS = 1280, 32, 100
DRAWN_ROWS = 50_000
BUDGET_BYTES = 1 << 30
WAYS = {"whole": None, "batches": BUDGET_BYTES}


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
            np.maximum(rows, 0, out=rows).tofile(file)


def measure(path: Path, way: str, iterations: int) -> dict[str, float | str]:
    """Cluster a file's rows; `memory_mib` is the peak of this process's own, beside the pages of the file."""
    rows = np.memmap(path, np.float32, "r").reshape(-1, DIM)
    budget = WAYS[way]
    started = time.perf_counter()
    if budget is None:
        work = KMeans(rows, CLUSTERS, Options(n_init=1, tolerance=0, max_iterations=iterations))
    else:
        work = KMeans(rows, CLUSTERS, Options(n_init=1, memory_budget_bytes=budget))
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
    """Write the file, measure both ways over it, and remove it."""
    parser = argparse.ArgumentParser(description="Measure k-means on a million vectors.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--iterations", type=int, default=5)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--measure", nargs=2, metavar=("FILE", "WAY"), help=argparse.SUPPRESS)
    said = parser.parse_args()
    if said.measure:
        print(json.dumps(measure(Path(said.measure[0]), said.measure[1], said.iterations)), flush=True)
        return
    with tempfile.TemporaryDirectory(prefix="million-", dir=said.folder) as folder:
        path = Path(folder) / "rows.f32"
        write(path, said.rows)
        for way in WAYS:
            again = [sys.executable, __file__, "--iterations", str(said.iterations), "--measure", str(path), way]
            subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
