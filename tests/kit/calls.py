"""Calls that post jobs, and what is there afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx2
import sqlalchemy as sa

from imagekin.database import tables
from imagekin.jobs import view
from imagekin.store import segments
from kit.hand import Hand, item
from kit.serving import Running

FIELDS = {
    "id", "kind", "status", "collection", "params", "progress", "queue_position", "created_at", "started_at",
    "finished_at", "expires_at", "parent_id", "error", "links",
}  # fmt: skip
PROGRESS = {
    "total", "done", "embedded", "reused", "skipped", "failed", "cancelled", "ignored", "images_per_s", "eta_s",
}  # fmt: skip
# What a finished clustering says.
SUMMARY: dict[str, Any] = {"n_clusters": 1, "clusters": []}


def upload(client: httpx2.Client, data: bytes = b"bytes", **params: str) -> str:
    return client.post("/v1/uploads", content=data, params=params).json()["id"]


def embed(client: httpx2.Client, upload_id: str, key: str | None = None, **body: Any) -> httpx2.Response:
    source = {"type": "upload", "upload_id": upload_id}
    headers = {"Idempotency-Key": key} if key else {}
    return client.post("/v1/jobs/embed", json={"collection": "archive", "source": source, **body}, headers=headers)


def search(client: httpx2.Client, **body: Any) -> httpx2.Response:
    return client.post("/v1/jobs/search", json={"collection": "archive", **body})


def accepted(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    body = answer.json()
    assert answer.headers["Location"] == f"/v1/jobs/{body['id']}"
    assert int(answer.headers["Retry-After"]) >= 1
    assert body.keys() >= FIELDS
    assert body["progress"].keys() >= PROGRESS
    return body


def row(server: Running, job_id: str) -> tables.Job:
    return server.database.read(view.get, "admin", job_id)


def count(server: Running, table: type[tables.Base]) -> int:
    return server.database.read(lambda session: session.scalar(sa.select(sa.func.count()).select_from(table)) or 0)


def stored_files(server: Running) -> list[Path]:
    return [path for path in (server.settings.data_dir / "storage").rglob("*") if path.is_file()]


def cluster(client: httpx2.Client) -> dict[str, Any]:
    return accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}))


def finish_three(client: httpx2.Client, hand: Hand) -> str:
    """An embed job with two images and a failure, its id."""
    hand.collection()
    job_id = accepted(embed(client, upload(client)))["id"]
    broken = segments.Item("c.jpg", error=("decode_error", "The image is truncated."))
    hand.finish_embed(item("a.jpg", 1), item("b.jpg", 2), broken)
    return job_id
