"""Rows read in blocks, from memory and from files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imagekin import errors
from imagekin_worker.analysis import blocks
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.matrix import view

ROWS = np.random.default_rng(0).standard_normal((500, 24), dtype=np.float32)


@pytest.fixture(params=["memory", "file", "halves"])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> np.ndarray:
    if request.param == "memory":
        return ROWS
    dtype = np.float32 if request.param == "file" else np.float16
    ROWS.astype(dtype).tofile(tmp_path / "rows")
    return np.memmap(tmp_path / "rows", dtype, "r", shape=ROWS.shape)


def test_what_is_read_is_what_is_stored(stored: np.ndarray) -> None:
    rows = Blocks(stored)
    assert (len(rows), rows.dim) == ROWS.shape
    found = np.concatenate([rows.read(span) for span in rows.spans(64)])
    np.testing.assert_array_equal(found, stored.astype(np.float32))
    index = np.array([400, 3, 3, 499, 0])
    np.testing.assert_array_equal(rows.take(index), stored.astype(np.float32)[index])
    assert found.dtype == rows.take(index).dtype == np.float32


def test_spans_go_on_from_anywhere() -> None:
    assert list(Blocks(ROWS).spans(200, start=150)) == [slice(150, 350), slice(350, 500)]
    assert [*Blocks(ROWS[:0]).spans()] == []


@pytest.mark.parametrize("budget", [1 << 20, 1000])
def test_rows_in_a_view_are_kept_in_memory_or_in_a_file(stored: np.ndarray, budget: int, tmp_path: Path) -> None:
    made = view.of(stored, "space")
    *steps, found = blocks.kept(ViewedBlocks(Blocks(stored), made), budget, tmp_path / "cache")
    assert steps and all(step is None for step in steps)
    assert found is not None
    np.testing.assert_array_equal(found, made.transform(stored))
    assert isinstance(found, np.memmap) == (budget == 1000)
    assert not list(tmp_path.glob("cache/*"))


def test_other_arrays_are_refused() -> None:
    for wrong in (ROWS.astype(np.float64), ROWS[0], np.zeros((3, 0), np.float32)):
        with pytest.raises(errors.InvalidRequest):
            Blocks(wrong)
