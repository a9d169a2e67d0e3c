from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kmeans_pytorch import kmeans as package
from sklearn.cluster import KMeans as ReferenceKMeans

from imagekin import errors
from imagekin_worker import batches, clustering, kmeans, original_kmeans, seeding
from imagekin_worker.clustering import Clustering
from imagekin_worker.kmeans import KMeans

METRICS = ["euclidean", "cosine"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Rows this few gain nothing from threads, which on a busy machine wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def blobs(n: int = 600, dim: int = 16, k: int = 8, spread: float = 0.3, seed: int = 1) -> np.ndarray:
    random = np.random.default_rng(seed)
    centers = random.standard_normal((k, dim)) * 2
    return (centers[random.integers(0, k, n)] + spread * random.standard_normal((n, dim))).astype(np.float32)


def noise(n: int = 500, dim: int = 12, seed: int = 2) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def cluster(rows: np.ndarray, n_clusters: int, **options) -> Clustering:
    job = KMeans(rows, n_clusters, **options)
    assert job.advance()
    return job.result()


def directions(rows: np.ndarray) -> np.ndarray:
    rows = rows.astype(np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.divide(rows, norms, out=np.zeros_like(rows), where=norms > 0)


def all_distances(rows: np.ndarray, centers: np.ndarray, metric: str) -> np.ndarray:
    if metric == "cosine":
        return 1 - directions(rows) @ directions(centers).T
    return np.linalg.norm(rows.astype(np.float64)[:, None] - centers.astype(np.float64)[None], axis=2)


def check(found: Clustering, rows: np.ndarray, n_clusters: int, metric: str) -> None:
    """Hold every field against the rows and the centers, in float64 and without the code under test."""
    n = len(rows)
    assert found.n_clusters == n_clusters and found.metric == metric
    assert found.centers.shape == (n_clusters, rows.shape[1]) and found.centers.dtype == np.float32
    assert found.labels.shape == (n,) and found.labels.dtype == np.int32
    assert found.distances.dtype == np.float32
    assert np.isfinite(found.centers).all() and np.isfinite(found.distances).all()
    members = [np.flatnonzero(found.labels == label) for label in range(n_clusters)]
    assert found.sizes.tolist() == [len(member) for member in members]
    assert found.sizes.min() >= 1
    order = [(-len(member), member[0]) for member in members]
    assert order == sorted(order)
    distances = all_distances(rows, found.centers, metric)
    own = distances[np.arange(n), found.labels]
    scale = 1.0 if metric == "cosine" else max(1.0, float(np.abs(rows).max()))
    np.testing.assert_allclose(found.distances, own, rtol=1e-4, atol=2e-6 * scale)
    cosines = (directions(rows) * directions(found.centers)[found.labels]).sum(1)
    for label, member in enumerate(members):
        assert found.medoids[label] in member
        assert own[found.medoids[label]] <= own[member].min() + 1e-6 * scale
        assert found.cohesion[label] == pytest.approx(cosines[member].mean(), abs=1e-5)
    assert found.inertia == pytest.approx((own if metric == "cosine" else own**2).sum(), rel=1e-5, abs=1e-9 * scale * n)


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("rows", [blobs(), noise()], ids=["blobs", "noise"])
def test_result_describes_the_clusters(rows: np.ndarray, metric: str) -> None:
    found = cluster(rows, 8, metric=metric)
    check(found, rows, 8, metric)
    distances = all_distances(rows, found.centers, metric)
    assert (distances[np.arange(len(rows)), found.labels] <= distances.min(axis=1) + 1e-5).all()
    assert 1 <= found.iterations <= kmeans.DEFAULT_MAX_ITERATIONS


@pytest.mark.parametrize("metric", METRICS)
def test_centers_are_the_means_once_nothing_moves(metric: str) -> None:
    rows = blobs()
    found = cluster(rows, 8, metric=metric, tolerance=0)
    source = directions(rows) if metric == "cosine" else rows.astype(np.float64)
    means = np.stack([source[found.labels == label].mean(0) for label in range(8)])
    np.testing.assert_allclose(found.centers, directions(means) if metric == "cosine" else means, atol=1e-5)


@pytest.mark.parametrize(("rows", "k"), [(blobs(k=12), 12), (blobs(spread=1.5), 8), (noise(), 10)])
@pytest.mark.parametrize("metric", METRICS)
def test_inertia_is_within_1_percent_of_sklearn(rows: np.ndarray, k: int, metric: str) -> None:
    """On directions, sklearn's euclidean k-means is the same problem up to the length of the means."""
    source = directions(rows) if metric == "cosine" else rows
    reference = ReferenceKMeans(k, n_init=10, random_state=0).fit(source)
    expected = reference.inertia_
    if metric == "cosine":
        expected = all_distances(rows, reference.cluster_centers_, metric).min(axis=1).sum()
    assert cluster(rows, k, metric=metric).inertia <= 1.01 * expected


def test_well_separated_blobs_are_found() -> None:
    random = np.random.default_rng(5)
    truth = random.integers(0, 6, 300)
    rows = (np.eye(6, 10)[truth] * 10 + 0.1 * random.standard_normal((300, 10))).astype(np.float32)
    for metric in METRICS:
        labels = cluster(rows, 6, metric=metric).labels
        assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 6


def test_rows_far_from_the_origin_keep_their_clusters() -> None:
    """The expanded distance formula in float32 would lose them: 1e4 squared leaves no digit for 0.01."""
    random = np.random.default_rng(6)
    truth = random.integers(0, 4, 400)
    offsets = np.eye(4, 8)[truth] * 0.5 + 0.02 * random.standard_normal((400, 8))
    labels = cluster((offsets + 1e4).astype(np.float32), 4).labels
    assert len(set(zip(truth.tolist(), labels.tolist(), strict=True))) == 4


def test_cosine_ignores_lengths() -> None:
    rows = blobs()
    lengths = np.random.default_rng(3).uniform(0.01, 100, (len(rows), 1)).astype(np.float32)
    np.testing.assert_array_equal(
        cluster(rows, 8, metric="cosine").labels, cluster(rows * lengths, 8, metric="cosine").labels
    )


def test_same_seed_same_labels_and_the_seed_matters() -> None:
    rows = noise()
    first = cluster(rows, 10, n_init=1)
    again = cluster(rows, 10, n_init=1)
    np.testing.assert_array_equal(first.labels, again.labels)
    np.testing.assert_array_equal(first.centers, again.centers)
    others = [cluster(rows, 10, n_init=1, seed=seed).inertia for seed in (-1, 0, 1)]
    assert len({first.inertia, *others}) > 1


def test_more_starts_never_do_worse() -> None:
    rows = noise()
    inertias = [cluster(rows, 10, n_init=n_init).inertia for n_init in (1, 3, 8)]
    assert inertias == sorted(inertias, reverse=True)
    assert inertias[0] > inertias[-1]


def test_default_n_init() -> None:
    assert (kmeans.default_n_init(49_999), kmeans.default_n_init(50_000)) == (8, 1)


@pytest.mark.parametrize("metric", METRICS)
def test_slices_change_nothing(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice is the smallest there is, and each goes on from bytes in a new object."""
    monkeypatch.setattr(clustering, "CPU_BLOCK_ROWS", 128)
    rows = noise(300)
    whole = cluster(rows, 7, metric=metric, n_init=2)
    job, slices, shares = KMeans(rows, 7, metric=metric, n_init=2), 0, []
    while not job.advance(lambda: True):
        slices += 1
        shares.append(job.progress)
        with pytest.raises(errors.JobError):
            job.result()
        job = KMeans.resume(rows, job.state())
    assert slices > 30
    assert shares == sorted(shares) and shares[0] >= 0 and shares[-1] < 1 and job.progress == 1
    sliced = KMeans.resume(rows, job.state()).result()
    for field in ("labels", "centers", "distances", "medoids", "cohesion"):
        np.testing.assert_array_equal(getattr(sliced, field), getattr(whole, field))
    assert (sliced.inertia, sliced.iterations) == (whole.inertia, whole.iterations)


def test_slices_change_nothing_when_clusters_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clustering, "CPU_BLOCK_ROWS", 16)
    rows = np.repeat(noise(6), 8, axis=0)
    whole = cluster(rows, 10, n_init=2)
    job = KMeans(rows, 10, n_init=2)
    while not job.advance(lambda: True):
        job = KMeans.resume(rows, job.state())
    np.testing.assert_array_equal(job.result().labels, whole.labels)


def test_state_holds_no_pickle_and_refuses_other_rows() -> None:
    rows = noise(50)
    job = KMeans(rows, 3)
    job.advance(lambda: True)
    with pytest.raises(errors.JobError):
        KMeans.resume(rows[:40], job.state())


def test_an_emptied_cluster_is_seeded_again() -> None:
    """Centers that lie on one point leave all but one empty: only re-seeding can part the blobs."""
    rows = np.array([[0, 0], [0, 0.1], [9, 0], [9, 0.1], [0, 9], [0.1, 9]], np.float32)
    job = KMeans(rows, 3, n_init=1)
    while job._now.phase == "seed":
        job.advance(lambda: True)
    job._start_iteration(job._now.arrays["centers"][:1].repeat(3, 1))
    job.advance()
    assert job.result().sizes.tolist() == [2, 2, 2]
    assert job.result().inertia < 0.1


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(("distinct", "copies", "k"), [(4, 10, 4), (4, 10, 9), (1, 12, 5), (5, 3, 15), (20, 1, 20)])
def test_duplicates(metric: str, distinct: int, copies: int, k: int) -> None:
    rows = np.repeat(noise(distinct), copies, axis=0)
    found = cluster(rows, k, metric=metric)
    check(found, rows, k, metric)
    if k >= distinct:
        assert found.inertia < 1e-6
        assert found.cohesion == pytest.approx(np.ones(k), abs=1e-6)
        for label in range(k):
            assert len(np.unique(rows[found.labels == label], axis=0)) == 1


@pytest.mark.parametrize("metric", METRICS)
def test_zero_vectors(metric: str) -> None:
    rows = np.concatenate([np.zeros((5, 12), np.float32), blobs(40, 12, 3)])
    for k in (1, 4, 45):
        check(cluster(rows, k, metric=metric), rows, k, metric)
    zeros = np.zeros((6, 3), np.float32)
    nothing = cluster(zeros, 4, metric=metric)
    check(nothing, zeros, 4, metric)
    assert nothing.iterations == 1


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_any_rows_give_a_whole_clustering(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 25))
    dim = data.draw(st.integers(1, 4))
    k = data.draw(st.integers(1, n))
    values = st.sampled_from([-3.0, -1.0, 0.0, 0.5, 1.0, 1e3])
    rows = np.array(data.draw(st.lists(values, min_size=n * dim, max_size=n * dim)), np.float32).reshape(n, dim)
    for metric in METRICS:
        check(cluster(rows, k, metric=metric, n_init=1), rows, k, metric)


def test_what_is_refused() -> None:
    rows = noise(10)
    for n_clusters in (0, -1, 11):
        with pytest.raises(errors.InvalidRequest, match=f"n_clusters is {n_clusters}"):
            KMeans(rows, n_clusters)
    for bad in (np.nan, np.inf, 1e30):
        broken = rows.copy()
        broken[3, 3] = bad
        for metric in METRICS:
            with pytest.raises(errors.InvalidRequest, match="finite"):
                KMeans(broken, 2, metric=metric)
    for array in (rows.astype(np.float64), rows[0], rows[:0], rows.T):
        with pytest.raises(errors.InvalidRequest):
            KMeans(array, 1)
    with pytest.raises(errors.InvalidRequest):
        KMeans(rows, 2, n_init=0)


def test_memory_map(tmp_path) -> None:
    rows = blobs()
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=rows.shape)
    np.testing.assert_array_equal(cluster(mapped, 8, n_init=1).labels, cluster(rows, 8, n_init=1).labels)


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


# --- mini-batches ----------------------------------------------------------------------------------------------


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "FIRST_ROWS", 64)
    monkeypatch.setattr(batches, "FIRST_ROWS_PER_CLUSTER", 4)
    monkeypatch.setattr(batches, "MOST_ROWS_PER_CLUSTER", 32)


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
    job = KMeans(rows, 6, memory_budget_bytes=rows.nbytes)
    assert job.batch_rows is None and job.advance()
    np.testing.assert_array_equal(job.result().labels, cluster(rows, 6).labels)


@pytest.mark.parametrize("metric", METRICS)
def test_slices_change_nothing_with_mini_batches(
    metric: str, small_batches: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clustering, "CPU_BLOCK_ROWS", 64)
    rows = noise(700)
    options = {"metric": metric, "n_init": 2, "memory_budget_bytes": 16_000}
    whole = cluster(rows, 7, **options)
    job, shares, sizes = KMeans(rows, 7, **options), [], set()
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
from imagekin_worker.kmeans import KMeans

torch.set_num_threads(1)
rows = np.memmap(sys.argv[1], np.float32, "r").reshape(-1, 512)
KMeans(np.array(rows[:5000]), 8, n_init=1).advance()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
job = KMeans(rows, 8, n_init=1, memory_budget_bytes=int(sys.argv[2]))
assert job.advance() and job.batch_rows
job.result()
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_mini_batches_of_a_mapped_file_take_a_part_of_its_size(tmp_path) -> None:
    budget = 32 << 20
    with (tmp_path / "rows").open("wb") as file:
        for seed in range(40):
            file.write(noise(2048, 512, seed).tobytes())
    assert (tmp_path / "rows").stat().st_size == 5 * budget
    argv = [sys.executable, "-c", PEAK, str(tmp_path / "rows"), str(budget)]
    said = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert int(said.stdout) < 2 * budget


@pytest.mark.parametrize("metric", METRICS)
def test_assign_places_rows_as_the_clustering_did(metric: str) -> None:
    rows = blobs()
    found = cluster(rows, 8, metric=metric)
    labels, distances = clustering.assign(rows, found.centers, metric)
    np.testing.assert_array_equal(labels, found.labels)
    np.testing.assert_allclose(distances, found.distances, atol=1e-6)
    later = noise(40, rows.shape[1])
    labels, distances = clustering.assign(later, found.centers, metric)
    expected = all_distances(later, found.centers, metric)
    np.testing.assert_array_equal(labels, expected.argmin(1))
    np.testing.assert_allclose(distances, expected.min(1), rtol=1e-5, atol=1e-6)
    assert [len(part) for part in clustering.assign(later[:0], found.centers, metric)] == [0, 0]
    with pytest.raises(errors.InvalidRequest, match="dimensions"):
        clustering.assign(noise(5, 3), found.centers, metric)


# --- algorithm kmeans-pytorch ----------------------------------------------------------------------------------


def original_labels(rows: np.ndarray, n_clusters: int, metric: str, seed: int) -> np.ndarray:
    """Cluster with the package as the original class called it."""
    np.random.seed(seed)
    labels, _ = package(X=torch.from_numpy(rows), num_clusters=n_clusters, distance=metric)
    return labels.numpy()


@pytest.mark.parametrize("metric", METRICS)
def test_original_gives_the_packages_own_clusters(metric: str, capfd: pytest.CaptureFixture[str]) -> None:
    rows = blobs()
    expected = original_labels(rows, 5, metric, 100)
    capfd.readouterr()
    before = np.random.get_state()[1].copy()
    shares: list[float] = []
    found = original_kmeans.run(rows, 5, metric=metric, progress=shares.append)
    check(found, rows, 5, metric)
    assert len(set(zip(expected.tolist(), found.labels.tolist(), strict=True))) == 5
    assert shares == sorted(shares) and shares[-1] == 1 and len(shares) == found.iterations + 1
    assert capfd.readouterr() == ("", "")
    np.testing.assert_array_equal(before, np.random.get_state()[1])


def test_original_keeps_the_best_start() -> None:
    rows = noise()
    inertias = [original_kmeans.run(rows, 6, seed=seed).inertia for seed in (100, 101, 102)]
    assert len(set(inertias)) > 1
    assert original_kmeans.run(rows, 6, seed=100, n_init=3).inertia == min(inertias)


def test_original_is_refused_past_its_memory_budget() -> None:
    rows = noise(100, 10)
    needed = 4 * 100 * 5 * 10
    original_kmeans.run(rows, 5, metric="cosine", memory_budget_bytes=needed)
    with pytest.raises(errors.InvalidRequest, match=r"100 images x 5 clusters x 10 .*algorithm=kmeans"):
        original_kmeans.run(rows, 5, metric="cosine", memory_budget_bytes=needed - 1)
    with pytest.raises(errors.InvalidRequest):
        original_kmeans.run(rows, 5, metric="euclidean", memory_budget_bytes=needed)


def test_original_stops_where_the_package_would_loop_without_end() -> None:
    rows = np.repeat(noise(3), 10, axis=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(original_kmeans.Diverged, match="algorithm=kmeans"):
            original_kmeans.run(rows, 6, n_init=2)


def test_original_stops_past_its_limit_and_when_told() -> None:
    with pytest.raises(original_kmeans.Diverged, match="within 2 iterations"):
        original_kmeans.run(noise(), 6, max_iterations=2)
    answers = iter([False, False, True])
    with pytest.raises(original_kmeans.Stopped):
        original_kmeans.run(noise(), 6, should_stop=lambda: next(answers))


@pytest.mark.parametrize("metric", METRICS)
def test_original_with_one_cluster_or_one_row(metric: str) -> None:
    rows = noise(20)
    check(original_kmeans.run(rows, 1, metric=metric), rows, 1, metric)
    check(original_kmeans.run(rows[:1], 1, metric=metric), rows[:1], 1, metric)
    with pytest.raises(errors.InvalidRequest):
        original_kmeans.run(rows, 21, metric=metric)
