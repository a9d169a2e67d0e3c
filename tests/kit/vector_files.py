"""Files of vectors: exports as others read them, and what is imported."""

from __future__ import annotations

import io
import json
import struct
import zipfile
from itertools import pairwise
from typing import Any

import httpx2
import numpy as np
import pyarrow as pa
import safetensors.numpy
from pyarrow import parquet

from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM
from kit.known_vectors import EMBEDDINGS


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


def with_metadata(space_id: str, lines: list[str]) -> bytes:
    file = io.BytesIO(npz(space_id, [f"{at}" for at in range(len(lines))], np.tile(EMBEDDINGS[:1], (len(lines), 1))))
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("metadata.jsonl", "\n".join(lines))
    return file.getvalue()
