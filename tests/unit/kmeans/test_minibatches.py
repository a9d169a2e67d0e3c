"""K-means by mini-batches, where the rows are more than its memory budget."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from imagekin_worker.kmeans import batches, measure
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options
from kit.partitions import METRICS, blobs, check, cluster, noise


def test_batches_stay_below_the_budget() -> None:
    assert batches.largest(1000, 10, 5, None) is None
    assert batches.largest(1000, 10, 5, 40_000) is None
    assert batches.largest(1000, 10, 5, 39_999) == 39_999 // 80
    assert batches.largest(1_000_000, 1280, 100, 4 << 30) == 25_600
    assert batches.largest(1000, 10, 600, 39_999) == 600
    assert batches.sizes(25_600, 100) == [4096, 8192, 16_384, 25_600]
    assert batches.sizes(600, 600) == [600]


@pytest.mark.parametrize("metric", METRICS)
def test_mini_batches_lose_little(metric: str, small_batches: None) -> None:
    rows = blobs(4000, 16, 40, spread=1.0)
    whole = cluster(rows, 20, metric=metric, n_init=3)
    found = cluster(rows, 20, metric=metric, n_init=3, memory_budget_bytes=rows.nbytes - 1)
    check(found, rows, 20, metric)
    assert whole.inertia < found.inertia <= 1.03 * whole.inertia


def test_rows_within_the_budget_are_clustered_as_without_one(small_batches: None) -> None:
    rows = noise()
    job = KMeans(rows, 6, Options(memory_budget_bytes=rows.nbytes))
    assert job.batch_rows is None and job.advance()
    np.testing.assert_array_equal(job.result().labels, cluster(rows, 6).labels)


@pytest.mark.parametrize("metric", METRICS)
def test_slices_change_nothing_with_mini_batches(
    metric: str, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "CPU_BLOCK_ROWS", 64)
    rows = noise(700)
    options = {"metric": metric, "n_init": 2, "memory_budget_bytes": 16_000}
    whole = cluster(rows, 7, **options)
    job, shares, sizes = KMeans(rows, 7, Options(**options)), [], set()
    assert job.batch_rows == 166
    while not job.advance(lambda: True):
        shares.append(job.progress)
        sizes.add(job._now.size)
        job = KMeans.resume(rows, job.state())
    assert sizes == {64, 128, 166, 700}
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1
    np.testing.assert_array_equal(job.result().labels, whole.labels)
    np.testing.assert_array_equal(job.result().centers, whole.centers)
    assert job.result().iterations == whole.iterations
    others = [cluster(rows, 7, **options, seed=seed).inertia for seed in (1, 2)]
    assert len({whole.inertia, *others}) > 1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("distinct", "copies", "k"), [(4, 40, 9), (1, 100, 5), (20, 10, 20)])
def test_mini_batches_of_duplicates(metric: str, distinct: int, copies: int, k: int, small_batches: None) -> None:
    rows = np.repeat(noise(distinct), copies, axis=0)
    found = cluster(rows, k, metric=metric, memory_budget_bytes=1000)
    check(found, rows, k, metric)


PEAK = """
import resource, sys
import numpy as np, torch
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options

torch.set_num_threads(1)
rows = np.memmap(sys.argv[1], np.float32, "r").reshape(-1, 512)
KMeans(np.array(rows[:5000]), 8, Options(n_init=1)).advance()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
job = KMeans(rows, 8, Options(n_init=1, memory_budget_bytes=int(sys.argv[2])))
assert job.advance() and job.batch_rows
job.result()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_mini_batches_of_a_mapped_file_take_a_part_of_its_size(tmp_path: Path) -> None:
    budget = 32 << 20
    with (tmp_path / "rows").open("wb") as file:
        for seed in range(40):
            file.write(noise(2048, 512, seed).tobytes())
    assert (tmp_path / "rows").stat().st_size == 5 * budget
    argv = [sys.executable, "-c", PEAK, str(tmp_path / "rows"), str(budget)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 2 * budget
