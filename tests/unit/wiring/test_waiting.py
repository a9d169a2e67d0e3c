from __future__ import annotations

import pytest

from imagekin_api.wiring.waiting import MAX_WAIT_S, preferred_wait_s


@pytest.mark.parametrize(
    ("headers", "wait_s"),
    [
        ([], None),
        (["wait=20"], 20),
        (["Wait = 5"], 5),
        (['wait="7"'], 7),
        (["respond-async, wait=10"], 10),
        (["respond-async", "wait=10"], 10),
        (["respond-async; wait=10"], 10),
        (["wait=0"], 0),
        (["wait=99999"], MAX_WAIT_S),
        (["wait=-1"], None),
        (["wait=soon"], None),
        (["await=5"], None),
        (["wait=5x"], None),
        (["wait=" + "9" * 5000], None),
    ],
)
def test_a_preference_for_waiting_is_read(headers: list[str], wait_s: int | None) -> None:
    assert preferred_wait_s(headers) == wait_s
