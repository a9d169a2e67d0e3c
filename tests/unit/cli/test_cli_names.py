"""Names that are not UTF-8 and terminals that are not, either: no traceback, and nothing is lost."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from kit.fake_server import PNG, FakeServer, unpack
from kit.terminal import COMMAND

LATIN1, CP932 = os.fsdecode(b"caf\xe9.png"), os.fsdecode("表.png".encode("cp932"))


def run(server: FakeServer, *arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*COMMAND, *arguments],
        capture_output=True,
        timeout=60,
        check=False,
        env={**os.environ, "IMAGEKIN_URL": server.url, **environment},
    )


@pytest.fixture
def odd(tmp_path: Path) -> Path:
    folder = tmp_path / "odd"
    folder.mkdir()
    for name in (LATIN1, CP932, "ü.png"):
        (folder / name).write_bytes(PNG + os.fsencode(name))
    return folder


def test_files_are_sent_by_their_names(server: FakeServer, odd: Path) -> None:
    done = run(server, "embed", str(odd), "-c", "new", "--upload")
    assert (done.returncode, done.stdout) == (0, b"2 images: 2 embedded\n"), done.stderr
    sent = unpack(server.posts("/v1/uploads")[0].body)
    assert set(sent) == {"café.png", "%95%5C.png", "ü.png"}
    asked = {image["key"] for image in server.posts("/v1/collections/new/images/known")[0].json["images"]}
    assert asked == set(sent), "they are known when they come again"


def test_a_single_file_and_a_list(server: FakeServer, odd: Path) -> None:
    assert run(server, "embed", str(odd / LATIN1), "-c", "new").returncode == 0
    assert 'filename="café.png"'.encode() in server.posts("/v1/jobs/embed")[-1].body
    assert run(server, "embed", str(odd / LATIN1), str(odd / CP932), "-c", "new").returncode == 0
    assert set(unpack(server.posts("/v1/uploads")[-1].body)) == {"café.png", "%95%5C.png"}


def test_search_by_a_file_a_key_and_a_filter(server: FakeServer, odd: Path) -> None:
    server.add_collection("c")
    assert run(server, "search", str(odd / CP932), "-c", "c").returncode == 0
    assert b'filename="%95%5C.png"' in server.posts("/v1/jobs/search")[-1].body
    assert run(server, "search", LATIN1, "-c", "c", "--filter", f"name={LATIN1}").returncode == 0
    asked = server.posts("/v1/jobs/search")[-1].json
    assert (asked["query"], asked["filter"]) == ({"image_key": "café.png"}, {"name": "café.png"})
    long = "k" * 1000
    assert run(server, "search", long, "-c", "c").returncode == 0
    assert server.posts("/v1/jobs/search")[-1].json["query"] == {"image_key": long}


def test_a_folder_that_json_cannot_name_is_sent(server: FakeServer, tmp_path: Path) -> None:
    server.roots = True
    folder = tmp_path / os.fsdecode(b"f\xfcr")
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    assert run(server, "embed", str(folder), "-c", "new").returncode == 0
    assert len(server.posts("/v1/uploads")) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed", os.fsdecode(b"/nowhere/caf\xe9.png"), "-c", "new"),
        ("embed", "x", "-c", LATIN1),
        ("search", os.fsdecode(b"./caf\xe9.png"), "-c", "c"),
        ("jobs", "show", LATIN1),
        ("jobs", "list", "-c", LATIN1),
        ("collections", "show", LATIN1),
        ("assign", LATIN1, "--key", LATIN1),
        ("assign", "j1", "--id", LATIN1),
        ("embed", f"http://example.org/{LATIN1}", "-c", "new"),
        ("export", "-c", "c", "-o", os.fsdecode(b"/nowhere/caf\xe9.npz")),
        ("import", os.fsdecode(b"/nowhere/caf\xe9.npz"), "-c", "c"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_no_traceback_reaches_a_user(server: FakeServer, arguments: tuple[str, ...], encoding: str) -> None:
    done = run(server, *arguments, PYTHONIOENCODING=encoding)
    assert done.returncode in (1, 2), done.stderr
    assert b"Traceback" not in done.stderr
    assert b"bug in imagekin" not in done.stderr
    assert done.stderr


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "cp437"])
def test_an_output_that_cannot_show_a_name_shows_its_code(server: FakeServer, encoding: str) -> None:
    server.items = [{"key": "表😀.png", "status": "embedded", "image_id": "i1", "error": None}]
    server.add_collection("c")
    assert run(server, "search", "a.png", "-c", "c").returncode == 0
    plain = run(server, "jobs", "items", "j1", PYTHONIOENCODING=encoding)
    assert (plain.returncode, b"\\u8868\\U0001f600.png\tembedded\ti1" in plain.stdout) == (0, True), plain.stderr
    as_json = run(server, "jobs", "items", "j1", "--json", PYTHONIOENCODING=encoding)
    assert json.loads(as_json.stdout)["items"][0]["key"] == "表😀.png"


def test_what_nobody_foresaw_is_one_line(server: FakeServer) -> None:
    broken = "import imagekin.cli.output as o; o.table = lambda *a, **b: 1 / 0; from imagekin.cli import main; main()"
    command = [*COMMAND[:2], broken, "collections", "list"]
    environment = {**os.environ, "IMAGEKIN_URL": server.url}
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("imagekin: ZeroDivisionError: division by zero. This is a bug in imagekin")
    assert "Traceback" not in done.stderr
    environment["IMAGEKIN_LOG_LEVEL"] = "debug"
    done = subprocess.run(command, capture_output=True, timeout=60, check=False, env=environment, text=True)
    assert "Traceback" in done.stderr
