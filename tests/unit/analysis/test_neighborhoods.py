"""Lists of the nearest rows: all pairs follow from them, also where lists are too short, and what is kept is enough."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from imagekin import errors
from imagekin_worker.analysis import neighborhoods, pairs
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.neighborhoods import LISTED, ListedPairs, Lists, Neighborhoods
from imagekin_worker.analysis.pairs import Neighbors, Pairs
from imagekin_worker.matrix import list_file, view
from kit.interruptions import finished, killed

BUDGET = 1 << 26


class Memory:
    """Keeps one file, as a worker does; `asked` counts the questions."""

    def __init__(self, folder: Path) -> None:
        self.path, self.asked = folder / "here" / "lists.nearest", 0

    def known(self, digest: Callable[[], str]) -> Lists | None:
        self.asked += 1
        found = list_file.read(self.path, digest)
        return None if found is None else Lists(*found)

    def keep(self, digest: str, lists: Lists) -> None:
        list_file.write(self.path, digest, *lists)


def rows(copies: int, n: int = 300, dim: int = 32) -> ViewedBlocks:
    """Rows of which one in ten comes once more, and some others with so many copies."""
    random = np.random.default_rng(3)
    drawn = random.standard_normal((n, dim))
    drawn[: n // 10] = drawn[-(n // 10) :] + 0.1 * random.standard_normal((n // 10, dim))
    often = np.repeat(drawn[100:103], copies, axis=0)
    drawn = np.concatenate([drawn, often + 0.02 * random.standard_normal(often.shape)]).astype(np.float32)
    return ViewedBlocks(Blocks(drawn), view.of(drawn, "space"))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict:
    """Small blocks have these tests meet every edge."""
    for name, size in (("QUERY_ROWS", 100), ("ROWS", 170), ("STEP_WORK", 1), ("CHECKED_PAIRS", 2000)):
        monkeypatch.setattr(pairs, name, size)
    return {"memory_budget_bytes": BUDGET, "folder": tmp_path}


@pytest.mark.parametrize("floor", [0.3, 0.9])
@pytest.mark.parametrize("copies", [0, 30, 110])
def test_pairs_follow_from_lists(place: dict, copies: int, floor: float) -> None:
    """Nothing is missed where a row has more copies than its list has room for, nor where most rows have."""
    source = rows(copies)
    lists = finished(Neighborhoods(source, **place)).result()
    assert lists.places.shape == (source.n, LISTED)
    expected = finished(Pairs(source, floor, **place)).result()
    listed = killed(
        ListedPairs(source, floor, lists, **place),
        lambda state: ListedPairs.resume(source, state, **place),
    )
    for one, other in zip(listed.result(), expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(expected[0]) > 3 * copies * (copies - 1) / 2


def test_the_lists_are_kept(place: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They serve the same rows in the same view alone; a damaged file is as good as none, one without room, too."""
    memory, source = Memory(tmp_path), rows(5)
    whole = killed(
        Neighborhoods(source, memory=memory, **place),
        lambda state: Neighborhoods.resume(source, state, memory=memory, **place),
    ).result()
    taken: list[object] = []
    step = Neighbors._step
    monkeypatch.setattr(Neighbors, "_step", lambda self: (taken.append(self), step(self)))

    def again(of: ViewedBlocks) -> Lists:
        taken.clear()
        return finished(Neighborhoods(of, memory=memory, **place)).result()

    for one, other in zip(again(source), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert not taken
    again(rows(6))
    assert taken
    again(source)
    data = bytearray(memory.path.read_bytes())
    data[len(data) // 2] ^= 1
    memory.path.write_bytes(data)
    for one, other in zip(again(source), whole, strict=True):
        np.testing.assert_array_equal(one, other)
    assert taken and memory.path.exists()
    memory.path.unlink()
    memory.path.mkdir()
    again(source)
    assert taken and [each.name for each in memory.path.parent.iterdir()] == [memory.path.name]


@pytest.mark.parametrize("n", [0, 1, 2, 9])
def test_few_rows(place: dict, tmp_path: Path, n: int) -> None:
    drawn = np.random.default_rng(0).standard_normal((n, 4)).astype(np.float32)
    source, memory = ViewedBlocks(Blocks(drawn), view.raw("space", 4, n)), Memory(tmp_path)
    for _ in range(2):
        lists = finished(Neighborhoods(source, memory=memory, **place)).result()
        assert lists.places.shape == (n, max(n - 1, 0))
        assert len(finished(ListedPairs(source, -1.0, lists, **place)).result()[0]) == n * (n - 1) // 2


def test_a_state_of_other_rows_is_refused(place: dict) -> None:
    source = rows(0)
    listed = Neighborhoods(source, **place)
    listed.advance()
    close = ListedPairs(source, 0.9, listed.result(), **place)
    for made in (listed, close):
        with pytest.raises(errors.JobError):
            type(made).resume(rows(1), made.state(), **place)


def test_too_many_pairs_are_refused(place: dict) -> None:
    source = rows(60)
    lists = finished(Neighborhoods(source, **place)).result()
    with pytest.raises(errors.JobError, match="1,000 pairs"):
        ListedPairs(source, 0.9, lists, memory_budget_bytes=1, folder=place["folder"]).advance()


def test_lists_of_another_length_are_not_taken(place: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory, source = Memory(tmp_path), rows(0)
    finished(Neighborhoods(source, memory=memory, **place))
    monkeypatch.setattr(neighborhoods, "LISTED", 12)
    assert finished(Neighborhoods(source, memory=memory, **place)).result().places.shape == (source.n, 12)
