"""Outliers, near-duplicates and splits of the same vectors: who comes second computes no pass over them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from imagekin_worker.analysis import duplicates, pairs
from imagekin_worker.kinds import pinned
from kit.analyses import result_of, resumed
from kit.crew import Crew
from kit.hand import Hand
from kit.known_vectors import image
from kit.serving import BOTH_ENGINES, Running

pytestmark = BOTH_ENGINES

COMPARING = (pairs.Neighbors, pairs.Pairs, pairs.Nearest)


@pytest.fixture
def archive(hand: Hand) -> None:
    """Sixty images, copies of some, and two files with the same bytes of which the second is the better one."""
    hand.collection()
    hand.store(
        [
            *(image(f"{at:02}.jpg", at) for at in range(60)),
            *(image(f"copy-{at}.jpg", 100 + at, like=at, cosine=0.97) for at in range(5)),
            *(image(f"twin-{at}.jpg", 50, metadata={"more": at}) for at in range(2)),
        ]
    )


@pytest.fixture
def rows_compared(monkeypatch: pytest.MonkeyPatch) -> Callable[[], dict[str, int]]:
    """Returns how often each kind of comparison took a step since it was last asked."""
    steps: dict[str, int] = {}

    def counted(kind: type) -> None:
        step = kind._step

        def one(self: Any) -> None:
            steps[kind.__name__] = steps.get(kind.__name__, 0) + 1
            step(self)

        monkeypatch.setattr(kind, "_step", one)

    for kind in COMPARING:
        counted(kind)

    def taken() -> dict[str, int]:
        found = dict(steps)
        steps.clear()
        return found

    return taken


def alone(server: Running, client: httpx2.Client, kind: str, **body: Any) -> dict[str, Any]:
    """Return the answer of a worker that keeps no files."""
    crew = Crew(server.settings.model_copy(update={"matrix_cache_bytes": 0}))
    try:
        return result_of(client, crew, kind, **body)
    finally:
        crew.close()


@pytest.mark.usefixtures("archive")
@pytest.mark.parametrize(("first", "second"), [("outliers", "duplicates"), ("duplicates", "outliers")])
@pytest.mark.parametrize("view", ["raw", "calibrated"])
def test_the_second_job_compares_nothing(
    client: httpx2.Client,
    server: Running,
    crew: Crew,
    rows_compared: Callable[[], dict[str, int]],
    first: str,
    second: str,
    view: str,
) -> None:
    expected = {kind: alone(server, client, kind, view=view) for kind in (first, second)}
    assert rows_compared()["Neighbors"] and expected["duplicates"]["groups"]
    assert result_of(client, crew, first, view=view) == expected[first]
    assert rows_compared()["Neighbors"]
    assert result_of(client, crew, second, view=view) == expected[second]
    assert rows_compared() == {}
    # nor does the same job with another threshold or number
    other = {"threshold": 0.9} if first == "duplicates" else {"n": 7}
    again = result_of(client, crew, first, view=view, **other)
    assert rows_compared() == {} and again == alone(server, client, first, view=view, **other)


@pytest.mark.usefixtures("archive")
def test_a_split_after_duplicates_compares_nothing(
    client: httpx2.Client, server: Running, crew: Crew, rows_compared: Callable[[], dict[str, int]]
) -> None:
    result_of(client, crew, "duplicates")
    rows_compared()
    made = result_of(client, crew, "split", field="one")
    assert rows_compared() == {}
    other = alone(server, client, "split", field="two")
    assert (made["groups"], [one["images"] for one in made["counts"]]) == (
        other["groups"], [one["images"] for one in other["counts"]],
    )  # fmt: skip
    assert [row["share"] for row in made["rows"]] == [row["share"] for row in other["rows"]]


@pytest.mark.usefixtures("archive")
def test_in_a_large_collection_duplicates_take_the_lists_of_outliers(
    client: httpx2.Client,
    server: Running,
    crew: Crew,
    rows_compared: Callable[[], dict[str, int]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By themselves they compare rows in fewer directions, and a sample in full: that alone is left then."""
    monkeypatch.setattr(duplicates, "ALL_ROWS", 10)
    monkeypatch.setattr(duplicates, "SAMPLED_ROWS", 20)
    expected = alone(server, client, "duplicates")
    assert rows_compared().keys() == {"Nearest", "Pairs"}
    result_of(client, crew, "outliers", view="raw")
    rows_compared()
    assert result_of(client, crew, "duplicates") == expected
    assert rows_compared().keys() == {"Nearest"}


@pytest.mark.usefixtures("archive")
def test_the_answers_are_the_same_after_kills_with_what_is_kept(
    client: httpx2.Client, server: Running, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = {kind: alone(server, client, kind, view="raw") for kind in ("duplicates", "outliers")}
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    for size in ("QUERY_ROWS", "ROWS", "STEP_WORK"):
        monkeypatch.setattr(pairs, size, 16)
    # the first makes the lists, the others take them
    for kind in ("duplicates", "outliers", "duplicates"):
        assert resumed(server, client, kind, view="raw") == expected[kind]
