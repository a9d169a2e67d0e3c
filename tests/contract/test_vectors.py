"""Vectors out as files and in again, and images put into the clusters of an earlier clustering."""

from __future__ import annotations

import csv
import io
import json
import pickle
import struct
import threading
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import pytest
import safetensors.numpy
from crew import Crew
from hand import DIM, Hand, vector
from pyarrow import parquet
from serving import Running
from test_job_calls import accepted, embed, row, stored_files, upload
from wire import check_problem

from imagekin import collections, exports, models, schemas, segments
from imagekin.types import OnConflict
from imagekin_worker import assigner, planner
from imagekin_worker.clustering import assign as place

FORMATS = ("npz", "parquet", "safetensors")


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def on_sqlite(engine: str) -> None:
    """For what the database has no part in."""
    if engine != "sqlite":
        pytest.skip("the same on every database")


@pytest.fixture
def crew(server: Running) -> Iterator[Crew]:
    crew = Crew(server.settings)
    yield crew
    crew.close()


def store(server: Running, items: list[segments.Item], name: str = "archive") -> list[str | None]:
    def write(session: Any) -> list[str | None]:
        collection = collections.get(session, "admin", name)
        return [record.image_id for record in segments.store(session, collection.id, items, OnConflict.REPLACE)]

    return server.database.write(write)


def item(key: str, seed: int, **metadata: Any) -> segments.Item:
    return segments.Item(key, metadata, vector=vector(seed, DIM), content_hash=f"{seed:064x}")


@pytest.fixture
def three(server: Running, hand: Hand, client: httpx2.Client) -> list[str | None]:
    """Three images that are left of four, in two segments."""
    hand.collection()
    ids = store(server, [item("a/ß.jpg", 0, place="Köln"), item("gone.jpg", 1)])
    ids += store(server, [item("b.jpg", 2), item("a/c😀.jpg", 3, tags=["x", None])])
    assert client.delete(f"/v1/collections/archive/images/{ids.pop(1)}").status_code == 204
    return ids


KEYS = ["a/ß.jpg", "b.jpg", "a/c😀.jpg"]
METADATA = [{"place": "Köln"}, {}, {"tags": ["x", None]}]
EMBEDDINGS = np.stack([vector(seed, DIM) for seed in (0, 2, 3)])


def export(client: httpx2.Client, format: str | None = None, name: str = "archive") -> bytes:
    answer = client.get(f"/v1/collections/{name}/export", params={"format": format} if format else {})
    assert answer.status_code == 200, answer.text
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}.{format or "npz"}"'
    return answer.content


def read(data: bytes, format: str) -> dict[str, Any]:
    """Return an export's ids, keys, metadata, embeddings and what it says of itself, as others read the format."""
    match format:
        case "npz":
            stored = np.load(io.BytesIO(data), allow_pickle=False)
            texts = {name: stored[name].tolist() for name in ("ids", "keys")}
            lines = stored["metadata.jsonl"].decode().splitlines()
            about = {name: str(stored[name]) for name in stored.files if stored[name].__class__ is np.ndarray
                     and stored[name].ndim == 0}  # fmt: skip
            return {**texts, "metadata": lines, "embeddings": stored["embeddings"], "about": about}
        case "parquet":
            table = parquet.read_table(io.BytesIO(data))
            columns = {f"{name}s": table[name].to_pylist() for name in ("id", "key")}
            matrix = table["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
            about = {name.decode(): value.decode() for name, value in table.schema.metadata.items()}
            return {**columns, "metadata": table["metadata"].to_pylist(), "embeddings": matrix, "about": about}
    tensors = safetensors.numpy.load(data)
    texts = {name: bytes(tensors[name]) for name in ("keys", "metadata")}
    parts = {
        name: [texts[name][start:end].decode() for start, end in pairwise(at)]
        for name, at in ((name, tensors[f"{name}_offsets"].tolist()) for name in texts)
    }
    (length,) = struct.unpack_from("<Q", data)
    about = json.loads(data[8 : 8 + length])["__metadata__"]
    ids = [bytes(id).decode() for id in tensors["ids"]]
    return {"ids": ids, **parts, "embeddings": tensors["embeddings"], "about": about}


# --- export ----------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_of_an_empty_collection_and_of_halves(
    client: httpx2.Client, server: Running, hand: Hand, format: str
) -> None:
    hand.collection(dtype="float16")
    empty = read(export(client, format), format)
    assert (empty["ids"], empty["keys"], empty["embeddings"].shape) == ([], [], (0, DIM))
    store(server, [item("a.jpg", 1)])
    assert np.array_equal(read(export(client, format), format)["embeddings"], [vector(1, DIM).astype(np.float16)])


def test_an_export_is_npz_by_default(client: httpx2.Client, three: list[str]) -> None:
    assert read(export(client), "npz")["ids"] == three


def test_an_export_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, three: list[str], server: Running
) -> None:
    problem = check_problem(
        client.get("/v1/collections/archive/export", params={"format": "csv"}), 422, "invalid_request"
    )
    assert problem["errors"][0]["pointer"] == "/format"
    for path in ("/v1/collections/none/export", "/v1/collections/none/export?format=parquet"):
        check_problem(client.get(path), 404, "collection_not_found")
    check_problem(stranger.get("/v1/collections/archive/export"), 404, "collection_not_found")
    check_problem(server.client().get("/v1/collections/archive/export"), 401, "unauthorized")


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_shows_one_moment(server: Running, hand: Hand, format: str) -> None:
    """Between two of its pieces every image is replaced, one is deleted, and segments are gone."""
    hand.collection()
    store(server, [item(f"{seed}.jpg", seed) for seed in range(5)])
    pieces = exports.write(server.database, "admin", "archive", format)
    data = next(pieces)
    ids = store(server, [item(f"{seed}.jpg", 100 + seed) for seed in range(5)])
    assert server.client("ik_the-first-key").delete(f"/v1/collections/archive/images/{ids[0]}").status_code == 204
    found = read(data + b"".join(pieces), format)
    assert found["keys"] == [f"{seed}.jpg" for seed in range(5)]
    assert np.array_equal(found["embeddings"], [vector(seed, DIM) for seed in range(5)])
    again = read(b"".join(exports.write(server.database, "admin", "archive", format)), format)
    assert np.array_equal(again["embeddings"], [vector(100 + seed, DIM) for seed in range(1, 5)])


@pytest.mark.parametrize("format", FORMATS)
def test_exports_agree_while_everything_is_being_replaced(
    client: httpx2.Client, server: Running, hand: Hand, format: str
) -> None:
    """Key and vector name the same round, whoever writes meanwhile."""
    hand.collection()
    store(server, [segments.Item(f"{at}", vector=np.full(DIM, at, "<f4"), content_hash=f"{at}") for at in range(40)])
    stop = threading.Event()

    def replace() -> None:
        generation = 1
        while not stop.is_set():
            vectors = [np.full(DIM, at + 1000 * generation, "<f4") for at in range(40)]
            store(server, [segments.Item(f"{at}", {"round": generation}, vector=each, content_hash=f"{at}-{generation}")
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


def test_large_exports_take_little_memory(on_sqlite: None, server: Running, hand: Hand) -> None:
    hand.collection()
    count = 50_000
    matrix = np.random.default_rng(0).standard_normal((count, DIM)).astype(np.float32)
    for start in range(0, count, 500):
        rows = enumerate(matrix[start : start + 500], start)
        store(server, [segments.Item(f"{at:06}.jpg", vector=each, content_hash=str(at)) for at, each in rows])
    for format in FORMATS:
        # so that modules that load late don't count
        next(exports.write(server.database, "admin", "archive", format))
        tracemalloc.start()
        size = sum(len(piece) for piece in exports.write(server.database, "admin", "archive", format))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert size > matrix.nbytes
        assert peak < matrix.nbytes / 2, format


def test_a_client_that_leaves_ends_the_export(server: Running, hand: Hand) -> None:
    hand.collection()
    store(server, [item("a.jpg", 1)])
    for method in ("GET", "HEAD"):
        for _ in range(2 * server.settings.api_threads + 2):  # more than there are connections
            with server.app.test_client() as caller:
                headers = {"Authorization": "Bearer ik_the-first-key"}
                answer = caller.open("/v1/collections/archive/export", method=method, headers=headers, buffered=False)
                assert answer.status_code == 200
                answer.close()


# --- import ----------------------------------------------------------------------------------------------------


def npz(space_id: str | None, keys: Any, embeddings: Any, **more: Any) -> bytes:
    file = io.BytesIO()
    said = {} if space_id is None else {"space_id": np.array(space_id)}
    np.savez(file, keys=np.asarray(keys), embeddings=np.asarray(embeddings), **said, **more)
    return file.getvalue()


def table(space_id: str | None, keys: Any, embeddings: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    made = pa.table({"key": keys, "embedding": pa.array(list(embeddings), pa.list_(pa.float32()))})
    parquet.write_table(made.replace_schema_metadata({"space_id": space_id} if space_id else {}), file, **options)
    return file.getvalue()


@pytest.fixture
def space_id(client: httpx2.Client, hand: Hand) -> str:
    """The space of an empty collection."""
    hand.collection()
    return client.get("/v1/collections/archive").json()["space_id"]


def post(client: httpx2.Client, data: bytes, name: str = "archive", **params: str) -> httpx2.Response:
    headers = {"Content-Type": "application/octet-stream"}
    return client.post(f"/v1/collections/{name}/import", content=data, params=params, headers=headers)


def finished(client: httpx2.Client, crew: Crew, answer: httpx2.Response) -> dict[str, Any]:
    job = accepted(answer)
    assert job["kind"] == "import"
    crew.work()
    return client.get(f"/v1/jobs/{job['id']}").json()


def items(client: httpx2.Client, job: dict[str, Any]) -> list[dict[str, Any]]:
    return client.get(f"/v1/jobs/{job['id']}/items", params={"limit": 1000}).json()["items"]


def outcomes(client: httpx2.Client, job: dict[str, Any]) -> list[tuple[str, str, str | None]]:
    return [(each["key"], each["status"], (each["error"] or {}).get("code")) for each in items(client, job)]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("format", ["npz", "parquet"])
def test_a_round_trip_is_exact(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, format: str, dtype: str
) -> None:
    hand.collection(dtype=dtype)
    hand.collection("copy", dtype=dtype)
    below = ("ü", "https://example.org")
    store(server, [item(f"{below[seed % 2]}/{seed}.jpg", seed, n=seed) for seed in range(1300)])
    job = finished(client, crew, post(client, export(client, format), "copy"))
    assert job["status"] == "succeeded"
    assert (job["progress"]["total"], job["progress"]["embedded"], job["progress"]["done"]) == (1300, 1300, 1300)
    first, second = (read(export(client, format, name), format) for name in ("archive", "copy"))
    at = np.argsort(second["keys"])[np.argsort(np.argsort(first["keys"]))]
    assert [second["keys"][row] for row in at] == first["keys"]
    assert first["embeddings"].tobytes() == second["embeddings"][at].tobytes()
    assert [second["metadata"][row] for row in at] == first["metadata"]
    image = client.get("/v1/collections/copy/images").json()["items"][0]
    assert (image["width"], image["height"], image["format"]) == (None, None, None)
    assert image["content_hash"].startswith("vector:")
    assert len(image["content_hash"]) <= 64
    check_problem(client.get(f"/v1/collections/copy/images/{image['id']}/thumbnail"), 404, "not_found")
    # once more: it is all there
    again = finished(client, crew, post(client, export(client, format), "copy"))
    assert (again["progress"]["reused"], again["progress"]["total"]) == (1300, 1300)


@pytest.mark.parametrize("make", [npz, table])
def test_an_import_in_its_three_forms(
    client: httpx2.Client, server: Running, space_id: str, crew: Crew, make: Callable[..., bytes]
) -> None:
    data = make(space_id, ["a.jpg", "b.jpg"], EMBEDDINGS[:2])
    raw = finished(client, crew, post(client, data))
    assert outcomes(client, raw) == [("a.jpg", "embedded", None), ("b.jpg", "embedded", None)]
    form = client.post("/v1/collections/archive/import", files={"file": ("v", data)}, data={"on_conflict": "skip"})
    assert finished(client, crew, form)["progress"]["reused"] == 2
    upload_id = upload(client, data)
    named = client.post("/v1/collections/archive/import", json={"upload_id": upload_id, "on_conflict": "fail"})
    job = finished(client, crew, named)
    assert job["params"] == {"source": {"type": "upload", "upload_id": upload_id}, "on_conflict": "fail"}
    assert job["progress"]["reused"] == 2
    assert client.get(f"/v1/jobs/{job['id']}/result").json()["total"] == 2
    assert client.get("/v1/jobs", params={"kind": "import"}).json()["items"][0]["id"] == job["id"]
    assert client.get("/v1/collections/archive").json()["image_count"] == 2


@pytest.mark.parametrize(
    ("on_conflict", "expected"),
    [("replace", ("embedded", None)), ("skip", ("skipped", None)), ("fail", ("failed", "duplicate_key"))],
)
def test_a_key_that_is_there_with_other_content(
    client: httpx2.Client,
    server: Running,
    space_id: str,
    crew: Crew,
    on_conflict: str,
    expected: tuple[str, str | None],
) -> None:
    [known] = store(server, [item("a.jpg", 9, kept=True)])
    job = finished(
        client, crew, post(client, npz(space_id, ["a.jpg", "b.jpg"], EMBEDDINGS[:2]), on_conflict=on_conflict)
    )
    assert outcomes(client, job) == [("a.jpg", *expected), ("b.jpg", "embedded", None)]
    image = client.get(f"/v1/collections/archive/images/{known}").json()
    # without metadata in the file, what is there stays
    assert image["metadata"] == {"kept": True}
    found = client.get(f"/v1/collections/archive/images/{known}/embedding").json()["embedding"]
    assert np.array_equal(np.float32(found), EMBEDDINGS[0] if on_conflict == "replace" else vector(9, DIM))


def test_rows_that_cannot_be_kept_fail_alone(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    matrix = np.tile(EMBEDDINGS[:1], (7, 1)).astype(np.float64)
    matrix[1, 5], matrix[2, 0], matrix[3, 0] = np.nan, 1e300, 1e30
    keys = ["good", "nan", "inf", "long", "../up", "good", "also good"]
    job = finished(client, crew, post(client, npz(space_id, keys, matrix)))
    assert job["status"] == "partial"
    assert outcomes(client, job) == [
        ("good", "embedded", None), ("nan", "failed", "decode_error"), ("inf", "failed", "decode_error"),
        ("long", "failed", "decode_error"), ("up", "failed", "fetch_refused"), ("good", "failed", "duplicate_key"),
        ("also good", "embedded", None),
    ]  # fmt: skip
    assert "not finite" in items(client, job)[1]["error"]["detail"]


def test_rows_of_parquet_that_cannot_be_kept_fail_alone(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    embeddings = [EMBEDDINGS[0], EMBEDDINGS[0][:-1], None, [None] * DIM, EMBEDDINGS[1]]
    job = finished(client, crew, post(client, table(space_id, ["a", "b", "c", "d", None], embeddings)))
    statuses = [(key, code) for key, _, code in outcomes(client, job)]
    assert statuses == [("a", None), *((key, "decode_error") for key in ("b", "c", "d", "row 4"))]
    assert "63 numbers instead of 64" in items(client, job)[1]["error"]["detail"]


def with_metadata(space_id: str, lines: list[str]) -> bytes:
    file = io.BytesIO(npz(space_id, [f"{at}" for at in range(len(lines))], np.tile(EMBEDDINGS[:1], (len(lines), 1))))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.jsonl", "\n".join(lines))
    return file.getvalue()


def test_metadata_that_cannot_be_kept_fails_its_row(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    lines = ['{"a": 1}', "[1]", '{"a": NaN}', '{"a": "\\u0000"}', '{"a": "\\ud800"}', "[" * 50_000, '{"a": 1e999}',
             "{" + " " * 99_999 + "}", "", "{}"]  # fmt: skip
    job = finished(client, crew, post(client, with_metadata(space_id, lines)))
    statuses = [status for _, status, _ in outcomes(client, job)]
    assert statuses == ["embedded", *["failed"] * 8, "embedded"]
    assert client.get("/v1/collections/archive/images").json()["items"][0]["metadata"] == {"a": 1}


def header_of(shape: str, dtype: str = "<f4", length: int = 118) -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}".ljust(length - 1).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def zipped(space_id: str, **members: bytes) -> bytes:
    file = io.BytesIO(npz(space_id, np.empty(0, "<U1"), np.empty((0, DIM), "<f4")))
    with zipfile.ZipFile(file) as archive:
        kept = {name: archive.read(name) for name in archive.namelist()}
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in {**kept, **{f"{name}.npy": data for name, data in members.items()}}.items():
            archive.writestr(name, data)
    return made.getvalue()


def hostile(space_id: str) -> dict[str, bytes]:
    """Files that are refused before a job is made of them, by what their refusal says."""
    good, keys = EMBEDDINGS[:2], ["a", "b"]
    objects = np.array([{"a": 1}, None], dtype=object)
    squeezed = io.BytesIO()
    np.savez_compressed(squeezed, space_id=space_id, keys=np.full(300_000, "k"), embeddings=np.zeros((300_000, DIM)))
    many = io.BytesIO(npz(space_id, keys, good))
    with zipfile.ZipFile(many, "a") as archive:
        for at in range(70):
            archive.writestr(f"{at}.npy", b"")
    return {
        "neither npz nor Parquet": b"hello world" * 100,
        "neither npz nor": pickle.dumps({"keys": keys, "embeddings": good}),
        "pickle": npz(space_id, objects, good),
        "does not say of which space": npz(None, keys, good),
        "different spaces never meet": npz("another", keys, good),
        "different spaces": table("another", keys, good),
        "does not say of which": table(None, keys, good),
        "no array 'keys'": zipped(space_id).replace(b"keys.npy", b"kays.npy"),
        "2 embeddings": npz(space_id, ["a"], good),
        "63 numbers": npz(space_id, keys, good[:, :-1]),
        "(n, dim)": npz(space_id, keys, good[0]),
        "not int64": npz(space_id, keys, good.astype(np.int64)),
        "not complex64": npz(space_id, keys, good.astype(np.complex64)),
        "must be one-dimensional, of text": npz(space_id, [1, 2], good),
        "one-dimensional": npz(space_id, [keys], good),
        "of text": npz(space_id, np.array(["k" * 5000, ""]), good),
        "Fortran order": npz(space_id, keys, np.asfortranarray(good)),
        "no header that NumPy writes": zipped(space_id, embeddings=b"\x93NUMPY\x01\x00\xff\xff" + b"(" * 70_000),
        "no header": zipped(space_id, embeddings=b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 1_000_000),
        "another size": zipped(space_id, embeddings=header_of("(1000000000000000, 64)")),
        "size than its header": zipped(space_id, embeddings=header_of("(-1, 64)")),
        "savez_compressed": squeezed.getvalue(),
        "more than 64 members": many.getvalue(),
        "cut off": npz(space_id, keys, good)[:-40],
        "cut off, or damaged": table(space_id, keys, good)[:-40],
        "no column 'key'": table(space_id, keys, good).replace(b"key", b"kay"),
        "must be text": table(space_id, [1, 2], good),
    }


def test_hostile_files_are_refused(
    on_sqlite: None, client: httpx2.Client, server: Running, space_id: str, crew: Crew
) -> None:
    for reason, data in hostile(space_id).items():
        problem = check_problem(post(client, data), 422, "invalid_request")
        assert reason in problem["detail"], (reason, problem["detail"])
        assert problem["errors"][0]["pointer"] == "/file"
    assert stored_files(server) == []
    assert client.get("/v1/jobs").json()["items"] == []


def test_a_huge_parquet_group_is_refused(on_sqlite: None, client: httpx2.Client, space_id: str) -> None:
    count = 1_100_000
    flat = pa.array(np.zeros(count * DIM, np.float32))
    made = pa.table({"key": ["k"] * count, "embedding": pa.FixedSizeListArray.from_arrays(flat, DIM)})
    file = io.BytesIO()
    options = {"use_dictionary": False, "compression": "zstd", "row_group_size": count}
    parquet.write_table(made.replace_schema_metadata({"space_id": space_id}), file, **options)
    problem = check_problem(post(client, file.getvalue()), 422, "invalid_request")
    assert "row_group_size" in problem["detail"]


def test_files_that_turn_out_broken_fail_the_job(
    on_sqlite: None, client: httpx2.Client, space_id: str, crew: Crew
) -> None:
    short = with_metadata(space_id, ["{}", "{}"]).replace(b"metadata.jsonl", b"metadata.jsonl")
    fewer = io.BytesIO(npz(space_id, ["a", "b"], EMBEDDINGS[:2]))
    with zipfile.ZipFile(fewer, "a") as archive:
        archive.writestr("metadata.jsonl", "{}\n")
    whole = table(space_id, ["a", "b"], EMBEDDINGS[:2], compression="none", use_dictionary=False)
    at = whole.index(EMBEDDINGS[:1].tobytes())
    damaged = whole[: at - 60] + bytes(60) + whole[at:]
    assert finished(client, crew, post(client, short))["status"] == "succeeded"
    for data, reason in ((fewer.getvalue(), "fewer lines"), (damaged, "cannot be read")):
        job = finished(client, crew, post(client, data))
        assert (job["status"], job["error"]["code"]) == ("failed", "source_unreadable")
        assert reason in job["error"]["detail"]


def test_an_import_of_nothing(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    job = finished(client, crew, post(client, npz(space_id, np.empty(0, "<U1"), np.empty((0, DIM), np.float32))))
    assert (job["status"], job["error"]["code"]) == ("failed", "empty_source")
    problem = check_problem(post(client, b""), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/file"


@pytest.mark.parametrize("dtype", ["<f2", ">f4", "<f8"])
def test_numbers_of_other_sizes_and_orders(client: httpx2.Client, space_id: str, crew: Crew, dtype: str) -> None:
    keys = np.array([b"a", "ü".encode()]) if dtype == "<f2" else np.array(["a", "ü"]).astype(">U3")
    job = finished(client, crew, post(client, npz(space_id, keys, EMBEDDINGS[:2].astype(dtype))))
    assert job["status"] == "succeeded"
    found = read(export(client), "npz")
    assert found["keys"] == ["a", "ü"]
    assert np.array_equal(found["embeddings"], EMBEDDINGS[:2].astype(dtype).astype("<f4"))


def test_compressed_files_are_read(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    count = 1500
    matrix = np.random.default_rng(5).standard_normal((count, DIM)).astype(np.float32)
    file = io.BytesIO()
    np.savez_compressed(file, space_id=space_id, keys=[f"{at}" for at in range(count)], embeddings=matrix)
    for data in (file.getvalue(), table(space_id, [f"{at}" for at in range(count)], matrix, row_group_size=700)):
        job = finished(client, crew, post(client, data))
        assert (job["status"], job["progress"]["total"]) == ("succeeded", count)
        assert np.array_equal(read(export(client), "npz")["embeddings"], matrix)
    assert job["progress"]["reused"] == count


def test_an_import_is_planned_in_slices(
    client: httpx2.Client, space_id: str, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planner, "SLICE_S", 0.0)
    count = 30
    keys = [f"{at}.jpg" for at in range(count)]
    matrix = np.random.default_rng(6).standard_normal((count, DIM)).astype(np.float32)
    for data in (npz(space_id, keys, matrix), table(space_id, keys, matrix, row_group_size=12)):
        before = crew.claims
        job = finished(client, crew, post(client, data))
        assert (job["status"], job["progress"]["total"]) == ("succeeded", count)
        assert crew.claims - before > count
    assert read(export(client), "npz")["keys"] == keys


def test_the_failed_rows_of_an_import_are_tried_again(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    matrix = EMBEDDINGS[:2].copy()
    matrix[1, 0] = np.inf
    parent = finished(client, crew, post(client, npz(space_id, ["a", "b"], matrix)))
    again = finished(client, crew, client.post(f"/v1/jobs/{parent['id']}/retry", json={"items": "failed"}))
    assert (again["parent_id"], again["status"], again["progress"]["total"]) == (parent["id"], "failed", 1)
    every = finished(client, crew, client.post(f"/v1/jobs/{parent['id']}/retry", json={"items": "all"}))
    assert outcomes(client, every) == [("a", "reused", None), ("b", "failed", "decode_error")]


def test_the_same_import_is_one_job(client: httpx2.Client, server: Running, space_id: str) -> None:
    data = npz(space_id, ["a"], EMBEDDINGS[:1])
    client.headers["Idempotency-Key"] = "once"
    first = accepted(post(client, data))
    assert accepted(post(client, data))["id"] == first["id"]
    assert len(stored_files(server)) == 1
    check_problem(post(client, data, on_conflict="skip"), 422, "idempotency_mismatch")
    client.headers["Idempotency-Key"] = "named"
    jobs = [
        accepted(client.post("/v1/collections/archive/import", json={"upload_id": upload(client, data)}))["id"]
        for _ in range(2)
    ]
    assert jobs[0] == jobs[1] != first["id"]
    assert row(server, first["id"]).work["source"]["space_id"] == space_id


def test_an_import_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, server: Running, space_id: str
) -> None:
    data = npz(space_id, ["a"], EMBEDDINGS[:1])
    path = "/v1/collections/archive/import"
    check_problem(post(client, data, "none"), 404, "collection_not_found")
    check_problem(post(stranger, data), 404, "collection_not_found")
    check_problem(client.post(path, json={"upload_id": "0" * 32}), 404, "upload_not_found")
    check_problem(client.post(path, json={}), 422, "invalid_request")
    check_problem(client.post(path, json={"upload_id": upload(stranger, data)}), 404, "upload_not_found")
    for params, pointer in (({"on_conflict": "ask"}, "/on_conflict"), ({"colour": "red"}, "/colour")):
        problem = check_problem(post(client, data, **params), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer
    check_problem(client.post(path, json={"upload_id": upload(client, b"hello world")}), 422, "invalid_request")
    two = [("file", ("a", data)), ("file", ("b", data))]
    check_problem(client.post(path, files=two), 422, "invalid_request")
    check_problem(client.post(path, files={"file": ("a", b"")}), 422, "invalid_request")


def test_a_large_body_is_refused(serve: Callable[..., Running]) -> None:
    server = serve(max_upload_bytes=1000)
    Hand(server.database, server.settings).collection()
    client = server.client("ik_the-first-key")
    check_problem(post(client, bytes(2000)), 413, "too_large")


def test_searches_and_clusterings_take_imported_vectors(
    client: httpx2.Client, server: Running, space_id: str, crew: Crew
) -> None:
    finished(client, crew, post(client, npz(space_id, ["a", "b", "c"], [*EMBEDDINGS[:2], np.zeros(DIM)])))
    answer = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 2})
    job = accepted(answer)
    crew.work()
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    assert result.keys() == schemas.ClusterResult.model_fields.keys()
    assert {each["key"] for each in result["assignments"]} == {"a", "b", "c"}
    assert client.get(f"/v1/jobs/{job['id']}/sheet").status_code == 200


def test_a_search_with_a_filter_is_among_what_has_its_values(
    client: httpx2.Client, three: list[str], crew: Crew
) -> None:
    def found(wanted: dict[str, Any]) -> list[str]:
        body = {"collection": "archive", "query": {"image_key": "b.jpg"}, "exclude_query": False, "filter": wanted}
        job = accepted(client.post("/v1/jobs/search", json=body))
        crew.work()
        return [each["key"] for each in client.get(f"/v1/jobs/{job['id']}/result").json()["neighbors"]]

    assert sorted(found({})) == sorted(KEYS)
    assert found({"place": "Köln"}) == ["a/ß.jpg"]
    assert found({"tags": ["x", None]}) == ["a/c😀.jpg"]
    assert found({"place": "Köln", "tags": ["x", None]}) == []


def test_a_clustering_past_its_memory_budget_goes_by_mini_batches(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew
) -> None:
    """Its rows lie in a file then; each slice reads them from SQL again, as another process would."""
    hand.collection()
    for seed in range(0, 90, 30):
        store(server, [near(f"{at}.jpg", at) for at in range(seed, seed + 30)])
    small = Crew(server.settings.model_copy(update={"cluster_memory_bytes": 90 * DIM * 4 - 1}))
    found = []
    for each in (small, crew):
        job = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 3}))
        each.work()
        found.append(client.get(f"/v1/jobs/{job['id']}/result").json())
    small.close()
    assert [result["batch_rows"] for result in found] == [44, None]
    assert found[0]["assignments"] == found[1]["assignments"]
    left = server.settings.data_dir.rglob("tmp*")
    assert not list(left)


@pytest.mark.parametrize(("algorithm", "share_of_memory"), [("kmeans", 1.0), ("kmeans", 0.5), ("kmeans-pytorch", 1.0)])
def test_the_order_in_which_images_come_changes_no_clustering(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, algorithm: str, share_of_memory: float
) -> None:
    """Workers finish chunks in any order; noise has many clusterings, and chance picks one by the places of rows."""
    items = [item(f"{at}.jpg", at) for at in range(60)]
    budget = int(share_of_memory * 4 * DIM * len(items))
    small = Crew(server.settings.model_copy(update={"cluster_memory_bytes": budget}))
    found = []
    for name, sizes in (("first", (60,)), ("second", (7, 20, 13, 20))):
        hand.collection(name)
        gone, _ = store(server, [item("gone.jpg", 90), item("5.jpg", 91)], name)
        mixed = [items[at] for at in np.random.default_rng(len(sizes)).permutation(60)]
        for size in sizes:
            some, mixed = mixed[:size], mixed[size:]
            store(server, some, name)
        assert client.delete(f"/v1/collections/{name}/images/{gone}").status_code == 204
        body = {"collection": name, "n_clusters": 6, "n_init": 1, "algorithm": algorithm}
        job = accepted(client.post("/v1/jobs/cluster", json=body))
        small.work()
        result = client.get(f"/v1/jobs/{job['id']}/result").json()
        found.append({each["key"]: (each["label"], each["distance"]) for each in result["assignments"]})
    small.close()
    assert len(found[0]) == 60
    assert found[0] == found[1]


# --- assign ----------------------------------------------------------------------------------------------------


CENTERS = np.stack([vector(50, DIM), vector(51, DIM), vector(52, DIM)])


@pytest.fixture
def clustering(client: httpx2.Client, server: Running, hand: Hand, crew: Crew) -> dict[str, Any]:
    """A finished clustering of twelve images around three centers, as its job."""
    hand.collection()
    store(server, [near(f"{at}.jpg", at) for at in range(12)])
    job = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 3}))
    crew.work()
    return client.get(f"/v1/jobs/{job['id']}").json()


def near(key: str, at: int) -> segments.Item:
    """An image near one of the centers."""
    vectors = CENTERS[at % 3] + 0.1 * vector(at, DIM)
    return segments.Item(key, vector=vectors.astype("<f4"), content_hash=f"near-{key}-{at}")


def assign(client: httpx2.Client, clustering: dict[str, Any], **body: Any) -> httpx2.Response:
    return client.post("/v1/jobs/assign", json={"clustering_id": clustering["id"], **body})


def assigned(client: httpx2.Client, crew: Crew, answer: httpx2.Response) -> dict[str, Any]:
    job = accepted(answer)
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "succeeded", job
    assert job["progress"]["fraction"] == 1
    return client.get(f"/v1/jobs/{job['id']}/result").json()


def labels(client: httpx2.Client, clustering: dict[str, Any]) -> dict[str, tuple[int, float]]:
    result = client.get(f"/v1/jobs/{clustering['id']}/result").json()
    return {each["key"]: (each["label"], each["distance"]) for each in result["assignments"]}


def test_named_images_get_their_clusters(client: httpx2.Client, clustering: dict[str, Any], crew: Crew) -> None:
    known = labels(client, clustering)
    keys = ["7.jpg", "3.jpg", "7.jpg", "11.jpg"]
    result = assigned(client, crew, assign(client, clustering, image_keys=keys))
    assert (result["clustering_id"], result["metric"]) == (clustering["id"], "euclidean")
    found = result["assignments"]
    assert [each["key"] for each in found] == ["7.jpg", "3.jpg", "11.jpg"]
    assert [each["label"] for each in found] == [known[each["key"]][0] for each in found]
    assert [each["distance"] for each in found] == pytest.approx([known[each["key"]][1] for each in found], abs=1e-5)
    ids = [each["id"] for each in reversed(found)]
    assert assigned(client, crew, assign(client, clustering, image_ids=ids))["assignments"] == found[::-1]
    assert assigned(client, crew, assign(client, clustering, image_ids=[]))["assignments"] == []


def test_all_that_came_later_get_their_clusters(
    client: httpx2.Client, server: Running, clustering: dict[str, Any], crew: Crew
) -> None:
    assert assigned(client, crew, assign(client, clustering))["assignments"] == []
    known = labels(client, clustering)
    store(server, [near("new.jpg", 30), near("0.jpg", 31)])
    [gone] = store(server, [near("gone.jpg", 32)])
    client.delete(f"/v1/collections/archive/images/{gone}")
    job = accepted(assign(client, clustering))
    assert job["params"] == {"clustering_id": clustering["id"], "images": None}
    crew.work()
    answers = {
        media: client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": media})
        for media in ("application/json", "application/x-ndjson", "text/csv")
    }
    rows = answers["application/json"].json()["assignments"]
    # 30 is of the first center, 31 of the second, as 0 and 1 were
    assert {each["key"]: each["label"] for each in rows} == {"new.jpg": known["0.jpg"][0], "0.jpg": known["1.jpg"][0]}
    assert [json.loads(line) for line in answers["application/x-ndjson"].text.splitlines()] == rows
    read = list(csv.DictReader(io.StringIO(answers["text/csv"].text, newline="")))
    assert [(each["id"], int(each["label"]), float(each["distance"])) for each in read] == [
        (each["id"], each["label"], each["distance"]) for each in rows
    ]
    check_problem(client.get(f"/v1/jobs/{job['id']}/sheet"), 404, "not_found")


def test_many_are_assigned_in_slices(
    client: httpx2.Client, server: Running, clustering: dict[str, Any], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(assigner, "SLICE_S", 0.0)
    for part in range(7):
        store(server, [near(f"{part}/{at}.jpg", at) for at in range(5)])
    before = crew.claims
    result = assigned(client, crew, assign(client, clustering))
    assert crew.claims - before > 7
    assert sorted(each["key"] for each in result["assignments"]) == sorted(
        f"{part}/{at}.jpg" for part in range(7) for at in range(5)
    )


def test_distances_are_those_of_the_metric(client: httpx2.Client, server: Running, hand: Hand, crew: Crew) -> None:
    hand.collection()
    store(server, [near(f"{at}.jpg", at) for at in range(12)])
    body = {"collection": "archive", "n_clusters": 3, "metric": "cosine"}
    job = accepted(client.post("/v1/jobs/cluster", json=body))
    crew.work()
    [late] = store(server, [near("late.jpg", 40)])
    result = assigned(client, crew, assign(client, job))
    assert result["metric"] == "cosine"
    row = server.database.read(lambda session: session.get(models.Clustering, job["id"]).centers)
    centers = np.frombuffer(row, "<f4").reshape(3, DIM)
    late_vector = near("late.jpg", 40).vector
    cosines = centers @ late_vector / np.linalg.norm(centers, axis=1) / np.linalg.norm(late_vector)
    [found] = result["assignments"]
    assert (found["id"], found["label"]) == (late, int(cosines.argmax()))
    assert found["distance"] == pytest.approx(1 - cosines.max(), abs=1e-5)
    assert place(late_vector[None], centers, "cosine")[0][0] == found["label"]


def test_an_assignment_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, server: Running, clustering: dict[str, Any]
) -> None:
    check_problem(assign(stranger, clustering), 404, "job_not_found")
    check_problem(assign(client, {"id": "0" * 32}), 404, "job_not_found")
    check_problem(assign(client, clustering, image_ids=["0" * 32]), 404, "image_not_found")
    problem = check_problem(assign(client, clustering, image_keys=["0.jpg", "none.jpg"]), 404, "image_not_found")
    assert "none.jpg" in problem["detail"]
    check_problem(assign(client, clustering, image_keys=["../x"]), 422, "invalid_key")
    both = check_problem(assign(client, clustering, image_keys=["0.jpg"], image_ids=[]), 422, "invalid_request")
    assert both["errors"][0]["pointer"] == "/image_keys"
    check_problem(assign(client, clustering, image_ids=["x"] * 10_001), 422, "invalid_request")
    check_problem(client.post("/v1/jobs/assign", json={}), 422, "invalid_request")
    other = accepted(embed(client, upload(client)))
    problem = check_problem(assign(client, other), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/clustering_id"
    open_job = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 2}))
    check_problem(assign(client, open_job), 409, "job_not_finished")
    client.post(f"/v1/jobs/{open_job['id']}/cancel")
    check_problem(assign(client, open_job), 409, "conflict")
    job = accepted(assign(client, clustering))
    check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "job_not_finished")
    check_problem(stranger.get(f"/v1/jobs/{job['id']}"), 404, "job_not_found")
    client.delete("/v1/collections/archive")
    check_problem(assign(client, clustering), 404, "collection_not_found")


def test_an_assignment_to_a_clustering_that_was_deleted_fails(
    client: httpx2.Client, clustering: dict[str, Any], crew: Crew
) -> None:
    job = accepted(assign(client, clustering))
    assert client.delete(f"/v1/jobs/{clustering['id']}").status_code == 204
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "job_not_found")


def test_the_same_assignment_is_one_job(client: httpx2.Client, clustering: dict[str, Any]) -> None:
    client.headers["Idempotency-Key"] = "once"
    first = accepted(assign(client, clustering, image_keys=["0.jpg"]))
    assert accepted(assign(client, clustering, image_keys=["0.jpg"]))["id"] == first["id"]
    check_problem(assign(client, clustering, image_keys=["1.jpg"]), 422, "idempotency_mismatch")
