"""Files of vectors that mean harm, or are broken."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import zipfile

import httpx2
import numpy as np
import pyarrow as pa
from pyarrow import parquet

from imagekin.sources.vectors.parquet import MAX_FOOTER_BYTES
from kit.calls import stored_files
from kit.crew import Crew
from kit.hand import DIM
from kit.known_vectors import EMBEDDINGS
from kit.serving import Running
from kit.vector_files import finished, npz, post, table, with_metadata
from kit.wire import check_problem


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


def test_hostile_files_are_refused(client: httpx2.Client, server: Running, space_id: str) -> None:
    for reason, data in hostile(space_id).items():
        problem = check_problem(post(client, data), 422, "invalid_request")
        assert reason in problem["detail"], (reason, problem["detail"])
        assert problem["errors"][0]["pointer"] == "/file"
    assert stored_files(server) == []
    assert client.get("/v1/jobs").json()["items"] == []


def test_a_huge_parquet_group_is_refused(client: httpx2.Client, space_id: str) -> None:
    count = 1_100_000
    flat = pa.array(np.zeros(count * DIM, np.float32))
    made = pa.table({"key": ["k"] * count, "embedding": pa.FixedSizeListArray.from_arrays(flat, DIM)})
    file = io.BytesIO()
    options = {"use_dictionary": False, "compression": "zstd", "row_group_size": count}
    parquet.write_table(made.replace_schema_metadata({"space_id": space_id}), file, **options)
    problem = check_problem(post(client, file.getvalue()), 422, "invalid_request")
    assert "row_group_size" in problem["detail"]


def test_files_that_are_mostly_air_are_refused(client: httpx2.Client, server: Running, space_id: str) -> None:
    good, keys = EMBEDDINGS[:2], ["a", "b"]
    spaces = io.BytesIO(npz(space_id, keys, good))
    with zipfile.ZipFile(spaces, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.jsonl", b" " * 10_000_000)
    for reason, data in {
        "metadata.jsonl is too large for 2 rows": spaces.getvalue(),
        "become more than 200 times": zipped(
            space_id,
            keys=header_of("(30000,)", "<U1000") + bytes(30_000 * 4000),
            embeddings=header_of(f"(30000, {DIM})") + bytes(30_000 * DIM * 4),
        ),
        "5,000,000 numbers in 1 embeddings": table(space_id, ["a"], [np.zeros(5_000_000, np.float32)]),
    }.items():
        problem = check_problem(post(client, data), 422, "invalid_request")
        assert reason in problem["detail"], problem["detail"]
    assert stored_files(server) == []


def test_a_long_text_in_many_rows_is_read_once(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    count = 1000
    data = table(space_id, ["k" * 2_000_000] * count, np.tile(EMBEDDINGS[:1], (count, 1)))
    tracemalloc.start()
    job = finished(client, crew, post(client, data))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert job["status"] == "failed"
    assert job["progress"]["failed"] == count
    assert peak < 100 << 20


def test_files_that_turn_out_broken_fail_the_job(client: httpx2.Client, space_id: str, crew: Crew) -> None:
    fewer = io.BytesIO(npz(space_id, ["a", "b"], EMBEDDINGS[:2]))
    with zipfile.ZipFile(fewer, "a") as archive:
        archive.writestr("metadata.jsonl", "{}\n")
    whole = table(space_id, ["a", "b"], EMBEDDINGS[:2], compression="none", use_dictionary=False)
    at = whole.index(EMBEDDINGS[:1].tobytes())
    damaged = whole[: at - 60] + bytes(60) + whole[at:]
    assert finished(client, crew, post(client, with_metadata(space_id, ["{}", "{}"])))["status"] == "succeeded"
    for data, reason in ((fewer.getvalue(), "fewer lines"), (damaged, "cannot be read")):
        job = finished(client, crew, post(client, data))
        assert (job["status"], job["error"]["code"]) == ("failed", "source_unreadable")
        assert reason in job["error"]["detail"]


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 127:
        found.append(number & 127 | 128)
        number >>= 7
    return bytes([*found, number])


def test_a_huge_parquet_footer_is_refused(client: httpx2.Client, server: Running, space_id: str) -> None:
    file = io.BytesIO()
    said = {"space_id": space_id, "note": "x" * (17 << 20)}
    made = pa.table({"key": ["a"], "embedding": [EMBEDDINGS[0]]})
    parquet.write_table(made.replace_schema_metadata(said), file)
    lies = bytearray(table(space_id, ["a"], EMBEDDINGS[:1]))
    lies[-8:-4] = struct.pack("<I", 1 << 31)
    # a version, and a schema of elements that say nothing (Thrift's compact protocol)
    many = b"\x15\x02\x19\xfc" + varint(9_000_000) + bytes(9_000_000)
    for data, reason in (
        (file.getvalue(), f"footer has more than {MAX_FOOTER_BYTES >> 20} MiB"),
        (bytes(lies), "cut off, or damaged"),
        (b"PAR1" + many + struct.pack("<I", len(many)) + b"PAR1", "cannot be read"),
    ):
        tracemalloc.start()
        problem = check_problem(post(client, data), 422, "invalid_request")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert reason in problem["detail"], problem["detail"]
        assert peak < 100 << 20
    assert stored_files(server) == []
