"""Images and labels out as files without vectors, read by the packages that they are for."""

from __future__ import annotations

import csv
import io
import json
import tracemalloc
from pathlib import Path
from typing import Any

import httpx2
import pytest

from imagekin.store import exports
from kit.hand import Hand, item
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

KEYS = ["b.jpg", "a/ß 1.jpg", "https://example.org/c.jpg"]
METADATA: list[dict[str, Any]] = [{"label": 'chair, "red"'}, {"label": "table", "n": [1, None]}, {"kind": 7}]
# by key
ORDER = [1, 0, 2]


@pytest.fixture
def ids(hand: Hand) -> list[str]:
    hand.collection()
    items = [item(key, at, **METADATA[at]) for at, key in enumerate(KEYS)]
    items[0].width, items[0].height, items[0].format = 640, 480, "JPEG"
    return hand.store(items)


def export(client: httpx2.Client, format: str, **params: str) -> httpx2.Response:
    answer = client.get("/v1/collections/archive/export", params={"format": format, **params})
    assert answer.status_code == 200, answer.text
    return answer


@BOTH_ENGINES
def test_lines_and_a_table_have_all_that_is_known(client: httpx2.Client, ids: list[str]) -> None:
    found = [json.loads(line) for line in export(client, "jsonl").text.splitlines()]
    shown = {each["id"]: each for each in client.get("/v1/collections/archive/images").json()["items"]}
    assert [each["key"] for each in found] == [KEYS[at] for at in ORDER]
    assert [{**each, "created_at": shown[each["id"]]["created_at"]} for each in found] == [
        shown[ids[at]] for at in ORDER
    ]
    answer = export(client, "csv")
    assert answer.headers["Content-Disposition"] == 'attachment; filename="archive.csv"'
    rows = list(csv.DictReader(io.StringIO(answer.content.decode(), newline="")))
    assert [row["label"] for row in rows] == ["table", 'chair, "red"', ""]
    assert [json.loads(row["metadata"]) for row in rows] == [METADATA[at] for at in ORDER]
    assert (rows[1]["id"], rows[1]["width"], rows[1]["height"]) == (ids[0], "640", "480")
    assert [row["kind"] for row in csv.DictReader(io.StringIO(export(client, "csv", field="kind").text))] == [
        "", "", "7"
    ]  # fmt: skip


def test_label_studio_gets_tasks_with_the_labels_that_are_there(client: httpx2.Client, ids: list[str]) -> None:
    tasks = export(client, "labelstudio").json()
    assert [task["data"]["image"] for task in tasks] == [
        "/data/local-files/?d=a/%C3%9F%201.jpg",
        "/data/local-files/?d=b.jpg",
        "https://example.org/c.jpg",
    ]
    assert ["annotations" in task for task in tasks] == [True, True, False]
    assert tasks[1]["annotations"] == [
        {
            "result": [
                {"from_name": "label", "to_name": "image", "type": "choices", "value": {"choices": ['chair, "red"']}}
            ]
        }
    ]


def test_coco_is_read_by_its_own_package(client: httpx2.Client, ids: list[str], tmp_path: Path) -> None:
    answer = export(client, "coco")
    found = answer.json()
    assert found["info"]["space_id"] == client.get("/v1/collections/archive").json()["space_id"]
    (tmp_path / "coco.json").write_bytes(answer.content)
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed").COCO(tmp_path / "coco.json")
    assert [each["name"] for each in coco.loadCats(coco.getCatIds())] == ['chair, "red"', "table"]
    [chair] = coco.loadImgs(coco.getImgIds(catIds=coco.getCatIds(catNms=['chair, "red"'])))
    assert (chair["file_name"], chair["imagekin_id"], chair["width"]) == ("b.jpg", ids[0], 640)
    [box] = coco.loadAnns(coco.getAnnIds(imgIds=[chair["id"]]))
    assert (box["bbox"], box["area"]) == ([0, 0, 640, 480], 640 * 480)


@pytest.mark.parametrize("format", ["jsonl", "csv", "labelstudio", "coco"])
def test_an_empty_collection_and_a_large_one(server: Running, client: httpx2.Client, hand: Hand, format: str) -> None:
    hand.collection()
    empty = export(client, format)
    if format in ("labelstudio", "coco"):
        empty.json()
    check_problem(client.get("/v1/collections/none/export", params={"format": format}), 404, "collection_not_found")
    text = "x" * 2_000
    hand.store([item(f"{at}.jpg", at % 9, label="a", text=text) for at in range(8_000)])
    tracemalloc.start()
    size = sum(len(piece) for piece in exports.write(server.database, "admin", "archive", format))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > 8_000 * (2_000 if format != "coco" else 100)
    assert peak < 8_000 * 2_000, "what is held at a time is a share of it"
