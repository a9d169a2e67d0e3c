"""`imagekin import` and `export`."""

from __future__ import annotations

import json
from pathlib import Path

from kit.answers import PARTIAL
from kit.fake_server import Answer, FakeServer, problem


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
    for arguments in (("-o", "vectors.json"), ("-o", "v.npz", "--format", "pickle"), ()):
        assert call("export", "-c", "c", *arguments).code == 2
    server.faults = [Answer(200, {}), problem(404, "collection_not_found", "There is no collection named 'x'.")]
    done = call("export", "-c", "x", "-o", "x.npz")
    assert (done.code, done.out) == (1, "")
    assert not (tmp_path / "x.npz").exists()
