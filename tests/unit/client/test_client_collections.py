"""Collections, their images and vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from imagekin import errors
from imagekin.client import Client
from kit.fake_server import BREAK, FakeServer, problem


def test_pages_are_followed_to_the_end(server: FakeServer, client: Client) -> None:
    server.add_images(25)
    server.page = 10
    assert [image.key for image in client.images("c")] == [f"{n}.png" for n in range(25)]
    assert [request.query.get("cursor") for request in server.requests] == [None, ["10"], ["20"]]


def test_images_are_narrowed_changed_and_counted(server: FakeServer, client: Client) -> None:
    server.add_images(2)
    assert len(list(client.images("c", filter={"label": None}, prefix="a/", order="key"))) == 2
    query = server.requests[-1].query
    assert {name: query[name] for name in ("filter", "prefix", "order")} == {
        "filter": ['{"label": null}'], "prefix": ["a/"], "order": ["key"]
    }  # fmt: skip
    assert client.count_images("c") == 2
    assert client.update_images("c", metadata={"label": None}, filter={"label": ["x", "y"]}) == 2
    assert server.requests[-1].json == {"filter": {"label": ["x", "y"]}, "metadata": {"label": None}}
    assert client.delete_images("c", image_ids=[f"i{at}" for at in range(10_001)]) == 10_001
    assert [len(each.json["image_ids"]) for each in server.requests[-2:]] == [10_000, 1]
    with pytest.raises(errors.InvalidRequest, match="not by 2"):
        client.delete_images("c", image_ids=[], filter={})
    assert [(each.value, each.count) for each in client.labels("c")] == [("chair", 2), (7, 1)]


def test_an_image_in_all_its_forms(server: FakeServer, client: Client) -> None:
    server.add_images(1)
    assert client.update_image("c", "i0", metadata={"a": 1}).metadata == {"a": 1}
    vector = client.embedding("c", "i0")
    assert vector.dtype == np.float16
    assert vector.tolist() == [0.5, 2]
    assert client.thumbnail("c", "i0").startswith(b"\xff\xd8\xff")


def test_vectors(server: FakeServer, client: Client) -> None:
    server.faults += [BREAK]
    ids, keys, embeddings = client.vectors("c")
    assert (ids, keys) == (["i0", "i1"], ["a", "b"])
    assert embeddings.shape == (2, 4)
    assert embeddings.dtype == np.float32


def test_an_export_is_a_file_when_it_is_whole(server: FakeServer, client: Client, tmp_path: Path) -> None:
    seen: list[tuple[int, int | None]] = []
    server.faults += [BREAK]
    path = client.export("c", tmp_path / "c.NPZ", received=lambda *received: seen.append(received))
    assert np.load(path)["keys"].tolist() == ["a", "b"]
    assert seen[-1] == (path.stat().st_size, path.stat().st_size)
    assert server.requests[-1].query["format"] == ["npz"]
    server.faults += [problem(404, "collection_not_found")]
    with pytest.raises(errors.CollectionNotFound):
        client.export("d", tmp_path / "d", format="parquet")
    with pytest.raises(errors.InvalidRequest, match="safetensors"):
        client.export("c", tmp_path / "c.json")
    assert list(tmp_path.iterdir()) == [path]


def test_an_import_names_its_upload(server: FakeServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "c.npz").write_bytes(b"vectors")
    job = client.import_vectors(tmp_path / "c.npz", "c", on_conflict="skip")
    assert (job.kind, job.collection) == ("import", "c")
    assert server.posts("/v1/uploads")[0].body == b"vectors"
    post = server.posts("/v1/collections/c/import")[0]
    assert post.json == {"upload_id": "u1", "on_conflict": "skip"}
    assert post.headers["idempotency-key"]


def test_names_are_quoted(server: FakeServer, client: Client) -> None:
    with pytest.raises(errors.CollectionNotFound, match="a/b"):
        client.collection("a/b")
