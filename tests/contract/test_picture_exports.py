"""Exports with the pictures themselves, read again from where they came, and by the packages that they are for."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import tarfile
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from imagekin.client import exports
from imagekin.store import segments
from kit import web
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM, Hand, picture, vector
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

# How each is labelled; those with a number of their own for a name show the same picture.
KEYS = {
    "a/ß 1.jpg": {"label": "chair", "split": "train"},
    "a/b.c.png": {"label": "chair", "split": "test", "n": [1, None]},
    "b/ß 1.JPG": {"label": 'sofa: "red"/..', "split": "train"},
    "b.jpg": {"label": "table", "split": "train"},
    "b.png": {"label": "table", "split": "train"},
    "noise": {"label": "table", "split": "test", "key": "mine"},
    "unlabelled.png": {"split": "test"},
}


def file_of(key: str) -> bytes:
    return picture(list(KEYS).index(key), kind="PNG" if key.endswith("png") or key == "noise" else "JPEG")


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("photos")


@pytest.fixture
def server(serve: Callable[..., Running], folder: Path) -> Running:
    return serve(source_roots=(str(folder),), fetch_allow=("127.0.0.1",))


@pytest.fixture
def archive(client: httpx2.Client, hand: Hand, crew: Crew, folder: Path) -> None:
    """Pictures that came as uploads in an archive and by themselves, and out of a folder."""
    hand.collection()
    keys = list(KEYS)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        for key in keys[:3]:
            file.writestr(key, file_of(key))
    for key in keys[3:5]:
        (folder / key).write_bytes(file_of(key))
    here = {"collection": "archive"}
    accepted(client.post("/v1/jobs/embed", data=here, files={"archive": ("a.zip", packed.getvalue())}))
    accepted(client.post("/v1/jobs/embed", json={**here, "source": {"type": "folder", "path": str(folder)}}))
    files = [("images", (key, file_of(key))) for key in keys[5:]]
    accepted(client.post("/v1/jobs/embed", data=here, files=files))
    crew.work()
    for key, metadata in KEYS.items():
        body = {"image_keys": [key], "metadata": metadata}
        assert client.patch("/v1/collections/archive/images", json=body).json() == {"changed": 1}


def exported(client: httpx2.Client, format: str, **params: Any) -> bytes:
    answer = client.get("/v1/collections/archive/export", params={"format": format, **params})
    assert answer.status_code == 200, answer.text
    return answer.content


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}  # type: ignore[union-attr] - files alone


# webdataset leaves the files that it read to the garbage
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@BOTH_ENGINES
@pytest.mark.usefixtures("archive")
def test_a_shard_has_samples_that_webdataset_reads(client: httpx2.Client, tmp_path: Path) -> None:
    answer = client.get("/v1/collections/archive/export", params={"format": "webdataset"})
    assert answer.headers["Content-Disposition"] == 'attachment; filename="archive.tar"'
    assert answer.headers["Content-Type"] == "application/x-tar"
    assert exported(client, "webdataset") == answer.content
    found = members(answer.content)
    # the names that webdataset's samples and a tar's members have, in the order of keys
    names = {"a/b%2Ec.png": "a/b.c.png", "a/ß 1.jpg": "a/ß 1.jpg", "b.jpg": "b.jpg", "b%2Epng.png": "b.png",
             "b/ß 1.JPG": "b/ß 1.JPG", "noise.png": "noise", "unlabelled.png": "unlabelled.png"}  # fmt: skip
    assert [name for name in found if name.rpartition(".")[2] in ("jpg", "png", "JPG")] == list(names)
    for name, key in names.items():
        assert found[name] == file_of(key)
        metadata = json.loads(found[f"{name.rpartition('.')[0]}.json"])
        renamed = key not in (name, "noise")
        assert metadata == ({"key": key} if renamed else {}) | KEYS[key]
    labels = [json.loads(line) for line in found["__classes__"].splitlines()]
    assert labels == ["chair", 'sofa: "red"/..', "table"] and found["__left-out__"] == b""
    webdataset = pytest.importorskip("webdataset", reason="webdataset is not installed")
    (tmp_path / "shard.tar").write_bytes(answer.content)
    samples = list(webdataset.WebDataset(str(tmp_path / "shard.tar"), shardshuffle=False).decode("rgb8"))
    assert [sample["__key__"] + "." + max(sample.keys() & {"jpg", "png"}) for sample in samples] == [
        name.replace(".JPG", ".jpg") for name in names
    ]
    for sample, key in zip(samples, names.values(), strict=True):
        if (label := KEYS[key].get("label")) is None:
            assert "cls" not in sample
        else:
            assert labels[sample["cls"]] == label and sample["json"]["label"] == label
        with Image.open(io.BytesIO(file_of(key))) as opened:
            np.testing.assert_array_equal(sample.get("png", sample.get("jpg")), np.array(opened.convert("RGB")))
    gc.collect()


@pytest.mark.usefixtures("archive")
def test_a_shard_comes_back_as_it_went(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection("again")
    data, files = {"collection": "again"}, {"archive": ("shard.tar", exported(client, "webdataset"))}
    job = accepted(client.post("/v1/jobs/embed", data=data, files=files))
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["progress"]["total"]) == ("succeeded", len(KEYS))
    was, now = (
        {each["content_hash"]: each for each in client.get(f"/v1/collections/{name}/images").json()["items"]}
        for name in ("archive", "again")
    )
    assert was.keys() == now.keys()
    for content, image in now.items():
        before = was[content]
        assert image["metadata"].get("key", image["key"]) in (before["key"], "mine")
        assert {**image["metadata"], "key": 0} == {**before["metadata"], "key": 0}


@BOTH_ENGINES
@pytest.mark.usefixtures("archive")
def test_folders_are_the_labels_of_a_split(client: httpx2.Client, tmp_path: Path) -> None:
    data = exported(client, "imagefolder")
    assert exported(client, "imagefolder") == data
    with zipfile.ZipFile(io.BytesIO(data)) as found:
        listed = [json.loads(line) for line in found.read("left-out.jsonl").splitlines()]
        assert [each["key"] for each in listed] == ["unlabelled.png"] and "'label'" in listed[0]["reason"]
        places = {
            "test/chair/b.c.png": "a/b.c.png",
            "train/chair/ß 1.jpg": "a/ß 1.jpg",
            "train/table/b.jpg": "b.jpg",
            "train/table/b.png": "b.png",
            "train/sofa%3A %22red%22%2F.%2E/ß 1.JPG": "b/ß 1.JPG",
            "test/table/noise.png": "noise",
        }
        assert {name: found.read(name) for name in found.namelist()[:-1]} == {
            place: file_of(key) for place, key in places.items()
        }
        found.extractall(tmp_path / "set")
    flat = exported(client, "imagefolder", field="none", split="", filter=json.dumps({"split": "train"}))
    with zipfile.ZipFile(io.BytesIO(flat)) as found:
        # the same name from two folders
        assert found.namelist() == ["ß 1.jpg", "b.jpg", "b.png", "b%2Fß 1.JPG"]
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    loaded = datasets.load_dataset("imagefolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    assert {name: len(part) for name, part in loaded.items()} == {"train": 4, "test": 2}
    names = loaded["train"].features["label"].names
    assert sorted(names[row["label"]] for row in loaded["train"]) == [
        "chair", "sofa%3A %22red%22%2F.%2E", "table", "table"
    ]  # fmt: skip


@pytest.mark.usefixtures("archive")
def test_what_cannot_be_read_is_listed(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, folder: Path, tmp_path: Path
) -> None:
    """A file that changed, one that is gone, an upload that is gone, a job that is forgotten, an imported vector."""
    (folder / "b.jpg").write_bytes(picture(99, kind="JPEG"))
    (folder / "b.png").unlink()
    jobs = client.get("/v1/jobs").json()["items"]
    assert client.delete(f"/v1/jobs/{jobs[0]['id']}").status_code == 204
    for name, _ in server.service.storage.files("uploads"):
        server.service.storage.delete(name)
    hand.store([segments.Item("vector", vector=vector(5, DIM), content_hash="vector:5")])
    path = tmp_path / "set.tar"
    path.write_bytes(exported(client, "webdataset"))
    listed = {each.key: each.reason for each in exports.left_out(path, "webdataset")}
    assert listed.keys() == {*KEYS, "vector"}
    assert "changed" in listed["b.jpg"] and "no file" in listed["b.png"].lower()
    assert listed["vector"] == listed["noise"] and "expired" in listed["noise"]
    assert "upload" in listed["a/ß 1.jpg"].lower()
    path = tmp_path / "set.zip"
    path.write_bytes(exported(client, "imagefolder"))
    assert {each.key for each in exports.left_out(path, "imagefolder")} == listed.keys()


def test_pictures_of_addresses_are_fetched_again(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    with web.serve() as site:
        for at in range(5):
            site.pages[f"/{at}.png"] = web.body(picture(at))
        urls = [{"url": site.url(f"/{at}.png"), "key": f"{at}.png"} for at in range(5)]
        body = {"collection": "archive", "source": {"type": "urls", "urls": urls}}
        accepted(client.post("/v1/jobs/embed", json=body))
        crew.work()
        del site.pages["/4.png"]
        found = members(exported(client, "webdataset"))
    assert [found[f"{at}.png"] for at in range(4)] == [picture(at) for at in range(4)]
    assert "4.png" not in found and json.loads(found["__left-out__"])["key"] == "4.png"


@pytest.mark.parametrize("format", ["webdataset", "imagefolder"])
def test_memory_does_not_grow_with_the_pictures(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, folder: Path, format: str
) -> None:
    hand.collection()
    check_problem(client.get("/v1/collections/none/export", params={"format": format}), 404, "collection_not_found")
    noise = np.random.default_rng(3).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "BMP")
    pictures = {f"{at:03}.bmp": file.getvalue() + bytes([at]) for at in range(100)}
    for name, data in pictures.items():
        (folder / name).write_bytes(data)
    body = {"collection": "archive", "source": {"type": "folder", "path": str(folder)}}
    accepted(client.post("/v1/jobs/embed", json=body))
    crew.work()
    size, digest = 0, hashlib.sha256()
    tracemalloc.start()
    with client.stream("GET", "/v1/collections/archive/export", params={"format": format}) as answer:
        for piece in answer.iter_bytes():
            size += len(piece)
            digest.update(piece)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size > sum(map(len, pictures.values()))
    assert peak < size / 2
    assert digest.hexdigest() == hashlib.sha256(exported(client, format)).hexdigest()
    assert not list(server.settings.spool_folder.iterdir())


@BOTH_ENGINES
@pytest.mark.usefixtures("archive")
def test_a_manifest_says_what_a_set_is_made_of(client: httpx2.Client, crew: Crew) -> None:
    made = accepted(client.post("/v1/jobs/select", json={"collection": "archive", "n": 2}))
    accepted(client.post("/v1/jobs/search", json={"collection": "archive", "query": {"image_key": "noise"}}))
    crew.work()
    wanted = {"split": "train"}
    data = exported(client, "manifest", filter=json.dumps(wanted))
    assert exported(client, "manifest", filter=json.dumps(wanted)) == data
    found = json.loads(data)
    assert found["space"]["space_id"] == client.get("/v1/collections/archive").json()["space_id"]
    assert (found["collection"], found["filter"], found["images"]) == ("archive", wanted, 4)
    assert [job["kind"] for job in found["jobs"]] == ["embed", "embed", "embed", "select"]
    assert found["jobs"][-1] == {
        "id": made["id"], "kind": "select", "status": "succeeded", "params": made["params"]
    }  # fmt: skip
    assert [each["key"] for each in found["files"]] == ["a/ß 1.jpg", "b.jpg", "b.png", "b/ß 1.JPG"]
    assert all(each["sha256"] == hashlib.sha256(file_of(each["key"])).hexdigest() for each in found["files"])
    assert {each["label"] for each in found["files"]} == {"chair", "table", 'sofa: "red"/..'}
    problem = check_problem(
        client.get("/v1/collections/archive/export", params={"format": "manifest", "filter": "[1"}),
        422,
        "invalid_request",
    )
    assert problem["errors"][0]["pointer"] == "/filter"
