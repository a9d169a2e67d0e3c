"""Uploads."""

from __future__ import annotations

import gzip
import hashlib
import io
import socket
import sqlite3
import tarfile
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError

from imagekin.database import tables
from imagekin.uploads import rows
from kit.calls import accepted, count, embed, stored_files
from kit.hand import Hand, picture
from kit.serving import Running
from kit.wire import ADMIN_KEY, check_problem


def test_an_upload_is_kept_byte_by_byte(client: httpx2.Client, server: Running) -> None:
    data = picture() * 3000
    answer = client.post("/v1/uploads", content=data)
    assert answer.status_code == 201
    body = answer.json()
    assert body.keys() == {"id", "sha256", "size"}
    assert (body["sha256"], body["size"]) == (hashlib.sha256(data).hexdigest(), len(data))
    assert server.service.storage.open(rows.path(body["id"])).read() == data


def test_an_upload_may_come_in_chunks_of_unknown_length(client: httpx2.Client) -> None:
    def pieces() -> Iterator[bytes]:
        yield from (b"a" * 70_000, b"b", b"c" * 70_000)

    body = client.post("/v1/uploads", content=pieces()).json()
    assert body["size"] == 140_001


def test_the_sum_of_a_tar_gz_is_of_what_was_sent(client: httpx2.Client) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = len(picture())
        archive.addfile(member, io.BytesIO(picture()))
    data = gzip.compress(file.getvalue())
    body = client.post("/v1/uploads", content=data).json()
    assert (body["sha256"], body["size"]) == (hashlib.sha256(data).hexdigest(), len(data))


@pytest.mark.parametrize(
    "headers", [{"Content-Disposition": 'attachment; filename="moon.png"'}, {"Content-Type": "image/png"}]
)
def test_an_upload_may_have_a_name(client: httpx2.Client, server: Running, headers: dict[str, str]) -> None:
    params = {} if "Content-Disposition" in headers else {"filename": "moon.png"}
    upload_id = client.post("/v1/uploads", content=picture(), headers=headers, params=params).json()["id"]
    assert server.database.read(rows.get, "admin", upload_id).filename == "moon.png"


def test_an_empty_upload_is_refused_and_not_kept(client: httpx2.Client, server: Running) -> None:
    check_problem(client.post("/v1/uploads", content=b""), 422, "invalid_request")
    assert stored_files(server) == []
    assert count(server, tables.Upload) == 0


def test_a_form_is_no_upload(client: httpx2.Client) -> None:
    answer = client.post("/v1/uploads", files={"file": ("a.png", picture())})
    check_problem(answer, 415, "unsupported_media_type")


def test_an_upload_past_the_limit_is_refused(serve: Callable[..., Running]) -> None:
    server = serve(max_upload_bytes=100_000, max_image_bytes=50_000)
    client = server.client(ADMIN_KEY)
    Hand(server.database, server.settings).collection()

    def pieces() -> Iterator[bytes]:
        for _ in range(20):
            yield b"x" * 10_000

    form = {"collection": "archive"}
    for answer in (
        client.post("/v1/uploads", content=b"x" * 100_001),
        client.post("/v1/uploads", content=b"x" * 9_000_000),
        client.post("/v1/uploads", content=pieces()),
        client.post("/v1/jobs/embed", files={"archive": ("a.zip", b"x" * 100_001)}, data=form),
        client.post("/v1/jobs/embed", files=[("images", (f"{n}.png", b"x" * 60_000)) for n in range(2)], data=form),
        client.post("/v1/jobs/search", files={"image": ("a.png", b"x" * 50_001)}, data=form),
    ):
        check_problem(answer, 413, "too_large")
    assert client.post("/v1/uploads", content=b"x" * 100_000).status_code == 201
    assert len(stored_files(server)) == count(server, tables.Upload) == 1


def test_an_upload_that_breaks_off_is_not_kept(server: Running) -> None:
    host, port = server.url.removeprefix("http://").split(":")
    lines = ["POST /v1/uploads HTTP/1.1", f"Host: {host}", f"Authorization: Bearer {ADMIN_KEY}", "Content-Length: 1000"]
    head = "\r\n".join([*lines, "", ""])
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        connection.sendall(head.encode() + b"x" * 10)
        connection.shutdown(socket.SHUT_WR)
        answer = connection.recv(4096)
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert count(server, tables.Upload) == 0
    assert stored_files(server) == []


def test_bytes_are_kept_where_the_commit_may_have_arrived(
    client: httpx2.Client, hand: Hand, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.collection()
    write = server.database.write

    def lost(*args: Any, **kwargs: Any) -> Any:
        write(*args, **kwargs)
        raise OperationalError("COMMIT", None, sqlite3.OperationalError("disk I/O error"))

    def post() -> httpx2.Response:
        files, headers = {"images": ("a.png", picture())}, {"Idempotency-Key": "once"}
        return client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files, headers=headers)

    with monkeypatch.context() as failing:
        failing.setattr(server.database, "write", lost)
        check_problem(post(), 503, "unavailable")
        check_problem(client.post("/v1/uploads", content=picture()), 503, "unavailable")
    accepted(post())
    assert count(server, tables.Job) == 1
    paths = server.database.read(lambda session: session.scalars(sa.select(tables.Upload.path)).all())
    assert len(paths) == 2
    for path in paths:
        assert server.service.storage.exists(path)


def test_an_upload_whose_commit_is_repeated_is_one(
    client: httpx2.Client, server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = server.database.write
    monkeypatch.setattr(
        server.database, "write", lambda *args, **kwargs: (write(*args, **kwargs), write(*args, **kwargs))[1]
    )
    assert client.post("/v1/uploads", content=picture()).status_code == 201
    assert count(server, tables.Upload) == len(stored_files(server)) == 1


def test_an_upload_is_deleted_unless_an_unfinished_job_reads_it(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, server: Running
) -> None:
    hand.collection()
    upload_id = client.post("/v1/uploads", content=picture()).json()["id"]
    job = accepted(embed(client, upload_id))
    check_problem(stranger.delete(f"/v1/uploads/{upload_id}"), 404, "upload_not_found")
    check_problem(client.delete(f"/v1/uploads/{upload_id}"), 409, "conflict")
    client.post(f"/v1/jobs/{job['id']}/cancel")
    assert client.delete(f"/v1/uploads/{upload_id}").status_code == 204
    check_problem(client.delete(f"/v1/uploads/{upload_id}"), 404, "upload_not_found")
    assert stored_files(server) == []


def test_an_expired_upload_is_gone_unless_a_job_names_it(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    alone, named = (client.post("/v1/uploads", content=picture()).json()["id"] for _ in range(2))
    accepted(embed(client, named))

    def expire(session: Any) -> None:
        for upload_id in (alone, named):
            session.get(tables.Upload, upload_id).expires_at = 1.0

    server.database.write(expire)
    check_problem(embed(client, alone), 404, "upload_not_found")
    accepted(embed(client, named))


def test_a_gzipped_tar_has_a_ratio_as_a_zip_has(client: httpx2.Client, server: Running) -> None:
    def packed(size: int) -> bytes:
        file = io.BytesIO()
        with tarfile.open(fileobj=file, mode="w:gz") as archive:
            member = tarfile.TarInfo("a.png")
            member.size = size
            archive.addfile(member, io.BytesIO(bytes(size)))
        return file.getvalue()

    check_problem(client.post("/v1/uploads", content=packed(200 << 20)), 413, "too_large")
    assert client.post("/v1/uploads", content=packed(30 << 20)).status_code == 201
    assert len([path for path in (server.settings.data_dir / "storage").rglob("*") if path.is_file()]) == 1
