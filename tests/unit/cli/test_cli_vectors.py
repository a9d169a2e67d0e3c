"""`imagekin import` and `export`."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from pathlib import Path

from kit.answers import PARTIAL
from kit.fake_server import Answer, FakeServer, problem
from kit.terminal import Call


def test_import(call: Call, server: FakeServer, tmp_path: Path) -> None:
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


def test_import_of_nothing_or_into_nothing_sends_nothing(call: Call, server: FakeServer, tmp_path: Path) -> None:
    server.add_collection("archive")
    done = call("import", "nowhere.npz", "-c", "archive")
    assert done.code == 1
    assert "nowhere.npz: No such file or directory" in done.err
    (tmp_path / "c.npz").write_bytes(b"vectors")
    done = call("import", "c.npz", "-c", "archiv")
    assert done.code == 1
    assert "Did you mean archive?" in done.err
    assert not server.posts("/v1/uploads")


def test_export(call: Call, server: FakeServer, tmp_path: Path) -> None:
    done = call("export", "-c", "c", "-o", "vectors.npz")
    assert (done.code, done.out) == (0, "vectors.npz\n")
    size = (tmp_path / "vectors.npz").stat().st_size
    assert f"exported c: {size:,} B" in done.err
    done = call("export", "-c", "c", "-o", "vectors", "--format", "safetensors", "--json")
    assert json.loads(done.out) == {"path": "vectors", "format": "safetensors", "size": size, "left_out": 0}
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


def test_an_export_says_what_is_not_in_it(call: Call, server: FakeServer, tmp_path: Path) -> None:
    listed = b"".join(
        json.dumps({"id": f"i{at}", "key": f"{at}.png", "reason": "It is gone."}).encode() + b"\n" for at in range(2)
    )
    shard, packed = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w") as tar, zipfile.ZipFile(packed, "w") as archive:
        for name, data in (("a.png", b"picture"), ("__left-out__", listed)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
        archive.writestr("a.png", b"picture")
    tar_file, zip_file = (Answer(200, file.getvalue(), {"Content-Type": "any/thing"}) for file in (shard, packed))
    server.faults = [Answer(200, {}), tar_file]
    done = call("export", "-c", "c", "-o", "set.tar", "--filter", "split=train", "--field", "kind", "--split", "fold")
    assert (done.code, done.out) == (3, "set.tar\n")
    assert "2 images are not in it; the file lists them. 0.png: It is gone." in done.err
    asked = {"format": ["webdataset"], "field": ["kind"], "split": ["fold"], "filter": ['{"split": "train"}']}
    assert server.requests[-1].query == asked
    server.faults = [Answer(200, {}), zip_file]
    done = call("export", "-c", "c", "-o", "set.zip", "--json")
    assert (done.code, json.loads(done.out)["left_out"], json.loads(done.out)["format"]) == (0, 0, "imagefolder")
