"""The demonstration's flow, against a small server over real HTTP; what a real service answers, the e2e test pins."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from imagekin.client import Client
from imagekin.demo import run
from imagekin.schemas import Neighbor
from kit.fake_server import PNG, FakeServer, progress

KEYS = [f"{kind}-{theme}-{n}.jpg" for kind in ("sofa", "table") for theme in ("new", "old") for n in (1, 2)]


def label(key: str) -> tuple[str, str]:
    kind, theme, _ = key.split("-")
    return kind, theme


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        numbers = {"total": 8, "done": 8, "embedded": 6, "reused": 1, "failed": 1}
        server.steps = [{"status": "succeeded", "progress": progress(**numbers, images_per_s=4.0)}]
        counts = {"embedded": 6, "reused": 1, "skipped": 0, "failed": 1, "cancelled": 0, "ignored": 0}
        found = ["sofa-new-1.jpg", "sofa-new-2.jpg", "sofa-old-1.jpg"]
        server.results = {
            "embed": {"collection": "c", "total": 8, **counts},
            "search": {
                "query": {},
                "top_k": 5,
                "neighbors": [{"rank": n + 1, "id": key, "key": key, "score": 0.5} for n, key in enumerate(found)],
            },
            "cluster": _clusters([KEYS[:5], KEYS[5:]]),
        }
        broken = {"code": "decode_error", "detail": "Broken."}
        server.items = [{"key": "bad.jpg", "status": "failed", "image_id": None, "error": broken}]
        server.add_images(len(KEYS))
        for image, key in zip(server.images, KEYS, strict=True):
            image["key"] = key
        yield server


def _clusters(groups: list[list[str]]) -> dict:
    return {
        "n_clusters": len(groups),
        "metric": "euclidean",
        "algorithm": "kmeans",
        "seed": 100,
        "inertia": 1,
        "iterations": 1,
        "clusters": [
            {"label": n, "size": len(keys), "medoid": {"id": keys[0], "key": keys[0]}, "cohesion": 0.5}
            for n, keys in enumerate(groups)
        ],
        "assignments": [
            {"id": key, "key": key, "label": n, "distance": 0} for n, keys in enumerate(groups) for key in keys
        ],
    }


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    for key in KEYS:
        (folder / key).write_bytes(PNG)
    return folder


def test_drawn_pictures(server: FakeServer, folder: Path, tmp_path: Path) -> None:
    server.add_collection("demo", image_count=8)
    console = Console(file=io.StringIO(), width=100)
    with Client(server.url) as client:
        figures = run.run(client, folder, tmp_path / "out", console, collection="demo", label=label)

    assert len(server.posts("/v1/uploads")) == 1
    assert [(search.key, search.same_theme) for search in figures.searches] == [
        ("sofa-new-1.jpg", 2),
        ("sofa-old-1.jpg", 1),
        ("table-new-1.jpg", 0),
        ("table-old-1.jpg", 0),
    ]
    assert figures.searches[0].neighbors[0] == Neighbor(rank=1, id=KEYS[0], key=KEYS[0], score=0.5)
    assert [grouping.n_clusters for grouping in figures.groupings] == [6, 3]
    assert figures.groupings[0].sizes == [5, 3]
    assert figures.groupings[0].class_purity == 7 / 8
    assert figures.groupings[0].theme_purity == 4 / 8
    assert (figures.embedded.reused, figures.images_per_s) == (1, 4.0)
    assert len(figures.sheets) == 4 + 2 * 2
    assert all(sheet.read_bytes().startswith(PNG) for sheet in figures.sheets)

    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "8 pictures: 6 embedded, 1 reused, 1 failed at 4 images/s" in printed
    assert "bad.jpg: Broken." in printed
    assert "Most similar to sofa-new-1.jpg: 2 of 3 share its theme" in printed
    assert "2 sofa new, 2 sofa old, 1 table new" in printed
    assert "Search: 3 of 12 pictures found share the theme of their query." in printed
    assert "k=6: purity 0.88 by class, 0.50 by theme." in printed
    assert str((tmp_path / "out").resolve()) in printed


def test_own_pictures(server: FakeServer, folder: Path, tmp_path: Path) -> None:
    server.roots = True
    console = Console(file=io.StringIO(), width=100)
    with Client(server.url) as client:
        figures = run.demonstrate(client, folder, tmp_path / "data", console)

    (name,) = server.collections
    assert name.startswith("pictures-")
    assert server.posts("/v1/uploads") == []
    assert [post.json["query"] for post in server.posts("/v1/jobs/search")] == [
        {"image_key": KEYS[at]} for at in (0, 2, 4)
    ]
    assert [search.same_theme for search in figures.searches] == [None] * 3
    assert figures.sheets[0].parent == tmp_path / "data" / "sheets" / name
    assert "theme" not in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(("count", "groups"), [(0, []), (2, []), (3, [2]), (30, [4]), (200, [10]), (10**6, [12])])
def test_how_many_groups(count: int, groups: list[int]) -> None:
    assert run._group_counts(count, labelled=False) == groups


def test_purity() -> None:
    assert run.purity([["a", "a", "b"], ["b"]]) == 3 / 4
    assert run.purity([]) == 0
