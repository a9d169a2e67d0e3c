"""`imagekin embed`."""

from __future__ import annotations

import bz2
import json
import lzma
import os
from hashlib import sha256
from pathlib import Path

import pytest

from imagekin.client import uploads
from kit.answers import PARTIAL
from kit.fake_server import PNG, Answer, FakeServer, problem, progress, unpack
from kit.terminal import Call


def test_embed_makes_the_collection_and_sums_up(call: Call, server: FakeServer, pictures: Path) -> None:
    done = call("embed", str(pictures), "-c", "new", "--backbone", "resnet50", "--on-conflict", "skip")
    assert (done.code, done.out) == (0, "2 images: 2 embedded\n")
    assert "New collection new: resnet50" in done.err
    assert "uploaded: 32 B, 1 file" in done.err
    assert "embed succeeded: 2 of 2 images" in done.err
    assert server.posts("/v1/jobs/embed")[-1].json["on_conflict"] == "skip"


def test_embed_partly(call: Call, server: FakeServer, pictures: Path) -> None:
    server.steps = PARTIAL
    done = call("embed", str(pictures), "-c", "new")
    assert (done.code, done.out) == (3, "4 images: 2 embedded, 1 reused, 1 failed\n")
    assert "embed running: 1 of 4 images, 12 images/s, 1 min 20 s left" in done.err
    assert "b.png: Broken. [decode_error]" in done.err


def test_embed_failed(call: Call, server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "failed", "error": {"code": "empty_source", "detail": "Nothing in it."}}]
    done = call("embed", str(pictures), "-c", "new")
    assert done.code == 1
    assert "Nothing in it. [empty_source]" in done.err


def test_embed_as_json(call: Call, server: FakeServer, pictures: Path) -> None:
    server.steps = PARTIAL
    done = call("embed", str(pictures), "-c", "new", "--json")
    assert done.code == 3
    assert json.loads(done.out)["progress"]["failed"] == 1


def test_embed_without_waiting_prints_the_id(call: Call, server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "running"}] * 9
    done = call("embed", str(pictures), "-c", "new", "--no-wait")
    assert (done.code, done.out) == (0, "j1\n")
    assert "imagekin jobs watch j1" in done.err
    assert not any(request.path == "/v1/jobs/j1" for request in server.requests)


def test_embed_of_nothing_makes_no_collection(call: Call, server: FakeServer) -> None:
    done = call("embed", "nowhere", "-c", "new")
    assert done.code == 1
    assert "nowhere: No such file or directory" in done.err
    assert not server.posts("/v1/collections")


def test_a_bad_name_of_a_collection_is_a_wrong_call(call: Call, server: FakeServer, pictures: Path) -> None:
    done = call("embed", str(pictures), "-c", "a b")
    assert done.code == 2
    assert "starts with a letter" in " ".join(done.err.replace("│", "").split())
    assert not server.requests


@pytest.mark.parametrize(
    ("code", "passes"),
    [("fetch_failed", True), ("timeout", True), ("not_found", True), ("internal_error", True), ("quarantined", True),
     ("decode_error", False), ("unsupported_format", False), ("empty_file", False), ("too_large", False),
     ("fetch_refused", False), ("duplicate_key", False), ("decompression_bomb", False)],
)  # fmt: skip
def test_only_what_may_pass_is_to_be_tried_again(
    call: Call, server: FakeServer, pictures: Path, code: str, passes: bool
) -> None:
    server.steps = PARTIAL
    server.items = [{"key": "b.png", "status": "failed", "image_id": None, "error": {"code": code, "detail": "So."}}]
    assert ("imagekin jobs retry j1" in call("embed", str(pictures), "-c", "new").err) is passes


def test_one_failure_of_many_that_may_pass_is_enough(call: Call, server: FakeServer, pictures: Path) -> None:
    server.steps = PARTIAL
    server.items = [
        {"key": f"{n}.png", "status": "failed", "image_id": None, "error": {"code": code, "detail": "So."}}
        for n, code in enumerate(["decode_error"] * 30 + ["timeout"])
    ]
    done = call("embed", str(pictures), "-c", "new")
    assert "Try them again: imagekin jobs retry j1" in done.err
    assert "30.png" not in done.err


def test_a_collection_that_was_just_made_by_another_is_used(call: Call, server: FakeServer, pictures: Path) -> None:
    missing = problem(404, "collection_not_found")
    server.faults += [Answer(), missing, problem(409, "collection_exists")]
    server.add_collection("new")
    done = call("embed", str(pictures), "-c", "new")
    assert done.code == 0, done.err
    assert "New collection" not in done.err


def test_a_new_collection_that_stays_empty_is_told(call: Call, server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "failed", "error": {"code": "empty_source", "detail": "Nothing in it."}}]
    told = "The new collection new is empty. Remove it: imagekin collections delete new\n"
    assert told in call("embed", str(pictures), "-c", "new").err
    assert told not in call("embed", str(pictures), "-c", "new").err, "it was there"


def test_a_folder_without_pictures_makes_no_collection(call: Call, server: FakeServer, tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "notes.md").write_text("nothing")
    done = call("embed", "none", "-c", "new")
    assert (done.code, "[empty_source]" in done.err) == (1, True)
    assert not server.posts("/v1/collections")


UNREAD = {
    "a.tar.bz2": (bz2.compress(b"x"), "bzip2"),
    "a.tar.xz": (lzma.compress(b"x"), "xz"),
    "a.7z": (b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z"),
    "a.rar": (b"Rar!\x1a\x07\x01\x00" + bytes(40), "RAR"),
    "a.tar.zst": (b"\x28\xb5\x2f\xfd" + bytes(40), "Zstandard"),
    "named.zip": (b"Rar!\x1a\x07\x00" + bytes(40), "RAR"),
    "named.jpg": (b"7z\xbc\xaf\x27\x1c" + bytes(40), "7z"),
}


@pytest.mark.parametrize("name", UNREAD)
def test_archives_that_are_not_read_are_told_what_they_are(
    call: Call, server: FakeServer, tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(UNREAD[name][0])
    done = call("embed", name, "-c", "new")
    assert done.code == 1
    assert f"{name} is a {UNREAD[name][1]} file, which imagekin does not read" in done.err
    assert "a zip, a tar or a tar.gz" in done.err
    assert not server.posts("/v1/collections")


def test_what_is_not_a_file_is_not_waited_for(call: Call, server: FakeServer, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    assert "is not a regular file" in call("embed", "pipe.png", "-c", "new").err
    assert "An empty text is not a path" in call("embed", "", "-c", "new").err
    assert "~nobody-here/a.png" in call("embed", "~nobody-here/a.png", "-c", "new").err
    assert not server.posts("/v1/collections")


def test_several_archives_are_one_command(call: Call, server: FakeServer, pictures: Path, tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar.gz", "2.zip", "list.csv"):
        (tmp_path / name).write_bytes(b"as it is " + name.encode())
    server.steps = [{"status": "succeeded", "progress": progress(total=3, done=3, embedded=3)}]
    given = ["0.tar", str(pictures), "1.tar.gz", "2.zip", "list.csv", "0.tar"]
    done = call("embed", *given, "-c", "new")
    assert (done.code, done.out) == (0, "15 images: 15 embedded\n")
    sources = [post.json["source"]["type"] for post in server.posts("/v1/jobs/embed")]
    assert sources == ["upload", "upload", "upload", "manifest", "upload"]
    assert [post.body for post in server.posts("/v1/uploads")][:3] == [
        b"as it is " + name for name in (b"0.tar", b"1.tar.gz", b"2.zip")
    ]
    assert set(unpack(server.posts("/v1/uploads")[4].body)) == {"pictures/a.png"}
    server.steps = [{"status": "running"}] * 9
    done = call("embed", "0.tar", "2.zip", "-c", "new", "--no-wait")
    assert done.out == "j6\nj7\n"


def test_one_archive_of_several_fails_alone(call: Call, server: FakeServer, tmp_path: Path) -> None:
    for name in ("0.tar", "1.tar"):
        (tmp_path / name).write_bytes(b"as it is")
    server.steps = [{"status": "failed", "error": {"code": "source_unreadable", "detail": "Nothing in it."}}]
    done = call("embed", "0.tar", "1.tar", "-c", "new")
    assert done.code == 1
    assert "Nothing in it. [source_unreadable]" in done.err


def test_what_is_there_is_not_sent_again(call: Call, server: FakeServer, pictures: Path) -> None:
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
    call: Call, server: FakeServer, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "PART_FILES", 1)
    (pictures / "b.png").write_bytes(PNG + b"b")
    server.steps = [{"status": "partial", "progress": progress(total=1, done=1, failed=1)}]
    server.items = [
        {"key": "b.png", "status": "failed", "image_id": None, "error": {"code": "timeout", "detail": "Slow."}}
    ]
    done = call("embed", str(pictures), "-c", "new", "--upload")
    assert (done.code, done.out) == (3, "2 images: 2 failed\n")
    assert "imagekin jobs retry j1\n" in done.err
    assert "imagekin jobs retry j2\n" in done.err
    server.steps = [{"status": "running"}]
    assert call("embed", str(pictures), "-c", "new", "--upload", "--no-wait").out == "j3\nj4\n"
