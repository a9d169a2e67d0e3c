"""Folders on their way: hashed first, in parts, joined with what an earlier run left at work."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from imagekin import errors
from imagekin.client import Client, JobGroup, Sending, Unreachable, uploads
from imagekin.enums import JobStatus
from kit.fake_server import BREAK, Answer, FakeServer, Request, problem, progress, unpack

FILE_BYTES = 100


@pytest.fixture
def server(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    # a part has three files
    monkeypatch.setattr(uploads, "PART_BYTES", 3 * FILE_BYTES)
    server.add_collection("c")
    server.steps = []
    return server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url, retries=1) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(8):
        (tmp_path / f"{number}.png").write_bytes(bytes([number]) * FILE_BYTES)
    return tmp_path


def send(client: Client, photos: Path) -> JobGroup:
    job = client.embed(photos, "c", upload=True)
    assert isinstance(job, JobGroup)
    return job


def store(server: FakeServer, photos: Path, *numbers: int) -> None:
    """Let the collection have some of the files."""
    for number in numbers:
        content = (photos / f"{number}.png").read_bytes()
        server.known.add((f"{number}.png", hashlib.sha256(content).hexdigest()))


def sent(server: FakeServer) -> list[str]:
    """Return the files of each upload, by number."""
    return ["".join(name[0] for name in unpack(post.body)) for post in server.posts("/v1/uploads")]


def end(server: FakeServer, job_id: str, status: str = "succeeded", **numbers: int) -> None:
    server.jobs[job_id].update(status=status, progress=progress(**numbers))


def test_a_large_folder_goes_in_parts_each_a_job(server: FakeServer, client: Client, photos: Path) -> None:
    job = send(client, photos)
    assert sent(server) == ["012", "345", "67"]
    assert [part.id for part in job.parts] == ["j1", "j2", "j3"]
    assert (job.id, job.status, job.progress.total, job.progress.done) == ("j1", JobStatus.QUEUED, 8, 0)
    end(server, "j1", total=3, done=3, embedded=3)
    job.refresh()
    assert (job.status, job.progress.done) == (JobStatus.RUNNING, 3)
    end(server, "j2", "partial", total=3, done=3, embedded=2, failed=1)
    end(server, "j3", total=2, done=2, embedded=1, reused=1)
    result = job.result()
    assert job.status is JobStatus.PARTIAL
    assert (result.total, result.embedded, result.reused, result.failed) == (8, 6, 1, 1)


def test_what_the_collection_has_is_not_sent(server: FakeServer, client: Client, photos: Path) -> None:
    store(server, photos, 0, 1, 3, 5, 6)
    # other content under the key
    server.known.add(("7.png", "0" * 64))
    job = send(client, photos)
    # what is left of several parts goes together
    assert sent(server) == ["247"]
    end(server, "j1", total=3, done=3, embedded=3)
    job.wait()
    assert (job.progress.total, job.progress.embedded, job.progress.reused) == (8, 3, 5)
    assert (job.sending.known, job.sending.sent) == (5, 3)


def test_a_folder_that_is_all_there_leaves_a_job_all_the_same(server: FakeServer, client: Client, photos: Path) -> None:
    (photos / "7.png").write_bytes(b"small")
    store(server, photos, *range(8))
    job = send(client, photos)
    assert (sent(server), job.id) == (["7"], "j1")
    assert (job.sending.known, job.sending.sent, job.sending.known_bytes) == (7, 1, 7 * FILE_BYTES)
    end(server, "j1", total=1, done=1, reused=1)
    assert job.wait().status is JobStatus.SUCCEEDED
    assert (job.progress.total, job.progress.done, job.progress.reused) == (8, 8, 8)
    assert job.result().reused == 8


def test_a_part_at_work_is_joined_and_not_sent_again(server: FakeServer, client: Client, photos: Path) -> None:
    assert [part.id for part in send(client, photos).parts] == ["j1", "j2", "j3"]
    store(server, photos, 0, 1, 2, 3)
    end(server, "j1", total=3, done=3, embedded=3)
    server.jobs["j2"].update(status="running", progress=progress(total=3, done=1, embedded=1))
    again = send(client, photos)
    assert len(sent(server)) == 3
    assert [part.id for part in again.parts] == ["j2", "j3"]
    assert (again.sending.known, again.sending.joined, again.sending.sent) == (3, 5, 0)
    # 3.png counts once, where its job counts it
    assert (again.progress.total, again.progress.done) == (8, 4)


def test_a_part_whose_job_ended_without_it_is_sent_again(server: FakeServer, client: Client, photos: Path) -> None:
    send(client, photos)
    for job_id in ("j1", "j2", "j3"):
        end(server, job_id, "cancelled")
    again = send(client, photos)
    assert [part.id for part in again.parts] == ["j4", "j5", "j6"]
    assert sent(server)[3:] == ["012", "345", "67"]
    # under the old key the server would answer with the old job
    assert len(set(server.keys.values())) == 6


def test_on_conflict_is_part_of_what_is_joined(server: FakeServer, client: Client, photos: Path) -> None:
    send(client, photos)
    client.embed(photos, "c", upload=True, on_conflict="skip")
    assert len(sent(server)) == 6


def test_an_upload_that_breaks_keeps_what_was_sent(server: FakeServer, client: Client, photos: Path) -> None:
    seen: list[Sending] = []
    answer, uploaded = server.answer, itertools.count()

    def break_third(request: Request) -> Answer:
        return BREAK if request.path == "/v1/uploads" and next(uploaded) in (2, 3) else answer(request)

    server.answer = break_third
    with pytest.raises(Unreachable):
        client.embed(photos, "c", upload=True, on_upload=seen.append)
    assert [job.id for job in seen[-1].jobs] == ["j1", "j2"]
    again = send(client, photos)
    assert [part.id for part in again.parts] == ["j1", "j2", "j3"]
    assert sent(server) == ["012", "345", "67"]


def test_bytes_are_counted_once_where_an_attempt_broke(server: FakeServer, client: Client, photos: Path) -> None:
    seen: list[int] = []
    answer, uploaded = server.answer, itertools.count()

    def break_second(request: Request) -> Answer:
        return BREAK if request.path == "/v1/uploads" and next(uploaded) == 1 else answer(request)

    server.answer = break_second
    job = client.embed(photos, "c", upload=True, on_upload=lambda sending: seen.append(sending.sent_bytes))
    assert seen[-1] == sum(len(post.body) for post in server.posts("/v1/uploads"))
    assert len(job.parts) == 3


def test_a_full_queue_is_waited_out(server: FakeServer, client: Client, photos: Path) -> None:
    answer, posted = server.answer, itertools.count()

    def full(request: Request) -> Answer:
        if request.path == "/v1/jobs/embed" and next(posted) in (1, 2):
            return problem(429, "quota_exceeded", Retry_After="0")
        if request.path == "/v1/jobs/j1":
            end(server, "j1", total=3, done=3, embedded=3)
        return answer(request)

    server.answer = full
    assert [part.id for part in send(client, photos).parts] == ["j1", "j2", "j3"]
    assert any(request.path == "/v1/jobs/j1" for request in server.requests)


def test_a_quota_without_jobs_to_wait_for_is_told(server: FakeServer, client: Client, photos: Path) -> None:
    answer = server.answer

    def full(request: Request) -> Answer:
        if request.path == "/v1/uploads":
            return problem(429, "quota_exceeded", Retry_After="0")
        return answer(request)

    server.answer = full
    with pytest.raises(errors.QuotaExceeded):
        send(client, photos)


def test_a_key_or_a_callback_stands_for_one_job(server: FakeServer, client: Client, photos: Path) -> None:
    store(server, photos, *range(8))
    options: tuple[dict[str, Any], ...] = ({"idempotency_key": "mine"}, {"callback_url": "https://example.org/hook"})
    for option in options:
        assert len(client.embed(photos, "c", upload=True, **option).parts) == 1
    assert sent(server) == ["01234567"] * 2
    assert server.keys["j1"] == "mine"


def test_a_file_that_is_gone_or_cannot_be_asked_for_is_sent(server: FakeServer, client: Client, photos: Path) -> None:
    store(server, photos, *range(8))
    (photos / "back\\slash.png").write_bytes(b"picture")

    def lose(sending: Sending) -> None:
        (photos / "1.png").unlink(missing_ok=True)

    client.embed(sorted(photos.iterdir()), "c", on_upload=lose)
    # empty, it fails alone and in the ledger
    assert unpack(server.posts("/v1/uploads")[0].body) == {"1.png": b"", "back\\slash.png": b"picture"}


def test_a_group_is_cancelled_retried_and_deleted_whole(server: FakeServer, client: Client, photos: Path) -> None:
    job = send(client, photos)
    end(server, "j1", "partial", total=3, done=3, embedded=2, failed=1)
    assert job.cancel().status is JobStatus.CANCELLED
    assert [server.jobs[id]["status"] for id in ("j2", "j3")] == ["cancelled"] * 2
    again = job.retry()
    assert [part.parent_id for part in again.parts] == ["j1"]
    assert again.progress.total == 1


def test_a_group_fails_where_nothing_was_done(server: FakeServer, client: Client, photos: Path) -> None:
    job = send(client, photos)
    for job_id in ("j1", "j2", "j3"):
        end(server, job_id, "failed")
    server.jobs["j2"]["error"] = {"code": "weights_unavailable", "detail": "No weights."}
    with pytest.raises(errors.WeightsUnavailable, match="No weights"):
        job.result()
    store(server, photos, 0, 1, 2)
    again = send(client, photos)
    for part in again.parts:
        end(server, part.id, "failed")
    assert again.wait().status is JobStatus.PARTIAL


def test_speed_is_that_of_the_job_at_work(server: FakeServer, client: Client, photos: Path) -> None:
    job = send(client, photos)
    at_work = progress(total=3, done=1, embedded=1, images_per_s=2.0, eta_s=1.0)
    server.jobs["j1"].update(status="running", progress=at_work)
    # two of this job, and five that wait
    assert (job.refresh().progress.images_per_s, job.progress.eta_s) == (2.0, 1.0 + 5 / 2)
    for number, rate in enumerate((3.0, 1.0, 2.0), 1):
        done = len(sent(server)[number - 1])
        ended = progress(total=done, done=done, embedded=done, images_per_s=rate)
        server.jobs[f"j{number}"].update(status="succeeded", progress=ended)
    assert (job.wait().progress.images_per_s, job.progress.eta_s) == (8 / (1 + 3 + 1), None)


def test_known_asks_in_pages(server: FakeServer, client: Client) -> None:
    server.known = {(f"{number}.png", f"{number:064x}") for number in (0, 10_000)}
    contents = {f"{number}.png": f"{number:064x}" for number in range(10_001)}
    assert client.known("c", contents) == {"0.png", "10000.png"}
    assert [len(post.json["images"]) for post in server.posts("/v1/collections/c/images/known")] == [10_000, 1]
