"""The client against a small server over real HTTP."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tracemalloc
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from fake_server import BREAK, PNG, Answer, FakeServer, problem, progress, unpack
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from imagekin import errors
from imagekin.client import Client, Unreachable, UnreadableAnswer, WaitTimeout, problems, uploads
from imagekin.client import jobs as client_jobs
from imagekin.client import transport as client_transport


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(client_transport, "BACKOFF_S", 0.01)
    monkeypatch.setattr(client_jobs, "MIN_PAUSE_S", 0.01)
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.JPG").write_bytes(b"\xff\xd8\xff b")
    (folder / "sub" / "a.png").write_bytes(b"a" * 1000)
    (folder / "nameless").write_bytes(PNG)
    (folder / "notes.txt").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(PNG)
    (folder / "cafe\u0301.png").write_bytes(PNG)
    return folder


# --- address and key -------------------------------------------------------------------------------------------


def test_url_and_key_come_from_the_environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_URL", server.url + "/")
    monkeypatch.setenv("IMAGEKIN_API_KEY", "secret")
    with Client() as client:
        assert list(client.collections()) == []
        assert client.url == server.url
    assert server.requests[-1].headers["authorization"] == "Bearer secret"


def test_default_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEKIN_URL", raising=False)
    with Client() as client:
        assert client.url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        Client(url)


def test_proxies_of_the_environment_are_not_for_this_machine(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client(server.url, retries=0) as client:
        assert list(client.collections()) == []


# --- retries ---------------------------------------------------------------------------------------------------


def test_a_job_is_sent_again_with_the_same_key_and_body(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.faults += [BREAK, problem(503, "backlog", Retry_After="0"), problem(429, "quota_exceeded", Retry_After="0")]
    job = client.cluster("c", 3, seed=7)
    posts = server.posts("/v1/jobs/cluster")
    assert job.kind == "cluster"
    assert len(posts) == 4
    assert len({post.headers["idempotency-key"] for post in posts}) == 1
    assert [post.json for post in posts] == [{"collection": "c", "n_clusters": 3, "seed": 7}] * 4


def test_every_job_has_a_key_of_its_own(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.cluster("c", 3)
    client.cluster("c", 3)
    client.cluster("c", 3, idempotency_key="mine")
    keys = [post.headers["idempotency-key"] for post in server.posts("/v1/jobs/cluster")]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_retry_after_is_honored(server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(client_transport.time, "sleep", pauses.append)
    server.faults += [problem(503, "backlog", Retry_After="7"), problem(503, "backlog")]
    assert list(client.collections()) == []
    assert 7 <= pauses[0] <= 7.01
    assert 0.01 <= pauses[1] <= 0.02


def test_a_retry_after_too_far_away_is_the_callers_business(server: FakeServer, client: Client) -> None:
    server.faults += [problem(429, "quota_exceeded", Retry_After="3600")]
    with pytest.raises(errors.QuotaExceeded) as caught:
        list(client.collections())
    assert caught.value.retry_after_s == 3600
    assert len(server.requests) == 1


def test_retry_after_may_be_a_date(server: FakeServer, client: Client) -> None:
    server.faults += [problem(503, "backlog", Retry_After="Wed, 21 Oct 2099 07:28:00 GMT")]
    with pytest.raises(errors.Backlog) as caught:
        list(client.collections())
    assert (caught.value.retry_after_s or 0) > 10**9


def test_retries_end(server: FakeServer) -> None:
    server.faults += [problem(503, "backlog")] * 9
    with Client(server.url, retries=2) as client, pytest.raises(errors.Backlog, match="went wrong"):
        list(client.collections())
    assert len(server.requests) == 3


def test_a_broken_connection_does_not_repeat_what_is_not_safe(server: FakeServer, client: Client) -> None:
    server.faults += [BREAK]
    with pytest.raises(Unreachable):
        client.create_collection("c")
    server.faults += [Answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})]
    with pytest.raises(errors.ImagekinError) as caught:
        client.create_collection("c")
    assert caught.value.http_status == 502
    assert len(server.posts("/v1/collections")) == 2


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with FakeServer() as gone:
        url = gone.url
    with Client(url, retries=0) as client, pytest.raises(Unreachable, match=url):
        client.ping()


def test_uploads_are_read_again_from_their_start(server: FakeServer, client: Client) -> None:
    server.faults += [BREAK, problem(503, "unavailable", Retry_After="0")]
    file = io.BytesIO(b"skipped" + b"x" * 600_000)
    file.seek(7)
    sent: list[int] = []
    assert client.upload(file, sent=sent.append).size == 600_000
    posts = server.posts("/v1/uploads")
    assert [len(post.body) for post in posts] == [600_000] * 3
    assert posts[-1].headers["content-length"] == "600000"
    assert sent[-1] == 600_000


def test_a_form_is_sent_again_whole(server: FakeServer, client: Client, tmp_path: Path) -> None:
    server.add_collection("c")
    server.results["search"] = {"query": {}, "top_k": 3, "neighbors": []}
    server.faults += [BREAK]
    picture = tmp_path / "query.png"
    picture.write_bytes(PNG)
    client.search(picture, collection="c", top_k=3, filter={"who": "me"})
    first, second = server.posts("/v1/jobs/search")
    for post in (first, second):
        assert PNG in post.body
        assert b'filename="query.png"' in post.body
        assert b'{"who": "me"}' in post.body
        assert b'name="top_k"\r\n\r\n3\r\n' in post.body
        assert b'name="exclude_query"\r\n\r\ntrue\r\n' in post.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]


# --- errors ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "kind"),
    [
        (404, "collection_not_found", errors.CollectionNotFound),
        (404, "not_found", errors.NotFound),
        (409, "source_expired", errors.SourceExpired),
        (413, "too_large", errors.TooLarge),
        (401, "unauthorized", errors.Unauthorized),
        (500, "internal_error", errors.ImagekinError),
    ],
)
def test_errors_are_the_services_own(
    server: FakeServer, client: Client, status: int, code: str, kind: type[errors.ImagekinError]
) -> None:
    server.faults += [problem(status, code, "Because.")]
    with pytest.raises(kind, match="Because") as caught:
        client.collection("c")
    assert type(caught.value) is kind
    assert caught.value.code == code


def test_an_unknown_code_keeps_its_status(server: FakeServer, client: Client) -> None:
    server.faults += [problem(418, "teapot", "Short and stout.")]
    with pytest.raises(errors.ImagekinError, match="Short and stout") as caught:
        client.collection("c")
    assert (caught.value.code, caught.value.http_status, caught.value.retryable) == ("teapot", 418, False)


def test_an_error_without_a_problem_says_its_status(server: FakeServer, client: Client) -> None:
    server.faults += [Answer(403, b"<html>no</html>", {"Content-Type": "text/html"})]
    with pytest.raises(errors.ImagekinError, match="403 Forbidden") as caught:
        client.collection("c")
    assert caught.value.http_status == 403


def test_an_answer_of_another_server_is_told(server: FakeServer, client: Client) -> None:
    server.faults += [Answer(200, b"<html>hello</html>")]
    with pytest.raises(UnreadableAnswer, match="/v1/collections/c"):
        client.collection("c")


def test_codes_of_request_errors_are_unique() -> None:
    family = list(problems._family(errors.ImagekinError, without=(errors.JobError, errors.ItemError)))
    # LeaseLost and NotReady are the service's own business, but they have codes of their own, too.
    assert len({kind.code for kind in family}) == len(family)


def test_bad_arguments_never_leave_the_machine(server: FakeServer, client: Client) -> None:
    with pytest.raises(errors.InvalidRequest, match="n_clusters") as caught:
        client.cluster("c", 0)
    assert caught.value.errors[0]["pointer"] == "/n_clusters"
    with pytest.raises(errors.InvalidRequest, match="one query"):
        client.search(collection="c")
    with pytest.raises(errors.InvalidRequest, match="one query"):
        client.search(b"x", image_id="i", collection="c")
    assert server.requests == []


# --- collections and images ------------------------------------------------------------------------------------


def test_pages_are_followed_to_the_end(server: FakeServer, client: Client) -> None:
    server.add_images(25)
    server.page = 10
    assert [image.key for image in client.images("c")] == [f"{n}.png" for n in range(25)]
    assert [request.query.get("cursor") for request in server.requests] == [None, ["10"], ["20"]]


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
        client.export("c", tmp_path / "c.csv")
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


# --- embed -----------------------------------------------------------------------------------------------------


def test_a_missing_collection_is_created(server: FakeServer, client: Client) -> None:
    client.embed("http://example.com/a.png", "new", backbone="resnet50", dtype="float16")
    assert server.collections["new"]["backbone"] == "resnet50"
    assert server.posts("/v1/collections")[0].json == {"name": "new", "backbone": "resnet50", "dtype": "float16"}
    assert server.posts("/v1/jobs/embed")[0].json == {
        "collection": "new",
        "source": {"type": "urls", "urls": [{"url": "http://example.com/a.png"}]},
    }


def test_a_collection_of_another_space_is_refused(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.embed("s3://bucket/x", "c", backbone="efficientnet_lite0", weights="DEFAULT", on_conflict="skip")
    assert server.posts("/v1/jobs/embed")[0].json["source"] == {"type": "location", "url": "s3://bucket/x"}
    assert server.posts("/v1/jobs/embed")[0].json["on_conflict"] == "skip"
    with pytest.raises(errors.Conflict, match="backbone efficientnet_lite0, not resnet50"):
        client.embed("s3://bucket/x", "c", backbone="resnet50")


def test_a_folder_is_uploaded(server: FakeServer, client: Client, photos: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    client.embed(photos, "c", on_upload=lambda sending: seen.append((sending.files, sending.size, sending.sent_bytes)))
    body = server.posts("/v1/uploads")[0].body
    assert unpack(body) == {
        "b.JPG": b"\xff\xd8\xff b",
        "caf\u00e9.png": PNG,
        "nameless": PNG,
        "sub/a.png": b"a" * 1000,
    }
    assert seen[0] == (4, 5 + 2 * len(PNG) + 1000, 0)
    assert seen[-1] == (4, 5 + 2 * len(PNG) + 1000, len(body))
    in_place, uploaded = server.posts("/v1/jobs/embed")
    assert in_place.json["source"] == {"type": "folder", "path": str(photos.resolve())}
    assert uploaded.json["source"] == {"type": "upload", "upload_id": "u1"}


def test_the_same_folder_makes_the_same_bytes(photos: Path) -> None:
    def pack() -> bytes:
        return b"".join(uploads.tar(uploads.Folder(photos)))

    before = pack()
    (photos / "b.JPG").touch()
    assert pack() == before


def test_a_folder_is_read_in_place_where_the_server_may(server: FakeServer, client: Client, photos: Path) -> None:
    server.roots = True
    client.embed(photos, "c")
    assert server.posts("/v1/uploads") == []
    client.embed(photos, "c", upload=True)
    assert len(server.posts("/v1/uploads")) == 1
    server.roots = False
    with pytest.raises(errors.SourceRefused):
        client.embed(photos, "c", upload=False)


def test_a_list_is_keyed_by_name(server: FakeServer, client: Client, photos: Path) -> None:
    client.embed([photos / "b.JPG", photos / "sub"], "c")
    assert set(unpack(server.posts("/v1/uploads")[0].body)) == {"b.JPG", "sub/a.png"}


def test_names_that_repeat_are_told_apart_by_folder(server: FakeServer, client: Client, photos: Path) -> None:
    (photos / "sub" / "b.JPG").write_bytes(PNG)
    client.embed([str(photos / "b.JPG"), str(photos / "sub" / "b.JPG")], "c")
    assert set(unpack(server.posts("/v1/uploads")[0].body)) == {"b.JPG", "sub/b.JPG"}


def test_one_picture_goes_as_a_form(server: FakeServer, client: Client, photos: Path) -> None:
    client.embed(photos / "b.JPG", "c", on_conflict="fail")
    post = server.posts("/v1/jobs/embed")[0]
    assert b'name="images"; filename="b.JPG"' in post.body
    assert b'name="on_conflict"\r\n\r\nfail\r\n' in post.body


@pytest.mark.parametrize(("name", "kind"), [("a.zip", "upload"), ("a.TAR.GZ", "upload"), ("list.csv", "manifest")])
def test_archives_and_manifests_go_as_they_are(
    server: FakeServer, client: Client, tmp_path: Path, name: str, kind: str
) -> None:
    (tmp_path / name).write_bytes(b"as it is")
    client.embed(tmp_path / name, "c")
    assert server.posts("/v1/uploads")[0].body == b"as it is"
    assert server.posts("/v1/jobs/embed")[0].json["source"] == {"type": kind, "upload_id": "u1"}


def test_more_urls_than_a_request_has_become_a_manifest(server: FakeServer, client: Client) -> None:
    urls = [{"url": f"http://example.com/{n}.png", "key": f"é{n}"} for n in range(10_001)]
    client.embed(urls, "c")
    lines = server.posts("/v1/uploads")[0].body.decode().splitlines()
    assert [json.loads(line) for line in lines] == urls
    assert server.posts("/v1/jobs/embed")[0].json["source"]["type"] == "manifest"


def test_sources_that_are_none(server: FakeServer, client: Client, tmp_path: Path, photos: Path) -> None:
    (tmp_path / "a.zip").write_bytes(b"")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError):
        client.embed(tmp_path / "nothing", "c")
    with pytest.raises(errors.EmptySource):
        client.embed(tmp_path / "empty", "c", upload=True)
    with pytest.raises(errors.EmptySource):
        client.embed([], "c")
    with pytest.raises(errors.InvalidRequest, match="alone"):
        client.embed([tmp_path / "a.zip", photos], "c")
    with pytest.raises(errors.InvalidRequest, match="either"):
        client.embed(["http://example.com/a.png", photos], "c")
    assert server.posts("/v1/uploads") == []


def test_a_file_that_cannot_be_read_stays_in_the_ledger(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = list(uploads.Folder(photos))
    (photos / "b.JPG").unlink()
    assert unpack(b"".join(uploads.tar(files)))["b.JPG"] == b""
    assert "b.JPG" in caplog.text


def test_a_folder_below_that_cannot_be_read_is_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "closed/b.png", "open/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    folder, closed = uploads.Folder(tmp_path), tmp_path / "closed"
    for _ in range(2):
        walk = iter(folder)
        found = [next(walk).key]
        # what root may read, too, cannot be read once it is no folder any more
        closed.rename(tmp_path / ".elsewhere")
        closed.touch()
        found += [file.key for file in walk]
        assert found == ["a.png", "open/c.png"]
        closed.unlink()
        (tmp_path / ".elsewhere").rename(closed)
    assert [str(closed) in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(FileNotFoundError):
        list(uploads.Folder(tmp_path / "nothing"))


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(bytes(1 << 20))
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in uploads.tar(uploads.Folder(tmp_path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 40 << 20
    assert peak < 2 << 20


def test_long_and_foreign_keys_survive_the_tar(tmp_path: Path) -> None:
    name = "ü" * 60 + ".png"
    folder = tmp_path / ("d" * 90) / ("e" * 90)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(PNG)
    body = b"".join(uploads.tar(uploads.Folder(tmp_path)))
    assert set(unpack(body)) == {f"{'d' * 90}/{'e' * 90}/{name}"}
    assert tarfile.is_tarfile(io.BytesIO(body))


# --- jobs ------------------------------------------------------------------------------------------------------

STEPS = [
    {"status": "planning", "progress": progress()},
    {"status": "running", "progress": progress(total=10, done=4, embedded=3, failed=1, images_per_s=2.0, eta_s=3.0)},
    {"status": "partial", "progress": progress(total=10, done=10, embedded=9, failed=1)},
]


def test_wait_tells_how_far_the_job_is(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = STEPS
    seen: list[tuple[str, int]] = []
    job = client.embed("s3://x", "c").wait(lambda job: seen.append((job.status, job.progress.done)))
    assert seen == [("planning", 0), ("running", 4), ("partial", 10)]
    assert job.terminal
    assert all(request.headers["prefer"] == "wait=1" for request in server.requests if request.path == "/v1/jobs/j1")


def test_wait_holds_long_when_nobody_watches(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.cluster("c", 2).wait()
    assert server.requests[-1].headers["prefer"] == "wait=20"


def test_wait_shows_lines_where_there_is_no_terminal(
    server: FakeServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add_collection("c")
    server.steps = STEPS
    client.embed("s3://x", "c").wait(progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "embed planning: 0 images",
        "embed running: 4 of 10 images, 1 failed, 2.0 images/s, 3 s left",
        "embed partial: 10 of 10 images, 1 failed",
    ]


def test_wait_gives_up_but_the_job_goes_on(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = [{"status": "running"}] * 1000
    job = client.cluster("c", 2)
    with pytest.raises(WaitTimeout, match=r"still running after 0\.05 s"):
        job.wait(timeout_s=0.05)
    with pytest.raises(TimeoutError):
        job.wait(timeout_s=0)


def test_the_result_of_a_failed_job_is_its_error(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = [{"status": "failed", "error": {"code": "empty_source", "detail": "Nothing in it."}}]
    with pytest.raises(errors.EmptySource, match="Nothing in it"):
        client.embed("s3://x", "c").result()
    server.steps = [{"status": "failed", "error": {"code": "decode_error", "detail": "Broken."}}]
    with pytest.raises(errors.DecodeError, match="Broken"):
        client.search(b"x", collection="c")
    server.steps = [{"status": "failed", "error": {"code": "new_code", "detail": "Odd."}}]
    with pytest.raises(errors.JobError, match="Odd") as caught:
        client.embed("s3://x", "c").result()
    assert caught.value.code == "new_code"
    server.steps = [{"status": "failed", "progress": progress(total=3, done=3, failed=3)}]
    job = client.embed("s3://x", "c").wait()
    with pytest.raises(errors.JobError, match="All 3 images failed"):
        job.raise_for_status()


def test_cancel_retry_items_and_sheet(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = [{"status": "running"}] * 9
    server.items = [
        {"key": "a", "status": "embedded", "image_id": "i1", "error": None},
        {"key": "b", "status": "failed", "image_id": None, "error": {"code": "decode_error", "detail": "Broken."}},
    ]
    job = client.embed("s3://x", "c")
    assert job.cancel().status == "cancelled"
    with pytest.raises(errors.JobError, match="cancelled"):
        job.result()
    assert [item.key for item in job.items()] == ["a", "b"]
    assert [item.error.code for item in job.items("failed") if item.error] == ["decode_error"]
    assert job.sheet(label=2) == PNG + b"2"
    again = job.retry()
    assert again.parent_id == job.id
    assert server.posts("/v1/jobs/j1/retry")[0].json == {"items": "failed"}
    assert [each.id for each in client.jobs(status="cancelled")] == [job.id]


def test_search_gives_neighbors(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    neighbor = {"rank": 1, "id": "i1", "key": "a", "score": 0.9, "metadata": {}}
    server.results["search"] = {"query": {"embedding": True}, "top_k": 2, "neighbors": [neighbor]}
    found = client.search(embedding=np.array([1, 2], np.float32), collection="c", top_k=2)
    assert [(neighbor.key, neighbor.score) for neighbor in found.neighbors] == [("a", 0.9)]
    client.search(image_key="a", collection="c", exclude_query=False)
    client.search("https://example.com/a.png", collection="c")
    bodies = [post.json for post in server.posts("/v1/jobs/search")]
    assert [body["query"] for body in bodies] == [
        {"embedding": [1.0, 2.0]},
        {"image_key": "a"},
        {"url": "https://example.com/a.png"},
    ]
    assert bodies[1]["exclude_query"] is False


def test_assign_names_the_clustering(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    with pytest.raises(errors.JobNotFound):
        client.job("nothing")
    with pytest.raises(errors.JobNotFound):
        client.assign("nothing")
    clustering = client.cluster("c", 2)
    client.assign(clustering, image_keys=["a"])
    assert server.posts("/v1/jobs/assign")[-1].json == {"clustering_id": clustering.id, "image_keys": ["a"]}


# --- what the client needs -------------------------------------------------------------------------------------

_ALONE = """
import sys
sys.path.insert(0, sys.argv[1])
import imagekin
assert "httpx2" not in sys.modules and "pydantic" not in sys.modules, "import imagekin is not cheap"
import numpy as np
with imagekin.Client(sys.argv[2]) as client:
    job = client.embed(sys.argv[3], "c", upload=True)
    assert job.wait(progress=True).status == "succeeded"
    found = client.search(embedding=np.array([1, 2], np.float32), collection="c")
    assert [neighbor.key for neighbor in found.neighbors] == ["a"]
    assert client.vectors("c").embeddings.shape == (2, 4)
from imagekin.cli import main
sys.argv[1:] = ["--url", sys.argv[2], "collections", "list"]
main()
"""


def _closure(name: str, found: dict[str, metadata.Distribution]) -> dict[str, metadata.Distribution]:
    """Add a distribution and all that it needs, extras left out, as an installer does."""
    if name not in found:
        found[name] = metadata.distribution(name)
        for requirement in map(Requirement, found[name].requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                _closure(canonicalize_name(requirement.name), found)
    return found


def test_the_client_works_with_its_own_dependencies_alone(server: FakeServer, photos: Path, tmp_path: Path) -> None:
    """In an environment as `pip install imagekin` makes it: what is there is linked, and Python finds nothing else."""
    neighbor = {"rank": 1, "id": "i1", "key": "a", "score": 0.9, "metadata": {}}
    server.results["search"] = {"query": {}, "top_k": 2, "neighbors": [neighbor]}
    packages = tmp_path / "packages"
    packages.mkdir()
    for name, distribution in _closure("imagekin", {}).items():
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            if not (packages / top).exists():
                (packages / top).symlink_to(distribution.locate_file(top))
        assert name == "imagekin" or distribution.files
    if not (packages / "imagekin").exists():
        (packages / "imagekin").symlink_to(Path(uploads.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", _ALONE, str(packages), server.url, str(photos)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1].startswith("c\t0\t")
    assert not {"torch", "flask", "celery", "sqlalchemy", "PIL"} & {path.name for path in packages.iterdir()}


def test_the_package_tells_type_checkers_that_it_is_typed() -> None:
    assert (Path(uploads.__file__).parents[1] / "py.typed").is_file()


def test_public_names() -> None:
    import imagekin

    assert imagekin.__all__ == ["Client", "ImagekinError", "Job", "Vectors", "__version__"]
    assert all(hasattr(imagekin, name) for name in imagekin.__all__)
    with pytest.raises(AttributeError, match="nothing"):
        _ = imagekin.nothing
