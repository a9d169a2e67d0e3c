"""`imagekin embed`."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest
from answers import PARTIAL

from fake_server import PNG, FakeServer, progress
from imagekin.client import uploads


def test_embed_makes_the_collection_and_sums_up(call, server: FakeServer, pictures: Path) -> None:
    done = call("embed", str(pictures), "-c", "new", "--backbone", "resnet50", "--on-conflict", "skip")
    assert (done.code, done.out) == (0, "2 images: 2 embedded\n")
    assert "New collection new: resnet50" in done.err
    assert "uploaded: 32 B, 1 file" in done.err
    assert "embed succeeded: 2 of 2 images" in done.err
    assert server.posts("/v1/jobs/embed")[-1].json["on_conflict"] == "skip"


def test_embed_partly(call, server: FakeServer, pictures: Path) -> None:
    server.steps = PARTIAL
    done = call("embed", str(pictures), "-c", "new")
    assert (done.code, done.out) == (3, "4 images: 2 embedded, 1 reused, 1 failed\n")
    assert "embed running: 1 of 4 images, 12 images/s, 1 min 20 s left" in done.err
    assert "b.png: Broken. [decode_error]" in done.err


def test_embed_failed(call, server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "failed", "error": {"code": "empty_source", "detail": "Nothing in it."}}]
    done = call("embed", str(pictures), "-c", "new")
    assert done.code == 1
    assert "Nothing in it. [empty_source]" in done.err


def test_embed_as_json(call, server: FakeServer, pictures: Path) -> None:
    server.steps = PARTIAL
    done = call("embed", str(pictures), "-c", "new", "--json")
    assert done.code == 3
    assert json.loads(done.out)["progress"]["failed"] == 1


def test_embed_without_waiting_prints_the_id(call, server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "running"}] * 9
    done = call("embed", str(pictures), "-c", "new", "--no-wait")
    assert (done.code, done.out) == (0, "j1\n")
    assert "imagekin jobs watch j1" in done.err
    assert not any(request.path == "/v1/jobs/j1" for request in server.requests)


def test_embed_of_nothing_makes_no_collection(call, server: FakeServer) -> None:
    done = call("embed", "nowhere", "-c", "new")
    assert done.code == 1
    assert "nowhere: No such file or directory" in done.err
    assert not server.posts("/v1/collections")


def test_a_bad_name_of_a_collection_is_a_wrong_call(call, server: FakeServer, pictures: Path) -> None:
    done = call("embed", str(pictures), "-c", "a b")
    assert done.code == 2
    assert "starts with a letter" in " ".join(done.err.replace("│", "").split())
    assert not server.requests


def test_what_failed_can_be_tried_again(call, server: FakeServer, pictures: Path) -> None:
    server.steps = PARTIAL
    assert "imagekin jobs retry j1" in call("embed", str(pictures), "-c", "new").err


def test_what_is_there_is_not_sent_again(call, server: FakeServer, pictures: Path) -> None:
    (pictures / "b.png").write_bytes(PNG + b"b")
    (pictures / "c.png").write_bytes(PNG + b"c")
    server.add_collection("c")
    server.known = {(name, sha256((pictures / name).read_bytes()).hexdigest()) for name in ("a.png", "b.png")}
    nothing = {"code": "internal_error", "detail": "None of the 1 images could be used."}
    server.steps = [{"status": "failed", "progress": progress(total=1, done=1, failed=1), "error": nothing}]
    done = call("embed", str(pictures), "-c", "c", "--upload")
    assert (done.code, done.out) == (3, "3 images: 2 reused, 1 failed\n")
    assert "3 files: 2 there already, 1 sent" in done.err
    assert "The job failed" not in done.err, "two of three are there"
    server.steps = [{"status": "succeeded", "progress": progress(total=1, done=1, embedded=1)}]
    done = call("embed", str(pictures), "-c", "c", "--upload", "--json")
    shown = json.loads(done.out)
    assert (done.code, shown["progress"]["reused"], shown["progress"]["embedded"]) == (0, 2, 1)
    assert shown["upload"] == {
        "files": 3,
        "known": 2,
        "joined": 0,
        "sent": 1,
        "sent_bytes": len(server.posts("/v1/uploads")[-1].body),
        "jobs": ["j2"],
    }
    server.known.add(("c.png", sha256((pictures / "c.png").read_bytes()).hexdigest()))
    server.steps = [{"status": "succeeded", "progress": progress(total=1, done=1, reused=1)}]
    done = call("embed", str(pictures), "-c", "c", "--upload")
    assert (done.code, done.out) == (0, "3 images: 3 reused\n")
    assert "3 files: 2 there already, 1 sent" in done.err
    # there is a job to watch all the same
    assert call("embed", str(pictures), "-c", "c", "--upload", "--no-wait").out == "j4\n"


def test_a_folder_in_parts_is_one_result(
    call, server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_FILES", 1)
    (pictures / "b.png").write_bytes(PNG + b"b")
    server.steps = [{"status": "partial", "progress": progress(total=1, done=1, failed=1)}]
    done = call("embed", str(pictures), "-c", "new", "--upload")
    assert (done.code, done.out) == (3, "2 images: 2 failed\n")
    assert "imagekin jobs retry j1\n" in done.err
    assert "imagekin jobs retry j2\n" in done.err
    server.steps = [{"status": "running"}]
    assert call("embed", str(pictures), "-c", "new", "--upload", "--no-wait").out == "j3\nj4\n"
