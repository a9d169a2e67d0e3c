"""K-means over all rows at once: the algorithm `kmeans`."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans as ReferenceKMeans

from imagekin import errors
from imagekin_worker.kmeans import kmeans, measure
from imagekin_worker.kmeans.kmeans import KMeans
from imagekin_worker.kmeans.measure import Options
from kit.partitions import METRICS, all_distances, blobs, check, cluster, directions, noise


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
    reference = ReferenceKMeans(k, n_init=10, random_state=0).fit(source)  # type: ignore[arg-type]
    expected = float(reference.inertia_ or 0)
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
    assert (Options().starts(49_999), Options().starts(50_000)) == (8, 1)


@pytest.mark.parametrize("metric", METRICS)
def test_slices_change_nothing(metric: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each slice is the smallest there is, and each goes on from bytes in a new object."""
    monkeypatch.setattr(measure, "CPU_BLOCK_ROWS", 128)
    rows = noise(300)
    whole = cluster(rows, 7, metric=metric, n_init=2)
    job, slices, shares = KMeans(rows, 7, Options(metric=metric, n_init=2)), 0, []
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
    monkeypatch.setattr(measure, "CPU_BLOCK_ROWS", 16)
    rows = np.repeat(noise(6), 8, axis=0)
    whole = cluster(rows, 10, n_init=2)
    job = KMeans(rows, 10, Options(n_init=2))
    while not job.advance(lambda: True):
        job = KMeans.resume(rows, job.state())
    np.testing.assert_array_equal(job.result().labels, whole.labels)


def test_state_holds_no_pickle_and_refuses_other_rows() -> None:
    rows = noise(50)
    job = KMeans(rows, 3)
    job.advance(lambda: True)
    with np.load(io.BytesIO(job.state()), allow_pickle=False) as saved:
        assert not any(saved[name].dtype.hasobject for name in saved.files)
    with pytest.raises(errors.JobError):
        KMeans.resume(rows[:40], job.state())


def test_an_emptied_cluster_is_seeded_again() -> None:
    """Centers that lie on one point leave all but one empty: only re-seeding can part the blobs."""
    rows = np.array([[0, 0], [0, 0.1], [9, 0], [9, 0.1], [0, 9], [0.1, 9]], np.float32)
    job = KMeans(rows, 3, Options(n_init=1))
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
                KMeans(broken, 2, Options(metric=metric))
    for array in (rows.astype(np.float64), rows[0], rows[:0], rows.T):
        with pytest.raises(errors.InvalidRequest):
            KMeans(array, 1)
    with pytest.raises(errors.InvalidRequest):
        KMeans(rows, 2, Options(n_init=0))


def test_memory_map(tmp_path: Path) -> None:
    rows = blobs()
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float32, "r", shape=rows.shape)
    np.testing.assert_array_equal(cluster(mapped, 8, n_init=1).labels, cluster(rows, 8, n_init=1).labels)


@pytest.mark.parametrize("metric", METRICS)
def test_assign_places_rows_as_the_clustering_did(metric: str) -> None:
    rows = blobs()
    found = cluster(rows, 8, metric=metric)
    labels, distances = measure.assign(rows, found.centers, metric)
    np.testing.assert_array_equal(labels, found.labels)
    np.testing.assert_allclose(distances, found.distances, atol=1e-6)
    later = noise(40, rows.shape[1])
    labels, distances = measure.assign(later, found.centers, metric)
    expected = all_distances(later, found.centers, metric)
    np.testing.assert_array_equal(labels, expected.argmin(1))
    np.testing.assert_allclose(distances, expected.min(1), rtol=1e-5, atol=1e-6)
    assert [len(part) for part in measure.assign(later[:0], found.centers, metric)] == [0, 0]
    with pytest.raises(errors.InvalidRequest, match="dimensions"):
        measure.assign(noise(5, 3), found.centers, metric)
