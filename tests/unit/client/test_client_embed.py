"""What `embed` makes of each kind of source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from imagekin import errors
from imagekin.client import Client, JobGroup
from kit.fake_server import PNG, FakeServer, unpack


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


def test_a_manifest_goes_once_for_all_prefixes(server: FakeServer, client: Client, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_bytes(b"as it is")
    job = client.embed(tmp_path / "list.csv", "c", prefixes=["a/", "b/", "a/"])
    assert len(server.posts("/v1/uploads")) == 1
    sent = [post.json["source"] for post in server.posts("/v1/jobs/embed")]
    assert sent == [{"type": "manifest", "upload_id": "u1", "prefix": prefix} for prefix in ("a/", "b/")]
    assert isinstance(job, JobGroup)
    assert len(job.parts) == 2


def test_a_prefix_of_a_location_makes_one_job(server: FakeServer, client: Client) -> None:
    client.embed("s3://bucket/photos", "c", prefixes=["a/"], idempotency_key="k")
    (post,) = server.posts("/v1/jobs/embed")
    assert post.json["source"] == {"type": "location", "url": "s3://bucket/photos", "prefix": "a/"}


def test_prefixes_that_choose_from_nothing(server: FakeServer, client: Client, photos: Path) -> None:
    with pytest.raises(errors.InvalidRequest, match="one location or one manifest"):
        client.embed(photos, "c", prefixes=["a/"])
    with pytest.raises(errors.InvalidRequest, match="leave it out"):
        client.embed("s3://bucket/photos", "c", prefixes=["a/", ""])
    assert server.posts("/v1/collections") == []
    with pytest.raises(errors.InvalidRequest, match="each prefix makes one"):
        client.embed("s3://bucket/photos", "c", prefixes=["a/", "b/"], idempotency_key="k")
    assert server.posts("/v1/jobs/embed") == []


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
    with pytest.raises(errors.InvalidRequest, match="singly"):
        client.embed([tmp_path / "a.zip", photos], "c", idempotency_key="k")
    with pytest.raises(errors.InvalidRequest, match="either"):
        client.embed(["http://example.com/a.png", photos], "c")
    assert server.posts("/v1/uploads") == []
