"""Which image each row is, and which row each image has, whatever comes and goes."""

from __future__ import annotations

import numpy as np
import pytest

from imagekin_worker.matrix import id_index
from imagekin_worker.matrix.id_index import Roster


def held(rows: Roster) -> list[str]:
    return rows.names.astype(str).tolist()


@pytest.mark.parametrize("fewest_new", [0, 7, 10_000])
def test_any_order_of_changes_finds_what_a_list_would(fewest_new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The order is made anew at every look, now and then, or never."""
    monkeypatch.setattr(id_index, "FEWEST_NEW", fewest_new)
    random = np.random.default_rng(fewest_new)
    rows, expected = Roster(), []
    for number in range(300):
        if random.random() < 0.6 or not expected:
            fresh = [f"{number}-{at}" for at in range(random.integers(0, 4))]
            # what went may come back
            fresh += [f"{number - 3}-0"] if random.random() < 0.3 and f"{number - 3}-0" not in expected else []
            rows.extend(id_index.encoded(fresh))
            expected += fresh
        else:
            row = int(random.integers(len(expected)))
            rows.drop(row)
            expected[row] = expected[-1]
            expected.pop()
        assert held(rows) == expected and len(rows) == len(expected)
        asked = [f"{random.integers(number + 1)}-{random.integers(3)}" for _ in range(5)] + expected[:3]
        found = rows.find(id_index.encoded(asked)).tolist()
        assert found == [expected.index(id) if id in expected else -1 for id in asked]


def test_what_cannot_be_an_id_is_nobody() -> None:
    rows = Roster()
    rows.extend(id_index.encoded(["a" * 32, "b"]))
    assert rows.find(id_index.encoded(["", "a" * 33, "\u00e9", "b", "a" * 32])).tolist() == [-1, -1, -1, 1, 0]
    assert rows.find(id_index.encoded([])).tolist() == []
