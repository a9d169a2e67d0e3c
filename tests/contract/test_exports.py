"""Vectors out as files."""

from __future__ import annotations

import json
import threading
import tracemalloc

import httpx2
import numpy as np
import pytest

from imagekin.store import exports, segments
from kit.hand import DIM, Hand, item, vector
from kit.known_vectors import EMBEDDINGS, KEYS, METADATA
from kit.serving import BOTH_ENGINES, Running
from kit.vector_files import export, read
from kit.wire import check_problem

FORMATS = ("npz", "parquet", "safetensors")


@BOTH_ENGINES
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_holds_everything(client: httpx2.Client, three: list[str], format: str) -> None:
    found = read(export(client, format), format)
    assert (found["ids"], found["keys"]) == (three, KEYS)
    assert [json.loads(text) for text in found["metadata"]] == METADATA
    assert found["embeddings"].dtype == np.float32
    assert np.array_equal(found["embeddings"], EMBEDDINGS)
    shown = client.get("/v1/collections/archive").json()
    said = {name: str(shown[name]) for name in ("space_id", "backbone", "weights", "precision", "dim", "dtype")}
    assert found["about"].items() >= {**said, "collection": "archive"}.items()


@BOTH_ENGINES
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_of_an_empty_collection_and_of_halves(client: httpx2.Client, hand: Hand, format: str) -> None:
    hand.collection(dtype="float16")
    empty = read(export(client, format), format)
    assert (empty["ids"], empty["keys"], empty["embeddings"].shape) == ([], [], (0, DIM))
    hand.store([item("a.jpg", 1)])
    assert np.array_equal(read(export(client, format), format)["embeddings"], [vector(1, DIM).astype(np.float16)])


@BOTH_ENGINES
def test_an_export_is_npz_by_default(client: httpx2.Client, three: list[str]) -> None:
    assert read(export(client), "npz")["ids"] == three


@BOTH_ENGINES
def test_an_export_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, three: list[str], server: Running
) -> None:
    problem = check_problem(
        client.get("/v1/collections/archive/export", params={"format": "pickle"}), 422, "invalid_request"
    )
    assert problem["errors"][0]["pointer"] == "/format"
    for path in ("/v1/collections/none/export", "/v1/collections/none/export?format=parquet"):
        check_problem(client.get(path), 404, "collection_not_found")
    check_problem(stranger.get("/v1/collections/archive/export"), 404, "collection_not_found")
    check_problem(server.client().get("/v1/collections/archive/export"), 401, "unauthorized")


@BOTH_ENGINES
@pytest.mark.parametrize("format", FORMATS)
def test_an_export_shows_one_moment(server: Running, hand: Hand, format: str) -> None:
    """Between two of its pieces every image is replaced, one is deleted, and segments are gone."""
    hand.collection()
    hand.store([item(f"{seed}.jpg", seed) for seed in range(5)])
    pieces = exports.write(server.database, "admin", "archive", format)
    data = next(pieces)
    ids = hand.store([item(f"{seed}.jpg", 100 + seed) for seed in range(5)])
    assert server.client("ik_the-first-key").delete(f"/v1/collections/archive/images/{ids[0]}").status_code == 204
    found = read(data + b"".join(pieces), format)
    assert found["keys"] == [f"{seed}.jpg" for seed in range(5)]
    assert np.array_equal(found["embeddings"], [vector(seed, DIM) for seed in range(5)])
    again = read(b"".join(exports.write(server.database, "admin", "archive", format)), format)
    assert np.array_equal(again["embeddings"], [vector(100 + seed, DIM) for seed in range(1, 5)])


@BOTH_ENGINES
@pytest.mark.parametrize("format", FORMATS)
def test_exports_agree_while_everything_is_being_replaced(client: httpx2.Client, hand: Hand, format: str) -> None:
    """Key and vector name the same round, whoever writes meanwhile."""
    hand.collection()
    hand.store([segments.Item(f"{at}", vector=np.full(DIM, at, "<f4"), content_hash=f"{at}") for at in range(40)])
    stop = threading.Event()

    def replace() -> None:
        generation = 1
        while not stop.is_set():
            vectors = [np.full(DIM, at + 1000 * generation, "<f4") for at in range(40)]
            hand.store([segments.Item(f"{at}", {"round": generation}, vector=each, content_hash=f"{at}-{generation}")
                           for at, each in enumerate(vectors)])  # fmt: skip
            generation += 1

    thread = threading.Thread(target=replace)
    thread.start()
    try:
        for _ in range(5):
            found = read(export(client, format), format)
            rounds = [json.loads(text).get("round", 0) for text in found["metadata"]]
            assert len(set(rounds)) == 1
            assert found["embeddings"][:, 0].tolist() == [int(key) + 1000 * rounds[0] for key in found["keys"]]
    finally:
        stop.set()
        thread.join()


def test_large_exports_take_little_memory(server: Running, hand: Hand, client: httpx2.Client) -> None:
    client.post("/v1/collections", json={"name": "archive", "backbone": "efficientnet_lite0"})
    count, dim = 12_000, 1280
    matrix = np.random.default_rng(0).standard_normal((count, dim), dtype=np.float32)
    for start in range(0, count, 250):
        rows = enumerate(matrix[start : start + 250], start)
        hand.store([segments.Item(f"{at:06}.jpg", vector=each, content_hash=str(at)) for at, each in rows])
    for format in FORMATS:
        # so that modules that load late don't count
        next(exports.write(server.database, "admin", "archive", format))
        tracemalloc.start()
        size = sum(len(piece) for piece in exports.write(server.database, "admin", "archive", format))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size > matrix.nbytes
        assert peak < matrix.nbytes / 2, format


@BOTH_ENGINES
def test_a_client_that_leaves_ends_the_export(server: Running, hand: Hand) -> None:
    hand.collection()
    hand.store([item("a.jpg", 1)])
    for method in ("GET", "HEAD"):
        for _ in range(2 * server.settings.api_threads + 2):  # more than there are connections
            with server.app.test_client() as caller:
                headers = {"Authorization": "Bearer ik_the-first-key"}
                answer = caller.open("/v1/collections/archive/export", method=method, headers=headers, buffered=False)
                assert answer.status_code == 200
                answer.close()
