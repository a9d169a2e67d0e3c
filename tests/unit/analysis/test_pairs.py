"""All pairs above a cosine, and nearest rows, against brute force in float64."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagekin import errors
from imagekin_worker.analysis import pairs
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.matrix import view
from kit.interruptions import killed

BUDGET = 1 << 26


def vectors(n: int, dim: int = 48, seed: int = 0) -> np.ndarray:
    """Vectors of which a tenth are near copies of others, most of their length in few directions."""
    random = np.random.default_rng(seed)
    rows = random.standard_normal((n, dim)) * np.geomspace(3, 0.05, dim)
    copies = random.choice(n, n // 10, replace=False)
    rows[copies] = rows[random.choice(n, n // 10)] + 0.02 * random.standard_normal((n // 10, dim))
    return rows.astype(np.float32)


def viewed(rows: np.ndarray, name: str = view.RAW) -> ViewedBlocks:
    return ViewedBlocks(Blocks(rows), view.of(rows, "space", name))


def brute(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    first, second = (
        each.astype(np.float64) / np.linalg.norm(each.astype(np.float64), axis=1, keepdims=True)
        for each in (rows, others)
    )
    return first @ second.T


@pytest.fixture(params=[True, False], ids=["reduced", "in full"])
def reduces(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Few rows are compared in full unless told otherwise; small blocks have these tests meet every edge."""
    monkeypatch.setattr(pairs, "LEAST_ROWS", 0 if request.param else 1 << 30)
    monkeypatch.setattr(pairs, "WIDTHS", (8, 16, 24))
    monkeypatch.setattr(pairs, "LOOKED_AT", 100)
    monkeypatch.setattr(pairs, "QUERY_ROWS", 100)
    monkeypatch.setattr(pairs, "ROWS", 170)
    monkeypatch.setattr(pairs, "STEP_WORK", 1)
    return request.param


@pytest.mark.parametrize("name", [view.RAW, view.CALIBRATED])
def test_no_pair_is_missed(name: str, reduces: bool, tmp_path: Path) -> None:
    source = viewed(vectors(730), name)
    assert (pairs.basis_of(source, 0.9) is not None) or not reduces
    unit = source.read(slice(0, 730)).astype(np.float64)
    exact = np.triu(unit @ unit.T, 1)
    for floor in (0.85, 0.95):
        search = pairs.Pairs(source, floor, memory_budget_bytes=BUDGET, folder=tmp_path)
        search.advance()
        first, second, cosines = search.result()
        expected = np.argwhere(exact >= floor)
        np.testing.assert_array_equal(np.stack([first, second], 1), expected)
        np.testing.assert_allclose(cosines, exact[first, second], atol=1e-7)
        assert 20 < len(expected) < 20_000 and search.fraction == 1


def test_pairs_with_others(reduces: bool, tmp_path: Path) -> None:
    rows, others = vectors(310), np.concatenate([vectors(90, seed=1), vectors(310)[40:80]])
    search = pairs.Pairs(viewed(rows), 0.95, against=viewed(others), memory_budget_bytes=BUDGET, folder=tmp_path)
    search.advance()
    first, second, _ = search.result()
    assert set(zip(first.tolist(), second.tolist(), strict=True)) == {
        tuple(pair) for pair in np.argwhere(brute(rows, others) >= 0.95).tolist()
    }
    assert len(first) >= 40


def test_rows_in_a_file_beyond_the_budget(reduces: bool, tmp_path: Path) -> None:
    rows = vectors(400).astype(np.float16)
    rows.tofile(tmp_path / "rows")
    mapped = np.memmap(tmp_path / "rows", np.float16, "r", shape=rows.shape)
    search = pairs.Pairs(viewed(mapped), 0.95, memory_budget_bytes=10_000, folder=tmp_path)
    search.advance()
    assert len(search.result()[0]) == np.count_nonzero(np.triu(brute(rows, rows) >= 0.95, 1))


def test_the_answers_are_the_same_after_kills(reduces: bool, tmp_path: Path) -> None:
    source = viewed(vectors(350), view.CALIBRATED)
    place = {"memory_budget_bytes": BUDGET, "folder": tmp_path}
    queries = np.arange(0, 350, 3)
    kinds: list[tuple[Stepper, Callable[[bytes], Stepper]]] = [
        (pairs.Pairs(source, 0.9, **place), lambda state: pairs.Pairs.resume(source, state, **place)),
        (pairs.Neighbors(source, 5, **place), lambda state: pairs.Neighbors.resume(source, state, **place)),
    ]
    for made, resume in kinds:
        straight = resume(made.state())
        straight.advance()
        stopped = killed(made, resume, least=6)
        for one, other in zip(straight.result(), stopped.result(), strict=True):  # pyright: ignore[reportAttributeAccessIssue]
            np.testing.assert_array_equal(one, other)
    nearest = pairs.Nearest(source, queries, 5)
    nearest.advance(lambda: True)
    again = pairs.Nearest.resume(source, queries, nearest.state())
    nearest.advance()
    again.advance()
    np.testing.assert_array_equal(nearest.result()[0], again.result()[0])


def test_a_state_of_other_rows_is_refused(tmp_path: Path) -> None:
    state = pairs.Neighbors(viewed(vectors(50)), 3, memory_budget_bytes=BUDGET, folder=tmp_path).state()
    with pytest.raises(errors.JobError):
        pairs.Neighbors.resume(viewed(vectors(51)), state, memory_budget_bytes=BUDGET, folder=tmp_path)


def test_nearest_rows(reduces: bool, tmp_path: Path) -> None:
    rows = vectors(560)
    exact = brute(rows, rows)
    np.fill_diagonal(exact, -2)
    expected = -np.sort(-exact, axis=1)[:, :7]
    every = pairs.Neighbors(viewed(rows), 7, memory_budget_bytes=BUDGET, folder=tmp_path)
    every.advance()
    places, cosines = every.result()
    np.testing.assert_allclose(cosines, expected, atol=1e-6)
    np.testing.assert_allclose(np.take_along_axis(exact, places.astype(np.int64), 1), expected, atol=1e-6)
    some = pairs.Nearest(viewed(rows), np.array([0, 5, 300, 559]), 7)
    some.advance()
    np.testing.assert_allclose(some.result()[1], expected[[0, 5, 300, 559]], atol=1e-6)


@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_rows(n: int, tmp_path: Path) -> None:
    source = viewed(vectors(12)[:n])
    every = pairs.Neighbors(source, 10, memory_budget_bytes=BUDGET, folder=tmp_path)
    assert every.advance() and every.result()[0].shape == (n, max(n - 1, 0))
    search = pairs.Pairs(source, -1.0, memory_budget_bytes=BUDGET, folder=tmp_path)
    assert search.advance() and len(search.result()[0]) == n * (n - 1) // 2


def test_too_many_pairs_are_refused(tmp_path: Path) -> None:
    search = pairs.Pairs(viewed(np.ones((60, 4), np.float32)), 0.9, memory_budget_bytes=1, folder=tmp_path)
    with pytest.raises(errors.JobError, match="1,000 pairs"):
        search.advance()


@given(st.integers(0, 1 << 32), st.integers(1, 40), st.floats(0.01, 3))
def test_reduced_products_bound_cosines(seed: int, width: int, spread: float) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((30, 40)) * np.geomspace(1, 0.01, 40) ** spread
    unit = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    basis = np.linalg.qr(random.standard_normal((40, 40)))[0][:, :width].astype(np.float32)
    bounds = pairs.reduced(unit, basis)
    assert (bounds @ bounds.T >= unit.astype(np.float64) @ unit.T - pairs.MARGIN).all()


MEASURED = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from imagekin_worker.analysis import pairs
from imagekin_worker.matrix import view
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks

shape = (10_000, 1280)
rows = np.memmap(sys.argv[1], np.float32, "r", shape=shape)
torch.ones(9, 9) @ torch.ones(9, 9)
pairs.basis_of(ViewedBlocks(Blocks(rows[:9000]), view.raw("s", 1280, 9000)), 0.95)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
source = ViewedBlocks(Blocks(rows), view.raw("s", 1280, len(rows)))
search = pairs.Pairs(source, 0.95, memory_budget_bytes=1 << 20, folder=Path(sys.argv[2]))
search.advance()
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, len(search.result()[0]))
"""


def test_memory_is_bounded(tmp_path: Path) -> None:
    with (tmp_path / "rows").open("wb") as file:
        for seed in range(4):
            vectors(2500, 1280, seed).tofile(file)
    command = [sys.executable, "-c", MEASURED, tmp_path / "rows", tmp_path]
    grown, found = map(int, subprocess.check_output(command, timeout=120).split())
    # the rows are 50,000 KiB
    assert grown < 35_000 and found > 500
