"""Real processes that keep nothing in their own folder: PostgreSQL has the tables, a bucket the uploads as the how-to
says, and another bucket the pictures."""

from __future__ import annotations

import io
import json
import os
import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import httpx2
import numpy as np
import pytest
from PIL import Image

from imagekin import Client, errors
from imagekin.enums import JobStatus
from imagekin.settings import Settings
from imagekin.stack import Stack
from kit import s3
from kit.databases import PostgreSQL

PAGES = Path(__file__).parents[2] / "docs" / "how-to"
ROOT = "s3://my-bucket/photos"


def picture(seed: int) -> bytes:
    noise = np.random.default_rng([seed, 3]).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    target = io.BytesIO()
    Image.fromarray(noise).resize((64, 48), Image.Resampling.BICUBIC).save(target, "PNG")
    return target.getvalue()


def variable(page: str, name: str) -> str:
    """Return what a page of the documentation says that a variable should be."""
    (value,) = re.findall(rf"^export .*?{name}=(\S+)", (PAGES / page).read_text(), re.M)
    return value


@pytest.fixture(scope="module")
def service(own_environment: None, postgresql: PostgreSQL, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A service on PostgreSQL whose uploads are in a bucket and whose only root is another, set as the pages say."""
    name = f"service_{os.urandom(6).hex()}"
    settings = Settings(
        data_dir=tmp_path_factory.mktemp("buckets"),
        port=0,
        warm=("fake",),
        database_url=postgresql.create(name),
        storage_url=variable("s3.md", "IMAGEKIN_STORAGE_URL"),
        source_roots=(variable("sources.md", "IMAGEKIN_SOURCE_ROOTS"),),
    )
    assert settings.source_roots == (ROOT,)
    with s3.server() as address, pytest.MonkeyPatch.context() as environment:
        s3.lead_to(address, environment)
        for bucket in ("bucket", "my-bucket", "other"):
            s3.make_bucket(bucket)
        s3.put(ROOT, {f"2024/{seed}.png": picture(seed) for seed in range(3)} | {"2024/notes.txt": b"words"})
        s3.put("s3://my-bucket/secret", {"0.png": picture(9)})
        s3.put("s3://other/photos", {"0.png": picture(9)})
        with Stack(settings, log=lambda _: None) as stack:
            yield stack
        fsspec.filesystem("s3").clear_instance_cache()
    postgresql.drop(name)


@pytest.fixture
def collection(client: Client) -> str:
    """A collection for jobs that are refused."""
    with suppress(errors.CollectionExists):
        client.create_collection("refused", backbone="fake")
    return "refused"


@pytest.fixture
def bucket() -> fsspec.AbstractFileSystem:
    """The bucket's file system, which remembers nothing."""
    return fsspec.filesystem("s3", use_listings_cache=False)


def test_a_location(client: Client) -> None:
    job = client.embed("s3://my-bucket/photos/2024", collection="location", backbone="fake").wait()
    assert (job.status, job.progress.embedded, job.progress.ignored) == (JobStatus.SUCCEEDED, 3, 1)
    assert sorted(image.key for image in client.images("location")) == ["0.png", "1.png", "2.png"]
    again = client.embed(ROOT, collection="location", backbone="fake").wait()
    assert (again.progress.reused, again.progress.embedded) == (3, 0)


@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_a_manifest_of_objects(client: Client, tmp_path: Path, kind: str) -> None:
    rows = [
        {"path": f"{ROOT}/2024/0.png", "key": "zero"},
        {"path": "2024/1.png"},
        {"url": f"{ROOT}/2024/2.png"},
        {"path": f"{ROOT}/2024/gone.png"},
        {"path": "s3://my-bucket/secret/0.png"},
        {"path": f"{ROOT}/../secret/0.png"},
        {"path": "../secret/0.png"},
        {"url": "s3://other/photos/0.png"},
        {"path": "/etc/passwd"},
        {"url": "file:///etc/passwd"},
    ]
    path = tmp_path / f"objects.{kind}"
    if kind == "jsonl":
        path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    else:
        lines = (",".join(row.get(name, "") for name in ("key", "url", "path")) for row in rows)
        path.write_text("key,url,path\n" + "".join(f"{line}\n" for line in lines))
    job = client.embed(path, collection=f"manifest-{kind}", backbone="fake").wait()
    found = [(item.key, item.error and item.error.code) for item in job.items()]
    assert found[:4] == [
        ("zero", None),
        ("2024/1.png", None),
        ("s3://my-bucket/photos/2024/2.png", None),
        ("2024/gone.png", "not_found"),
    ]
    assert [code for _, code in found[4:]] == ["fetch_refused"] * 6


@pytest.mark.parametrize(
    "url",
    ["s3://my-bucket", "s3://my-bucket/secret", f"{ROOT}/../secret", f"{ROOT}2", "s3://other/photos", "gs://my-bucket/photos",
     "file:///etc", "http://169.254.169.254/photos", "simplecache::s3://my-bucket/photos", "s3://k:s@my-bucket/photos"],
)  # fmt: skip
def test_nothing_outside_of_the_root(service: Stack, collection: str, url: str) -> None:
    body = {"collection": collection, "source": {"type": "location", "url": url}}
    answer = httpx2.post(f"{service.url}/v1/jobs/embed", json=body, trust_env=False)
    assert (answer.status_code, answer.json()["code"]) == (422, "source_refused")


def test_uploads_are_in_the_bucket(client: Client, tmp_path: Path, bucket: fsspec.AbstractFileSystem) -> None:
    for seed in range(3):
        (tmp_path / f"{seed}.png").write_bytes(picture(seed))
    job = client.embed(tmp_path, collection="uploaded", backbone="fake", upload=True).wait()
    assert (job.status, job.progress.done) == (JobStatus.SUCCEEDED, 3)
    stored = bucket.find("s3://bucket/imagekin/uploads")
    assert job.params["source"]["upload_id"] in {path.rpartition("/")[2] for path in stored}
    assert not [path for path in bucket.find("s3://bucket") if path.endswith(".part")]
    found = client.search(tmp_path / "1.png", collection="uploaded", top_k=1)
    assert (found.neighbors[0].key, found.neighbors[0].score) == ("1.png", 1)
    job.delete()


def test_a_search_with_a_filter(client: Client, tmp_path: Path) -> None:
    """Where it asks PostgreSQL for what SQLite answers in other words."""
    pictures = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(pictures):
        # content of its own, lest it be reused
        path.write_bytes(picture(20 + number))
    job = client.embed(pictures, collection="filtered", backbone="fake").wait()
    assert job.progress.embedded == 4
    for image in client.images("filtered"):
        client.update_image("filtered", image.id, metadata={"even": int(image.key[0]) % 2 == 0})
    found = client.search(pictures[0], collection="filtered", filter={"even": True}).neighbors
    assert [neighbor.key for neighbor in found] == ["0.png", "2.png"]
    assert [item.key for item in job.items()] == ["0.png", "1.png", "2.png", "3.png"]
