"""Views against the formula written out in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekin import errors
from imagekin_worker.matrix import view
from imagekin_worker.matrix.view import Accumulator, View

SPACE = "efficientnet_lite0-0123"


def like_a_network(n: int, dim: int = 96, seed: int = 0, dtype: type = np.float32) -> np.ndarray:
    """Vectors as a ReLU leaves them: never negative, many zeros, a few large numbers."""
    random = np.random.default_rng(seed)
    return (np.maximum(random.standard_normal((n, dim)) + 0.3, 0) ** 2 * random.random(dim)).astype(dtype)


def signed(n: int, dim: int = 96, seed: int = 0) -> np.ndarray:
    """Vectors as a transformer leaves them, of either sign."""
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32) * 3


def by_the_formula(vectors: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the view's `others` (m, dim) in float64, the view being that of `vectors`."""

    def powered(rows: np.ndarray) -> np.ndarray:
        rows = rows.astype(np.float64)
        rows = np.sign(rows) * np.abs(rows) ** 0.4
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    centered = powered(others) - powered(vectors).mean(0)
    return centered / np.linalg.norm(centered, axis=1, keepdims=True)


@pytest.mark.parametrize("vectors", [like_a_network(200), signed(200), like_a_network(200, dtype=np.float16)])
def test_calibrated_is_the_formula(vectors: np.ndarray) -> None:
    made = view.of(vectors, SPACE)
    assert (made.name, made.images) == ("calibrated", 200)
    others = np.concatenate([vectors[:20], signed(20, seed=1)])
    expected = by_the_formula(vectors, others)
    exact = made.exact(others)
    assert exact.dtype == np.float64
    np.testing.assert_allclose(exact @ exact.T, expected @ expected.T, rtol=0, atol=1e-7)
    np.testing.assert_allclose(made.transform_query(others[0]), exact[0])
    quick = made.transform(others)
    assert quick.dtype == np.float32
    np.testing.assert_allclose(quick, expected, rtol=0, atol=2e-6)


def test_raw_is_the_plain_cosine() -> None:
    vectors = signed(40)
    made = view.of(vectors, SPACE, view.RAW)
    plain = vectors.astype(np.float64) / np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    np.testing.assert_allclose(made.exact(vectors), plain, rtol=0, atol=1e-15)
    assert made.name == "raw" and made.id == view.of(vectors[:5], SPACE).id != view.raw("another", 96, 40).id


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", [view.CALIBRATED, view.RAW])
def test_scores_of_kept_rows_are_the_centered_cosines(name: str, dtype: type) -> None:
    vectors, queries = like_a_network(300), like_a_network(7, seed=5)
    made = view.of(vectors, SPACE, name)
    kept, asked = made.powered(vectors, dtype), made.powered(queries, dtype)
    found = made.scores(asked.astype(np.float64) @ kept.T.astype(np.float64), made.terms(kept), made.terms(asked))
    expected = made.exact(queries) @ made.exact(vectors).T
    # lengths of rounded rows are not quite 1
    atol = 1e-7 if dtype == np.float64 else 2e-6
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
    scan = made.queries(queries)
    scanned = (scan.vectors @ kept.T - scan.biases[:, None]) * made.terms(kept).reciprocals
    np.testing.assert_allclose(scanned, expected, rtol=0, atol=2e-6)


def test_a_new_mean_needs_no_new_rows() -> None:
    early, late = like_a_network(100), like_a_network(160)
    kept = view.of(early, SPACE).powered(early)
    renewed = view.of(late, SPACE)
    found = renewed.scores(kept @ kept.T, renewed.terms(kept), renewed.terms(kept))
    expected = by_the_formula(late, early)
    np.testing.assert_allclose(found, expected @ expected.T, rtol=0, atol=3e-6)


@given(cuts=st.lists(st.integers(0, 90), max_size=6), seed=st.integers(0, 99))
def test_blocks_and_order_make_no_difference(cuts: list[int], seed: int) -> None:
    vectors = like_a_network(90, 16)
    whole = view.of(vectors, SPACE)
    shuffled = np.random.default_rng(seed).permutation(vectors)
    made = Accumulator(SPACE, 16)
    for block in np.split(shuffled, sorted(cuts)):
        made.add(block)
    assert made.view().saved() == whole.saved() and made.view().id == whole.id


def test_taking_out_is_as_if_it_had_never_come() -> None:
    vectors = like_a_network(120)
    made = Accumulator(SPACE, 96)
    made.add(vectors)
    made.remove(vectors[100:])
    assert made.view().id == view.of(vectors[:100], SPACE).id


def test_progress_and_view_survive_being_saved() -> None:
    vectors = like_a_network(120)
    half = Accumulator(SPACE, 96)
    half.add(vectors[:50])
    half = Accumulator.resume(half.state())
    half.add(vectors[50:])
    made = half.view()
    assert made.id == view.of(vectors, SPACE).id
    saved = made.saved()
    assert len(saved) < 4 * 96 + 200
    loaded = View.load(saved)
    assert loaded.described() == made.described() and loaded.id == made.id
    np.testing.assert_array_equal(loaded.transform(vectors), made.transform(vectors))
    for name in (view.CALIBRATED, view.RAW):
        plain = view.of(vectors[:10], SPACE, name)
        assert View.load(plain.saved()) == plain
    for broken in (b"", b"\0\0", saved[:-1], saved[:-4], saved[:20]):
        with pytest.raises(errors.JobError):
            View.load(broken)


def test_few_images_are_compared_raw_and_a_tenth_renews() -> None:
    vectors = like_a_network(200)
    few = view.of(vectors[:31], SPACE)
    assert few.name == "raw" and not few.renewal_due(10) and not few.renewal_due(31) and few.renewal_due(32)
    some = view.of(vectors[:32], SPACE)
    assert some.name == "calibrated" and some.renewal_due(31)
    assert not some.renewal_due(35) and some.renewal_due(36)
    many = view.of(vectors, SPACE)
    assert [many.renewal_due(n) for n in (179, 180, 181, 219, 220, 221)] == [True, True, False, False, True, True]


def test_rows_near_the_mean_have_their_true_length() -> None:
    """Pictures that are nearly all alike lie so near their mean that the formula would lose its digits."""
    random = np.random.default_rng(3)
    vectors = (like_a_network(1) + 1e-3 * random.random((200, 96))).astype(np.float32)
    made = view.of(vectors, SPACE)
    kept = made.powered(vectors)
    scan = made.queries(vectors[:5])
    found = (kept @ scan.vectors.T - scan.biases) * made.terms(kept).reciprocals[:, None]
    expected = made.directions(kept) @ made.exact(vectors[:5]).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-7 * made.terms(kept).reciprocals.max())


def test_equal_ids_mean_comparable_scores() -> None:
    vectors = like_a_network(100)
    made = view.of(vectors, SPACE)
    others = [view.of(vectors[:99], SPACE), view.of(vectors, "another"), view.of(vectors, SPACE, view.RAW)]
    assert len({made.id, *(other.id for other in others)}) == 4
    assert made.id == view.of(vectors.copy(), SPACE).id


def test_vectors_without_direction_score_nothing() -> None:
    vectors = like_a_network(60)
    vectors[7] = 0
    made = view.of(vectors, SPACE)
    assert not made.transform(vectors)[7].any() and not made.exact(vectors)[7].any()
    assert made.terms(made.powered(vectors)).reciprocals[7] == 0
    assert np.isfinite(made.transform(vectors)).all()


def test_tiny_and_huge_numbers_are_numbers() -> None:
    vectors = like_a_network(60)
    made = view.of(vectors, SPACE)
    for factor in (1e-12, 1e12):
        np.testing.assert_allclose(made.exact(vectors * factor), made.exact(vectors), rtol=0, atol=1e-6)


def test_what_is_not_a_vector_is_refused() -> None:
    made = view.of(like_a_network(60), SPACE)
    for wrong in (np.zeros((3, 95), np.float32), np.zeros(96, np.float32)):
        with pytest.raises(errors.InvalidRequest):
            made.transform(wrong)
        with pytest.raises(errors.InvalidRequest):
            Accumulator(SPACE, 96).add(wrong)
    with pytest.raises(errors.InvalidRequest, match="NaN"):
        Accumulator(SPACE, 96).add(np.full((2, 96), np.nan, np.float32))
