"""Jobs posted as forms, with the images in them."""

from __future__ import annotations

import io
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import httpx2
import pytest

from imagekin.database import tables
from kit.calls import accepted, count, row, stored_files
from kit.hand import Hand, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


def test_posted_images_become_one_zip_of_their_keys(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    files = [
        ("images", ("a.png", picture(1))),
        ("images", ("trip/u\u0308.png", picture(2))),
        ("images", ("a.png", picture(3))),
    ]
    job = accepted(client.post("/v1/jobs/embed", data={"collection": "archive", "on_conflict": "fail"}, files=files))
    work = row(server, job["id"]).work["source"]
    assert work["named"] is True
    with zipfile.ZipFile(server.service.storage.open(work["path"])) as archive:
        members = archive.infolist()
        assert [member.filename for member in members] == ["a.png", "trip/ü.png", "a.png"]
        assert [archive.read(member) for member in members] == [picture(1), picture(2), picture(3)]
    assert job["params"] == {"source": {"type": "upload", "upload_id": work["upload_id"]}, "on_conflict": "fail"}
    assert row(server, job["id"]).upload_id == work["upload_id"]


def test_a_posted_archive_is_stored_as_it_is(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", picture())
    answer = client.post(
        "/v1/jobs/embed", data={"collection": "archive"}, files={"archive": ("photos.zip", file.getvalue())}
    )
    work = row(server, accepted(answer)["id"]).work["source"]
    assert work["filename"] == "photos.zip"
    assert server.service.storage.open(work["path"]).read() == file.getvalue()


@pytest.mark.parametrize(
    ("fields", "files", "code", "pointer"),
    [
        ({}, [("images", ("a.png", b"a"))], "invalid_request", "/collection"),
        ({"collection": "archive", "on_conflict": "maybe"}, [("images", ("a.png", b"a"))], "invalid_request",
         "/on_conflict"),
        ({"collection": "archive", "colour": "red"}, [("images", ("a.png", b"a"))], "invalid_request", "/colour"),
        ({"collection": "archive"}, [("images", ("../a.png", b"a"))], "invalid_key", "/images/0"),
        ({"collection": "archive"}, [("images", ("b.png", b"a")), ("images", ("", b"a"))], "invalid_key", "/images/1"),
        ({"collection": "archive"}, [("photos", ("a.png", b"a"))], "invalid_request", "/photos"),
        ({"collection": "archive"}, [("images", ("a.png", b"a")), ("archive", ("a.zip", b"a"))], "invalid_request",
         "/images"),
        ({"collection": "archive"}, [("archive", ("a.zip", b"a")), ("archive", ("b.zip", b"a"))], "invalid_request",
         "/archive"),
    ],
)  # fmt: skip
def test_a_wrong_form_is_pointed_at_and_leaves_nothing_behind(
    client: httpx2.Client,
    hand: Hand,
    server: Running,
    fields: dict[str, str],
    files: list[Any],
    code: str,
    pointer: str,
) -> None:
    hand.collection()
    problem = check_problem(client.post("/v1/jobs/embed", data=fields, files=files), 422, code)
    assert problem["errors"][0]["pointer"] == pointer
    assert stored_files(server) == []
    assert count(server, tables.Job) == count(server, tables.Upload) == 0


def test_a_form_without_images_is_refused(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    boundary = "b0"
    body = f'--{boundary}\r\nContent-Disposition: form-data; name="collection"\r\n\r\narchive\r\n--{boundary}--\r\n'
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    answer = client.post("/v1/jobs/embed", content=body.encode(), headers=headers)
    assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "/images"


@pytest.mark.parametrize(
    "body",
    [b"", b"--b0\r\n", b"no boundary at all", b"--b0\r\nContent-Disposition: form-data\r\n\r\nx",
     b"--b0\r\nX: y\r\n\r\nx\r\n--b0--"],
)  # fmt: skip
def test_a_broken_form_is_a_bad_request(client: httpx2.Client, body: bytes) -> None:
    headers = {"Content-Type": "multipart/form-data; boundary=b0"}
    check_problem(client.post("/v1/jobs/embed", content=body, headers=headers), 400, "bad_request")
    headers = {"Content-Type": "multipart/form-data"}
    check_problem(client.post("/v1/jobs/embed", content=body, headers=headers), 400, "bad_request")


def test_a_large_form_goes_through_in_pieces(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    # as long as several pieces from the socket, full of what looks like the start of a boundary
    data = b"\r\n--" * 600_000 + b"end"
    answer = client.post("/v1/jobs/embed", data={"collection": "archive"}, files={"archive": ("a.tar", data)})
    work = row(server, accepted(answer)["id"]).work["source"]
    assert server.service.storage.open(work["path"]).read() == data


@pytest.mark.parametrize("size", [100, 1_000_000])
def test_posted_images_without_room_for_them_may_be_sent_again(
    client: httpx2.Client, hand: Hand, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    hand.collection()

    def full(prefix: str) -> Any:
        # what is written there meets a full disk, small files as late as at the end; the pack closes it
        return Path("/dev/full").open("w+b")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    files = [("images", ("a.png", bytes(size)))]
    answer = client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files)
    assert "temporary folder" in check_problem(answer, 503, "unavailable")["detail"]
    monkeypatch.undo()
    accepted(client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files))


def test_a_search_by_a_picture_stores_it_for_the_worker(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()
    fields = {"collection": "archive", "top_k": "5", "exclude_query": "false", "filter": '{"year": 1969}'}
    answer = client.post("/v1/jobs/search", data=fields, files={"image": ("query.png", picture())})
    job = accepted(answer)
    assert job["params"] == {
        "query": {"image": "query.png"}, "top_k": 5, "min_score": None, "exclude_query": False, "view": "calibrated",
        "filter": {"year": 1969}, "crop": None, "collapse_duplicates": False,
    }  # fmt: skip
    query = row(server, job["id"]).work["query"]
    assert query["filename"] == "query.png"
    assert server.service.storage.open(query["upload"]).read() == picture()


def test_a_wrong_search_form_leaves_nothing_behind(client: httpx2.Client, hand: Hand, server: Running) -> None:
    hand.collection()

    def post(name: str = "image", data: bytes = b"x", **fields: str) -> httpx2.Response:
        fields = {"collection": "archive", **fields}
        return client.post("/v1/jobs/search", data=fields, files={name: ("q.png", data)})

    for answer, pointer in [
        (post(data=b""), "/image"),
        (post(name="picture"), "/picture"),
        (post(filter="{"), "/filter"),
        (post(filter="[1]"), "/filter"),
        (post(top_k="many"), "/top_k"),
    ]:
        assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == pointer
    assert stored_files(server) == []
