"""The command line, as its own process, against a small server over real HTTP."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest
from fake_server import NOW, PNG, Answer, FakeServer, problem, progress
from typer.testing import CliRunner

from imagekin.cli import following
from imagekin.cli.app import app
from imagekin.client import uploads
from imagekin.client.progress import duration

NEIGHBORS = [
    {"rank": 1, "id": "i1", "key": "a.png", "score": 0.91, "metadata": {}},
    {"rank": 2, "id": "i2", "key": "b.png", "score": 0.5, "metadata": {}},
]
CLUSTERS = {
    "n_clusters": 2,
    "metric": "euclidean",
    "algorithm": "kmeans",
    "seed": 100,
    "inertia": 12.5,
    "iterations": 3,
    "clusters": [
        {"label": 0, "size": 3, "medoid": {"id": "i1", "key": "a.png"}, "cohesion": 0.9},
        {"label": 1, "size": 1, "medoid": {"id": "i2", "key": "b.png"}, "cohesion": 1},
    ],
    "assignments": [{"id": "i1", "key": "a.png", "label": 0, "distance": 0.1}],
}
PARTIAL = [
    {"status": "running", "progress": progress(total=4, done=1, embedded=1, images_per_s=12.0, eta_s=80)},
    {"status": "partial", "progress": progress(total=4, done=4, embedded=2, reused=1, failed=1)},
]
ITEMS = [
    {"key": "a.png", "status": "embedded", "image_id": "i1", "error": None},
    {"key": "b.png", "status": "failed", "image_id": None, "error": {"code": "decode_error", "detail": "Broken."}},
]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.results = {"search": {"query": {}, "top_k": 5, "neighbors": NEIGHBORS}, "cluster": CLUSTERS}
        server.items = ITEMS
        yield server


class Done:
    """How a call ended: exit code and what it printed."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


@pytest.fixture
def call(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IMAGEKIN_URL", server.url)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, input: str | None = None) -> Done:
        result = CliRunner().invoke(app, arguments, input=input)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    return folder


# --- embed -----------------------------------------------------------------------------------------------------


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


# --- backbones -------------------------------------------------------------------------------------------------


def test_backbones(call, server: FakeServer) -> None:
    lite = {"name": "lite", "dim": 1280, "weights": ["A", "B"], "default": True}
    server.faults = [Answer(200, {}), Answer(200, {"items": [lite], "next_cursor": None})]
    assert call("backbones").out.splitlines() == ["name\tdim\tweights\t", "lite\t1280\tA, B\tdefault"]


@pytest.mark.parametrize("command", ["api", "worker", "db", "keys", "doctor"])
def test_short_help_of_the_services_commands(call, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    done = call(command, "-h")
    assert done.code == 0
    assert f"Usage: imagekin {command}" in done.out or f"Usage: root {command}" in done.out


# --- search and cluster ----------------------------------------------------------------------------------------


def test_search(call, server: FakeServer, pictures: Path) -> None:
    server.add_collection("c")
    done = call("search", str(pictures / "a.png"), "-c", "c", "-k", "2", "--sheet", "out/sheet.png")
    assert done.code == 0
    assert done.out.splitlines() == [
        "rank\tscore\tkey\tid",
        "1\t0.9100\ta.png\ti1",
        "2\t0.5000\tb.png\ti2",
    ]
    assert done.err == "Contact sheet: out/sheet.png\n"
    assert Path("out/sheet.png").read_bytes() == PNG
    assert b'name="top_k"\r\n\r\n2\r\n' in server.posts("/v1/jobs/search")[0].body


def test_search_for_a_key_a_url_and_a_filter(call, server: FakeServer) -> None:
    server.add_collection("c")
    done = call("search", "stored/a.png", "-c", "c", "--filter", "year=1999", "--filter", "by=me", "--json")
    assert json.loads(done.out)["neighbors"] == NEIGHBORS
    call("search", "https://example.com/a.png", "-c", "c")
    first, second = (post.json for post in server.posts("/v1/jobs/search"))
    assert first["query"] == {"image_key": "stored/a.png"}
    assert first["filter"] == {"year": 1999, "by": "me"}
    assert first["top_k"] == 5
    assert second["query"] == {"url": "https://example.com/a.png"}
    assert call("search", "a", "-c", "c", "--filter", "ok=true", "--filter", "n=NaN", "--filter", "m=1e999").code == 0
    assert server.posts("/v1/jobs/search")[-1].json["filter"] == {"ok": True, "n": "NaN", "m": "1e999"}
    assert call("search", "a", "-c", "c", "--filter", "nonsense").code == 2


def test_search_for_what_is_neither_file_nor_key(call, server: FakeServer) -> None:
    server.add_collection("c")
    server.faults += [problem(200, "ok"), problem(404, "image_not_found")]
    done = call("search", "nope.png", "-c", "c")
    assert done.code == 1
    assert "There is no file nope.png here, and no such image in c. [image_not_found]" in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/nowhere/x.jpg", "There is no file /nowhere/x.jpg here."),
        ("~/x.jpg", "There is no file ~/x.jpg here."),
        ("./x.jpg", "There is no file ./x.jpg here."),
        (".", "There is no file .; it is a folder."),
    ],
)
def test_search_by_a_path_that_is_no_file(call, server: FakeServer, given: str, said: str) -> None:
    server.add_collection("c")
    done = call("search", given, "-c", "c")
    assert done.code == 1
    assert said in done.err


def test_search_failed(call, server: FakeServer) -> None:
    server.add_collection("c")
    server.steps = [{"status": "failed", "error": {"code": "decode_error", "detail": "No picture."}}]
    done = call("search", "a.png", "-c", "c")
    assert (done.code, done.out) == (1, "")
    assert "No picture. [decode_error]" in done.err


def test_cluster(call, server: FakeServer) -> None:
    server.add_collection("c")
    done = call("cluster", "-c", "c", "-k", "2", "--metric", "cosine", "--seed", "7", "--sheet", "sheets")
    assert done.code == 0
    assert done.out.splitlines()[1:] == ["0\t3\t0.9000\ta.png", "1\t1\t1.0000\tb.png"]
    assert Path("sheets/cluster-1.png").read_bytes() == PNG + b"1"
    assert server.posts("/v1/jobs/cluster")[0].json == {
        "collection": "c",
        "n_clusters": 2,
        "metric": "cosine",
        "seed": 7,
    }
    assert json.loads(call("cluster", "-c", "c", "-k", "2", "--json").out)["clusters"][0]["size"] == 3


# --- import and assign -----------------------------------------------------------------------------------------


def test_import(call, server: FakeServer, tmp_path: Path) -> None:
    server.add_collection("c")
    (tmp_path / "c.npz").write_bytes(b"vectors")
    done = call("import", "c.npz", "-c", "c", "--on-conflict", "skip")
    assert (done.code, done.out) == (0, "2 images: 2 embedded\n")
    assert "uploaded: 7 B, 1 file" in done.err
    assert "import succeeded: 2 of 2 images" in done.err
    assert server.posts("/v1/uploads")[0].body == b"vectors"
    assert server.posts("/v1/collections/c/import")[0].json == {"upload_id": "u1", "on_conflict": "skip"}
    server.steps = PARTIAL
    done = call("import", "c.npz", "-c", "c", "--json")
    assert (done.code, json.loads(done.out)["progress"]["failed"]) == (3, 1)
    assert call("import", "c.npz", "-c", "c", "--no-wait").out == "j3\n"


def test_import_of_nothing_or_into_nothing_sends_nothing(call, server: FakeServer, tmp_path: Path) -> None:
    server.add_collection("archive")
    done = call("import", "nowhere.npz", "-c", "archive")
    assert done.code == 1
    assert "nowhere.npz: No such file or directory" in done.err
    (tmp_path / "c.npz").write_bytes(b"vectors")
    done = call("import", "c.npz", "-c", "archiv")
    assert done.code == 1
    assert "Did you mean archive?" in done.err
    assert not server.posts("/v1/uploads")


def test_assign(call, server: FakeServer) -> None:
    server.add_collection("c")
    found = {"id": "i9", "key": "new.png", "label": 1, "distance": 0.25}
    server.results["assign"] = {"clustering_id": "j1", "metric": "euclidean", "assignments": [found]}
    assert call("cluster", "-c", "c", "-k", "2").code == 0
    done = call("assign", "j1")
    assert (done.code, done.out) == (0, "label\tdistance\tkey\tid\n1\t0.2500\tnew.png\ti9\n")
    assert json.loads(call("assign", "j1", "--key", "a.png", "--key", "b.png", "--json").out)["assignments"] == [found]
    call("assign", "j1", "--id", "i9")
    assert call("assign", "j1", "--no-wait").out == "j5\n"
    assert [post.json for post in server.posts("/v1/jobs/assign")] == [
        {"clustering_id": "j1"},
        {"clustering_id": "j1", "image_keys": ["a.png", "b.png"]},
        {"clustering_id": "j1", "image_ids": ["i9"]},
        {"clustering_id": "j1"},
    ]
    server.results["assign"]["assignments"] = []
    assert "No image came or changed" in call("assign", "j1").err
    server.steps = [{"status": "failed", "error": {"code": "collection_deleted", "detail": "It is gone."}}]
    done = call("assign", "j1")
    assert (done.code, done.out) == (1, "")
    assert "It is gone. [collection_deleted]" in done.err


def test_assign_to_what_is_no_finished_clustering(call, server: FakeServer) -> None:
    done = call("assign", "j9")
    assert done.code == 1
    assert "imagekin jobs list" in done.err
    server.faults = [Answer(200, {}), problem(409, "job_not_finished", "It is not finished yet.")]
    done = call("assign", "j9")
    assert done.code == 1
    assert "imagekin jobs watch" in done.err
    assert call("assign", "j9", "--key", "a", "--id", "b").code == 2


# --- jobs and collections --------------------------------------------------------------------------------------


def test_export(call, server: FakeServer, tmp_path: Path) -> None:
    done = call("export", "-c", "c", "-o", "vectors.npz")
    assert (done.code, done.out) == (0, "vectors.npz\n")
    size = (tmp_path / "vectors.npz").stat().st_size
    assert f"exported c: {size:,} B" in done.err
    done = call("export", "-c", "c", "-o", "vectors", "--format", "safetensors", "--json")
    assert json.loads(done.out) == {"path": "vectors", "format": "safetensors", "size": size}
    assert [request.query["format"] for request in server.requests if "format" in request.query] == [
        ["npz"],
        ["safetensors"],
    ]
    for arguments in (("-o", "vectors.csv"), ("-o", "v.npz", "--format", "csv"), ()):
        assert call("export", "-c", "c", *arguments).code == 2
    server.faults = [Answer(200, {}), problem(404, "collection_not_found", "There is no collection named 'x'.")]
    done = call("export", "-c", "x", "-o", "x.npz")
    assert (done.code, done.out) == (1, "")
    assert not (tmp_path / "x.npz").exists()


def test_jobs(call, server: FakeServer) -> None:
    server.steps = []
    server.add_job("embed", {"collection": "c"}, status="partial", progress=PARTIAL[1]["progress"])
    server.add_job("cluster", {"collection": "d"}, status="succeeded")
    assert call("jobs", "list").out.splitlines() == [
        "id\tkind\tstatus\tcollection\tdone\tcreated",
        f"j1\tembed\tpartial\tc\t4/4\t{NOW}",
        f"j2\tcluster\tsucceeded\td\t\t{NOW}",
    ]
    listed = json.loads(call("jobs", "list", "--kind", "cluster", "--json").out)
    assert [job["id"] for job in listed["items"]] == ["j2"]
    assert "status\tpartial\n" in call("jobs", "show", "j1").out
    assert json.loads(call("jobs", "show", "j1", "--json").out)["id"] == "j1"
    watched = call("jobs", "watch", "j1")
    assert (watched.code, watched.out) == (3, "embed partial: 4 images: 2 embedded, 1 reused, 1 failed\n")
    watched = call("jobs", "watch", "j2")
    assert (watched.code, watched.out) == (0, "cluster succeeded\n")
    assert call("jobs", "items", "j1", "--status", "failed").out.splitlines()[1:] == [
        "b.png\tfailed\t\tBroken. [decode_error]"
    ]
    assert len(json.loads(call("jobs", "items", "j1", "--json").out)["items"]) == 2
    assert call("jobs", "cancel", "j1").out == "j1\tcancelled\n"


def test_jobs_retry(call, server: FakeServer) -> None:
    server.steps = []
    server.add_job("embed", {"collection": "c"}, status="partial")
    server.steps = [{"status": "succeeded", "progress": progress(total=1, done=1, embedded=1)}]
    done = call("jobs", "retry", "j1", "--all")
    assert (done.code, done.out) == (0, "embed succeeded: 1 image: 1 embedded\n")
    assert server.posts("/v1/jobs/j1/retry")[0].json == {"items": "all"}
    assert call("jobs", "retry", "j1", "--no-wait").out == "j3\n"


def test_collections(call, server: FakeServer) -> None:
    server.add_collection("c", image_count=3)
    assert call("collections", "list").out.splitlines() == [
        "name\timages\tbackbone\tweights\tdim\tcreated",
        f"c\t3\tefficientnet_lite0\tIMAGENET\t4\t{NOW}",
    ]
    assert json.loads(call("collections", "list", "--json").out)["items"][0]["name"] == "c"
    assert "space_id\ts1\n" in call("collections", "show", "c").out
    refused = call("collections", "delete", "c")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert "c" in server.collections
    assert json.loads(call("collections", "delete", "c", "--yes", "--json").out)["image_count"] == 3
    assert server.collections == {}


# --- what goes wrong -------------------------------------------------------------------------------------------


def test_an_unknown_collection_brings_its_nearest(call, server: FakeServer) -> None:
    assert "no collection yet" in call("collections", "show", "archive").err
    server.add_collection("archive")
    server.add_collection("zebra")
    done = call("search", "a.png", "-c", "archiv")
    assert done.code == 1
    assert "[collection_not_found]" in done.err
    assert "Did you mean archive?" in done.err
    assert "There are: archive, zebra." in call("cluster", "-c", "123", "-k", "2").err


def test_a_server_that_is_down(call, monkeypatch: pytest.MonkeyPatch) -> None:
    with FakeServer() as gone:
        monkeypatch.setenv("IMAGEKIN_URL", gone.url)
    started = time.monotonic()
    done = call("jobs", "list")
    assert done.code == 1
    assert gone.url in done.err
    assert "imagekin up" in done.err
    assert time.monotonic() - started < 5


def test_a_missing_key(call, server: FakeServer) -> None:
    server.faults += [problem(200, "ok"), problem(401, "unauthorized", "A key is needed.")]
    done = call("jobs", "list")
    assert done.code == 1
    assert "A key is needed. [unauthorized]" in done.err
    assert "IMAGEKIN_API_KEY" in done.err


def test_an_unknown_job(call) -> None:
    done = call("jobs", "show", "j9")
    assert done.code == 1
    assert "imagekin jobs list" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("bogus",),
        ("embed", "x"),
        ("cluster", "-c", "c"),
        ("cluster", "-c", "c", "-k", "0"),
        ("search", "a", "-c", "c", "-k", "many"),
        ("jobs", "list", "--status", "odd"),
        ("demo", "no-such-folder"),
    ],
)
def test_usage(call, server: FakeServer, arguments: tuple[str, ...]) -> None:
    done = call(*arguments)
    assert (done.code, done.out) == (2, "")
    assert done.err
    assert server.requests == []


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("imagekin se", {"search"}),
        ("imagekin jobs re", {"retry"}),
        ("imagekin search a.png --min", {"--min-score"}),
        ("imagekin search a.png -c ar", {"archive", "art"}),
        ("imagekin jobs show j", {"j1"}),
        ("imagekin keys ", {"create", "list", "revoke"}),
        ("imagekin keys create --js", {"--json"}),
        ("imagekin doctor --js", {"--json"}),
        ("imagekin --url http://127.0.0.1:1 search a.png -c ar", set()),
    ],
)
def test_completion(server: FakeServer, words: str, offered: set[str]) -> None:
    for name in ("archive", "art", "zebra"):
        server.add_collection(name)
    server.add_job("cluster", {"collection": "art"})
    asked = {"_IMAGEKIN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    done = subprocess.run(
        COMMAND,
        env={**os.environ, "IMAGEKIN_URL": server.url, **asked},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert set(done.stdout.split()) == offered
    assert done.stderr == ""


def test_version(call) -> None:
    from importlib import metadata

    assert call("--version").out == f"imagekin {metadata.version('imagekin')}\n"


# --- as a process ----------------------------------------------------------------------------------------------

COMMAND = [sys.executable, "-c", "from imagekin.cli import main; main()"]

_WITHOUT_SERVICE = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"sqlalchemy", "celery", "redis", "fsspec", "torch", "flask", "PIL", "structlog"}:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Block())
from imagekin.cli import main
main()
"""


def test_help_lists_commands_that_cannot_be_imported_here(tmp_path: Path) -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", _WITHOUT_SERVICE, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)

    listed = run("--help")
    assert (listed.returncode, listed.stderr) == (0, "")
    for name in ("demo", "up", "embed", "search", "cluster", "jobs", "collections", "api", "worker", "db"):
        assert f"│ {name} " in listed.stdout
    for arguments in (["api"], ["worker"], ["up"], ["demo"]):
        done = run(*arguments)
        assert done.returncode == 1, done.stderr
        assert 'pip install "imagekin[quickstart]"' in done.stderr


def test_ctrl_c_leaves_the_job_at_work(server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "running", "progress": progress(total=5)}] * 100_000
    process = subprocess.Popen(
        [*COMMAND, "embed", str(pictures), "-c", "new"],
        env={**os.environ, "IMAGEKIN_URL": server.url},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr
    seen = ""
    while "embed running" not in seen:
        seen = process.stderr.readline()
        assert seen, "it ended early"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert "Job j1 goes on. Watch it: imagekin jobs watch j1" in err
    assert "imagekin jobs cancel j1" in err
    assert server.jobs["j1"]["status"] == "running"


def test_ctrl_c_on_a_terminal_asks(server: FakeServer, pictures: Path) -> None:
    server.steps = [{"status": "running", "progress": progress(total=5, done=2, embedded=2)}] * 100_000
    code, shown = _on_terminal(
        server, ["embed", str(pictures), "-c", "new"], {"2 of 5 images": b"\x03", "Stop it now?": b"y\n"}
    )
    assert code == 130
    assert "━" in shown
    assert "Stopped; the images that were done stay." in shown
    assert server.jobs["j1"]["status"] == "cancelled"


def test_no_answer_in_time_is_a_no(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "ANSWER_S", 0.01)
    keyboard, terminal = pty.openpty()
    with os.fdopen(terminal) as stdin, os.fdopen(keyboard, "wb", buffering=0) as typed:
        monkeypatch.setattr(sys, "stdin", stdin)
        assert not following.agreed("Stop it now?")
        for answer, meant in ((b"y\n", True), (b"Yes\n", True), (b"\n", False), (b"\x04", False)):
            typed.write(answer)
            assert following.agreed("Stop it now?") is meant


def test_a_bar_has_rate_and_time_left_and_stays_one_line(server: FakeServer, pictures: Path) -> None:
    numbers = {"total": 90_000, "done": 45_678, "embedded": 40_000, "reused": 5_000, "failed": 678}
    server.steps = [
        {"status": "running", "progress": progress(**numbers, images_per_s=123.0, eta_s=4000)},
        {"status": "partial", "progress": progress(**numbers)},
    ]
    server.roots = True
    code, shown = _on_terminal(server, ["embed", str(pictures), "-c", "new"], {})
    assert code == 3
    running = next(line for line in _plain(shown) if "embed running" in line)
    # the bar gives way
    assert re.search("━{8}", running)
    assert "45,678 of 90,000 images 5,000 reused, 678 failed, 123 images/s, 1 h 06 min left 0:00:0" in running


def test_nothing_empty_is_shown_where_nothing_is_uploaded(server: FakeServer, pictures: Path) -> None:
    server.roots = True
    code, shown = _on_terminal(server, ["embed", str(pictures), "-c", "new", "--no-wait"], {})
    assert code == 0
    assert "uploaded" not in shown
    assert [line[:2] for line in shown.splitlines()] == ["Ne", "j1", "Wa"]


def test_a_table_on_a_terminal(server: FakeServer) -> None:
    server.add_collection("c", image_count=3)
    code, shown = _on_terminal(server, ["collections", "list"], {})
    assert code == 0
    assert "\t" not in shown
    assert "efficientnet_lite0" in shown


def _on_terminal(server: FakeServer, arguments: list[str], answers: dict[str, bytes]) -> tuple[int, str]:
    """Run a command on a pseudo-terminal; each answer is typed when its text has been shown."""
    pid, terminal = pty.fork()
    if pid == 0:
        environment = {**os.environ, "IMAGEKIN_URL": server.url, "TERM": "xterm-256color", "COLUMNS": "120"}
        os.execve(sys.executable, [*COMMAND, *arguments], environment)
    shown, waiting = "", list(answers.items())
    # The end of a pseudo-terminal is an error.
    with contextlib.suppress(OSError):
        while piece := os.read(terminal, 1 << 16):
            shown += piece.decode(errors="replace")
            if waiting and waiting[0][0] in shown:
                os.write(terminal, waiting.pop(0)[1])
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown


def _plain(shown: str) -> list[str]:
    """Return the lines without what moves the cursor and colors the text."""
    return re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown))


def test_durations() -> None:
    assert [duration(seconds) for seconds in (0.4, 59, 60, 200, 7500)] == [
        "0 s",
        "59 s",
        "1 min 00 s",
        "3 min 20 s",
        "2 h 05 min",
    ]
