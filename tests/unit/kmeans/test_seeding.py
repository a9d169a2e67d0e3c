"""K-means++: the rows that clusters start from."""

from __future__ import annotations

import numpy as np
import torch

from imagekin_worker.kmeans import seeding
from kit.partitions import blobs, check, cluster, noise


def test_seeds_of_many_rows_come_from_a_sample() -> None:
    index = seeding.sample_rows(100_000, 50, (100, 0))
    assert len(index) == seeding.SAMPLE_ROWS == len(set(index.tolist()))
    assert (np.diff(index) > 0).all()
    assert not np.array_equal(index, seeding.sample_rows(100_000, 50, (100, 1)))
    np.testing.assert_array_equal(seeding.sample_rows(300, 50, (100, 0)), np.arange(300))
    rows = blobs(9000, 4, 5, spread=0.05)
    check(cluster(rows, 5, n_init=3), rows, 5, "euclidean")


def test_seeds_are_distinct_rows_while_there_are_any() -> None:
    sample = torch.from_numpy(np.repeat(noise(5, 64), 20, axis=0))
    seeds = seeding.Seeding(sample, 8, (100, 0))
    for _ in range(5):
        seeds.step()
    assert len(torch.unique(sample[seeds.chosen], dim=0)) == 5
    assert not seeds.closest.any()
    for _ in range(3):
        seeds.step()
    assert len(set(seeds.chosen.tolist())) == 8


def test_distances_of_all_rows_change_no_seed() -> None:
    sample = torch.from_numpy(noise(400, 24))
    seeds = [seeding.Seeding(sample, 20, (100, 0), distances=each) for each in (None, seeding.distances(sample))]
    for _ in range(20):
        for each in seeds:
            each.step()
    assert seeds[0].chosen.tolist() == seeds[1].chosen.tolist()
    torch.testing.assert_close(seeds[0].closest, seeds[1].closest, rtol=1e-4, atol=1e-4)
    assert seeding.distances_pay(1000, 400) and not seeding.distances_pay(1000, 50)
    assert not seeding.distances_pay(seeding.SAMPLE_ROWS + 1, 10**6)
