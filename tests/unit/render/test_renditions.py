from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest

from imagekin_api.render import renditions
from imagekin_api.render.renditions import CSV, JSON, NDJSON, Result

ROWS = [{"id": f"{n}", "key": f'ü {n},\n"x".jpg', "label": n % 3, "distance": n / 7} for n in range(1300)]


def text(result: Result, media_type: str) -> str:
    return b"".join(renditions.render(result, media_type)).decode()


@pytest.mark.parametrize("summary", [{}, {"n_clusters": 3}])
@pytest.mark.parametrize("rows", [[], ROWS[:1], ROWS])
def test_rows_stream_into_each_form(summary: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    result = Result(summary, "assignments", ("id", "key", "label", "distance"), lambda: iter(rows))
    assert json.loads(text(result, JSON)) == {**summary, "assignments": rows}
    assert [json.loads(line) for line in text(result, NDJSON).splitlines()] == rows
    read = csv.DictReader(io.StringIO(text(result, CSV), newline=""))
    assert [{**row, "label": int(row["label"]), "distance": float(row["distance"])} for row in read] == rows


def test_rows_are_read_no_further_than_they_are_sent() -> None:
    taken = []

    def rows() -> Any:
        for row in ROWS:
            taken.append(row)
            yield row

    pieces = renditions.render(Result({}, "assignments", (), rows), JSON)
    assert not taken
    next(pieces)
    assert 0 < len(taken) < len(ROWS)


def test_cells_that_are_no_plain_values_are_json() -> None:
    result = Result({}, "rows", ("a", "b", "c"), lambda: [{"a": {"ü": [1]}, "b": None, "c": "=1+1"}])
    assert text(result, CSV) == '"a","b","c"\r\n"{""ü"": [1]}","","=1+1"\r\n'


def test_members_of_a_row_are_lines_of_csv() -> None:
    row = {"group": 0, "keep": {"id": "a"}, "members": [{"id": "a", "score": 1.0}, {"id": "b", "score": 0.5}]}
    result = Result({}, "groups", ("group", "id", "score", "keep.id", "gone.id"), lambda: [row], "members")
    assert text(result, CSV).splitlines()[1:] == ['0,"a",1.0,"a",""', '0,"b",0.5,"a",""']
    assert json.loads(text(result, NDJSON)) == row
