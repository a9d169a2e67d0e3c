from __future__ import annotations

import os
import threading
from collections.abc import Iterable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from imagekin import errors
from imagekin_worker.matrix import neighbors, scan, tensors
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.neighbors import Matrix, Neighbor
from imagekin_worker.matrix.view import Accumulator

DIM = 24


def vectors(n: int, dim: int = DIM, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)


def names(n: int, prefix: str) -> list[str]:
    """Names whose order is not the order of the rows."""
    return [f"{prefix}{number:05d}" for number in np.random.default_rng(9).permutation(n)]


def filled(rows: np.ndarray) -> Matrix:
    matrix = Matrix(rows.shape[1])
    matrix.upsert(names(len(rows), "id"), rows)
    return matrix


def backwards(ids: Iterable[str]) -> dict[str, str]:
    """Keys in the opposite order of ids."""
    return {id: f"key{99_999 - int(id[2:]):05d}" if id[2:].isdigit() else f"zzz {id}" for id in ids}


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    a, b = a.astype(np.float64), b.astype(np.float64)
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length else 0.0


def brute_force(stored: dict[str, np.ndarray], query: np.ndarray, top_k: int) -> list[tuple[str, float]]:
    key_of = backwards(stored)
    ranked = sorted((-round(cosine(row, query), 6), key_of[image_id], image_id) for image_id, row in stored.items())
    return [(image_id, -score) for score, _, image_id in ranked[:top_k]]


def contents(matrix: Matrix) -> dict[str, np.ndarray]:
    return dict(zip(matrix.ids, matrix.raw().copy(), strict=True))


def hold(found: list[Neighbor], expected: list[tuple[str, float]]) -> None:
    assert [answer.rank for answer in found] == list(range(1, len(expected) + 1))
    assert [answer.score for answer in found] == pytest.approx([score for _, score in expected], abs=1e-5)
    assert [answer.id for answer in found] == [image_id for image_id, _ in expected]


@pytest.mark.parametrize("top_k", [1, 5, 299, 300, 1000])
def test_search_equals_brute_force(top_k: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", 64)
    rows = vectors(300)
    matrix = filled(rows)
    queries = np.concatenate([vectors(6, seed=1), rows[:2] * 7])
    for query, found in zip(queries, matrix.search(queries, top_k, keys=backwards), strict=True):
        hold(found, brute_force(contents(matrix), query, top_k))
        assert all(answer.key == backwards([answer.id])[answer.id] for answer in found)
        assert all(round(answer.score, 6) == answer.score for answer in found)


def test_one_query_finds_what_it_finds_in_company() -> None:
    matrix, queries = filled(vectors(500)), vectors(70, seed=1)
    together = matrix.search(queries, 10)
    assert together == [matrix.search(query[None], 10)[0] for query in queries]


@pytest.mark.parametrize("block_rows", [50, 16384])
def test_equal_scores_go_by_key_at_the_cut_too(block_rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", block_rows)
    same = vectors(1)
    matrix = filled(np.repeat(same, 1000, axis=0))
    better = same + 0.01 * vectors(1, seed=4)
    matrix.upsert(["better"], better)
    (found,) = matrix.search(better, 6, keys=backwards)
    assert [answer.key for answer in found] == ["zzz better", *(f"key{99_000 + number}" for number in range(5))]
    (found,) = matrix.search(better, 3, exclude=["better"], keys=backwards)
    assert [answer.key for answer in found] == [f"key{99_000 + number}" for number in range(3)]


def test_an_image_without_a_key_is_left_out() -> None:
    """It was deleted long ago, and the matrix does not know yet."""
    matrix, rows = filled(vectors(9)), vectors(9)
    gone = matrix.search(rows[:1], 1)[0][0].id
    (found,) = matrix.search(rows[:1], 4, keys=lambda ids: {id: id for id in ids if id != gone})
    assert [answer.rank for answer in found] == [1, 2, 3]
    assert gone not in {answer.id for answer in found}


def test_near_ties_within_the_rounding_go_by_key() -> None:
    """Vectors of other lengths in one direction score alike only after rounding."""
    matrix = Matrix(DIM)
    direction = vectors(1)
    lengths = np.linspace(0.1, 10, 200, dtype=np.float32)[:, None]
    matrix.upsert(names(200, "id"), direction * lengths)
    (found,) = matrix.search(direction, 7, keys=backwards)
    assert [answer.key for answer in found] == [f"key{99_800 + number}" for number in range(7)]
    assert {answer.score for answer in found} == {1.0}


def test_min_score_is_held_against_the_rounded_score() -> None:
    matrix = Matrix(2)
    matrix.upsert(["a", "b", "c"], np.array([[3, 4], [1, 0], [-1, 0]], np.float32))
    query = np.array([[1, 0]], np.float32)
    assert [answer.id for answer in matrix.search(query, 9, min_score=0.6)[0]] == ["b", "a"]
    assert [answer.id for answer in matrix.search(query, 9, min_score=0.600001)[0]] == ["b"]
    assert matrix.search(query, 9, min_score=1.1) == [[]]
    assert [answer.score for answer in matrix.search(query, 9)[0]] == [1.0, 0.6, -1.0]


def test_exclude_and_among(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neighbors, "GATHERED_BYTES", 4 * DIM * 10)
    rows = vectors(200)
    matrix = filled(rows)
    stored = contents(matrix)
    own = matrix.ids[:3]
    allowed = set(matrix.ids[::2]) | {"unknown"}
    found = matrix.search(rows[:4], 5, exclude=[*own[:2], "unknown", None], among=[allowed] * 4, keys=backwards)
    for index, hidden in enumerate([own[0], own[1], None, None]):
        left = {name: stored[name] for name in stored if name in allowed and name != hidden}
        hold(found[index], brute_force(left, rows[index], 5))
    assert matrix.search(rows[:1], 5, among=[[]]) == [[]]
    assert [len(answers) for answers in matrix.search(rows[:1], 5, among=[own], exclude=own[:1])] == [2]


def test_zero_vectors_score_zero() -> None:
    matrix = Matrix(3)
    matrix.upsert(["zero", "up"], np.array([[0, 0, 0], [0, 0, 2]], np.float32))
    assert matrix.search(np.zeros((1, 3), np.float32), 5) == [
        [Neighbor(1, "up", "up", 0.0), Neighbor(2, "zero", "zero", 0.0)]
    ]
    (found,) = matrix.search(np.array([[0, 0, -1]], np.float32), 5)
    assert [(answer.id, answer.score) for answer in found] == [("zero", 0.0), ("up", -1.0)]
    assert "-0.0" not in repr(matrix.search(np.array([[-1, 0, 0]], np.float32), 5))


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_lengths_do_not_matter(scale: float) -> None:
    rows, query = vectors(50), vectors(1, seed=1)
    plain = filled(rows).search(query, 9)[0]
    scaled = filled(rows * np.float32(scale)).search(query * np.float32(scale), 9)[0]
    assert [answer.id for answer in scaled] == [answer.id for answer in plain]
    assert [answer.score for answer in scaled] == pytest.approx([answer.score for answer in plain], abs=1.1e-6)


def test_an_empty_matrix_and_no_queries() -> None:
    assert Matrix(4).search(np.ones((2, 4), np.float32), 3) == [[], []]
    assert filled(vectors(3)).search(np.empty((0, DIM), np.float32), 3) == []
    assert Matrix(4).raw().shape == (0, 4)


def test_what_is_refused_changes_nothing() -> None:
    matrix = filled(vectors(5))
    before = contents(matrix)
    for bad in (np.nan, np.inf, 1e30):
        broken = vectors(2)
        broken[1, 3] = bad
        with pytest.raises(errors.InvalidRequest, match="NaN"):
            matrix.search(broken, 3)
        with pytest.raises(errors.InvalidRequest, match="NaN"):
            matrix.upsert(["x", "y"], broken)
    for wrong in (vectors(2, DIM + 1), vectors(2)[0]):
        with pytest.raises(errors.InvalidRequest, match=f"{DIM} dimensions"):
            matrix.search(wrong, 3)
        with pytest.raises(errors.InvalidRequest, match=f"{DIM} dimensions"):
            matrix.upsert(["x", "y"], wrong)
    with pytest.raises(errors.InvalidRequest):
        matrix.search(vectors(1), 0)
    with pytest.raises(errors.InvalidRequest):
        matrix.search(vectors(2), 3, exclude=["x"])
    with pytest.raises(errors.InvalidRequest):
        matrix.upsert(["x"], vectors(2))
    after = contents(matrix)
    assert after.keys() == before.keys() and len(matrix) == 5
    assert all(np.array_equal(after[name], before[name]) for name in before)


def test_upsert_replaces_known_ids_and_the_last_of_a_repeated_one() -> None:
    matrix, rows = filled(vectors(4)), vectors(4, seed=5)
    known = matrix.ids[1]
    matrix.upsert([known, "new", "new"], rows[:3])
    assert len(matrix) == 5 and "new" in matrix and "other" not in matrix
    np.testing.assert_array_equal(matrix.vector(known), rows[0])
    np.testing.assert_array_equal(matrix.vector("new"), rows[2])
    (found,) = matrix.search(rows[2:3], 1)
    assert (found[0].id, found[0].score) == ("new", 1.0)
    assert matrix.search(rows[:1], 1)[0][0].id == known
    with pytest.raises(errors.ImageNotFound):
        matrix.vector("other")


def test_raw_vectors_are_bit_exact_and_read_only() -> None:
    rows = vectors(100)
    matrix = filled(rows)
    np.testing.assert_array_equal(matrix.raw(), rows)
    with pytest.raises(ValueError, match="read-only"):
        matrix.raw()[0, 0] = 1
    matrix.upsert(["later"], rows[:1])


def test_reserved_room_is_not_copied_again() -> None:
    matrix = Matrix(DIM)
    matrix.reserve(3000)
    before = matrix.nbytes
    assert before == 3000 * (DIM + 1) * 4
    room = set()
    for start in range(0, 3000, 500):
        rows = vectors(500)
        ids = [f"{start}-{number}" for number in range(500)]
        matrix.upsert(ids, rows)
        room.add(matrix.raw().ctypes.data)
    assert len(room) == 1 and matrix.nbytes == before


def test_float16_vectors_are_taken() -> None:
    matrix = Matrix(DIM)
    rows = vectors(3).astype(np.float16)
    matrix.upsert(["a", "b", "c"], rows)
    np.testing.assert_array_equal(matrix.raw(), rows.astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_in_a_devices_memory(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU's rows go through, on the CPU's: tensors' own copies, large blocks, one thread."""
    asked: list[torch.device] = []
    monkeypatch.setattr(tensors, "by_numpy", asked.append)
    scanner = scan.Scanner(threads=1)
    monkeypatch.setattr(scanner, "step", lambda *_: 10_000)
    matrix = Matrix(DIM, dtype=dtype, scanner=scanner)
    rows = vectors(500).astype(dtype).astype(np.float32)
    matrix.upsert(names(500, "id"), rows)
    matrix.upsert([matrix.ids[3], "new"], rows[:2] * 2)
    matrix.remove(matrix.ids[10:20])
    stored = contents(matrix)
    own = matrix.ids[:2]
    queries = np.concatenate([rows[:2], vectors(3, seed=2)])
    for query, found, hidden in zip(
        queries,
        matrix.search(queries, 9, exclude=[*own, None, None, None], keys=backwards),
        [*own, "", "", ""],
        strict=True,
    ):
        hold(found, brute_force({id: one for id, one in stored.items() if id != hidden}, query, 9))
    before = len(asked)
    np.testing.assert_array_equal(matrix.vector("new"), rows[1] * 2)
    assert len(asked) > before, "the rows were read without asking where they are"


def test_cores_are_counted_where_the_system_has_no_affinity(monkeypatch: pytest.MonkeyPatch) -> None:
    """As macOS, which has none."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    assert scan.Scanner().threads == os.cpu_count()


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_cores_answers_alike(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BLOCK_ROWS", 32)
    rows = np.round(vectors(700, 4), 1)
    matrix = Matrix(4, scanner=scan.Scanner(threads=threads))
    matrix.upsert(names(700, "id"), rows)
    queries = rows[:40]
    for query, found in zip(queries, matrix.search(queries, 12, keys=backwards), strict=True):
        hold(found, brute_force(contents(matrix), query, 12))


def test_a_callers_threads_are_what_they_were() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    seen: list[int] = []
    try:
        for count in (10, 20_000):
            filled(vectors(count)).search(vectors(2), 3)
            assert torch.get_num_threads() == 3
        another = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        another.start()
        another.join()
    finally:
        torch.set_num_threads(before)
    assert seen == [3]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_small_matrix_equals_brute_force(data: st.DataObject) -> None:
    """Few values make many ties and zero vectors."""
    n, dim = data.draw(st.integers(0, 40)), data.draw(st.integers(1, 3))
    numbers = st.lists(st.sampled_from([-2.0, -1.0, 0.0, 1.0, 3.0]), min_size=(n + 1) * dim, max_size=(n + 1) * dim)
    rows = np.array(data.draw(numbers), np.float32).reshape(n + 1, dim)
    matrix = filled(rows[:n])
    top_k = data.draw(st.integers(1, 45))
    (found,) = matrix.search(rows[n:], top_k, keys=backwards)
    hold(found, brute_force(contents(matrix), rows[n], top_k))


class MatrixAgainstDict(RuleBasedStateMachine):
    """Any order of changes leaves what a dict would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = Matrix(3)
        self.model: dict[str, np.ndarray] = {}
        self.seed = 0

    @rule(ids=st.lists(st.sampled_from("abcdefgh"), max_size=8))
    def upsert(self, ids: list[str]) -> None:
        self.seed += 1
        rows = vectors(len(ids), 3, self.seed)
        self.matrix.upsert(ids, rows)
        self.model |= dict(zip(ids, rows, strict=True))

    @rule(ids=st.lists(st.sampled_from("abcdefgh"), max_size=8))
    def remove(self, ids: list[str]) -> None:
        known = self.model.keys() & set(ids)
        assert self.matrix.remove(ids) == len(known)
        for image_id in known:
            del self.model[image_id]

    @invariant()
    def same(self) -> None:
        held = contents(self.matrix)
        assert held.keys() == self.model.keys() and len(self.matrix) == len(self.model)
        for image_id, row in self.model.items():
            np.testing.assert_array_equal(held[image_id], row)
        query = np.array([[1, -2, 0.5]], np.float32)
        hold(self.matrix.search(query, 5, keys=backwards)[0], brute_force(self.model, query[0], 5))


TestMatrixAgainstDict = MatrixAgainstDict.TestCase
TestMatrixAgainstDict.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)


def test_the_calibrated_view_is_exact_through_changes_and_filters() -> None:
    random = np.random.default_rng(8)
    rows = (np.maximum(random.standard_normal((3000, DIM)) + 0.3, 0) ** 2).astype(np.float32)
    ids = [f"{at:05}" for at in range(len(rows))]
    matrix = Matrix(DIM, sums=Accumulator("space", DIM))
    matrix.upsert(ids, rows[::-1].copy())
    assert matrix.sums is not None
    matrix.adopt(matrix.sums.view())
    matrix.upsert(ids, rows)
    matrix.remove(ids[::7])
    kept = [at for at in range(len(rows)) if at % 7]
    made = views.of(rows[kept], "space")
    assert matrix.sums.view().id == made.id
    matrix.adopt(made)
    exact = made.exact(rows)
    few, many = set(ids[:60]), set(ids[::2])
    found = matrix.search(rows[[1, 2, 3]], 9, exclude=[ids[1], None, None], among=[None, few, many])
    for answers, query, allowed in zip(found, (1, 2, 3), (set(ids) - {ids[1]}, few, many), strict=True):
        scores = {ids[at]: round(float(exact[at] @ exact[query]), 6) for at in kept if ids[at] in allowed}
        best = sorted(scores.items(), key=lambda each: (-each[1], each[0]))[:9]
        assert [(each.id, each.score) for each in answers] == best
