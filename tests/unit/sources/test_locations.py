"""Locations: below the roots only, listed in order and from any place on, on a real S3 server and any other."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from imagekin import errors, formats, sources
from imagekin.settings import Settings
from imagekin.sources import Entry, Source
from imagekin.uploads.files import Storage
from kit import s3
from kit.packing import entries_of

Open = Callable[..., Source]

PNG = b"\x89PNG\r\n\x1a\n" + bytes(24)
FILES = {
    "a.png": PNG,
    "a/1.png": PNG + b"1",
    "a/b/2.JPG": b"not looked at",
    "a/b/no suffix": PNG,
    "a-b.png": PNG + b"-",
    "zoë & co.png": PNG,
    "empty.png": b"",
    "large.png": bytes(2000),
    "notes.txt": b"words",
    "a/.hidden.png": PNG,
    "a/b/empty": b"",
}
ITEMS = ["a-b.png", "a.png", "a/1.png", "a/b/2.JPG", "a/b/no suffix", "empty.png", "large.png", "zoë & co.png"]


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    """The address of an S3 server of the tests' own."""
    with s3.server() as address:
        yield address


@pytest.fixture
def bucket(s3_server: str, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[str]:
    """A bucket of the test's own, and the environment that leads there."""
    s3.lead_to(s3_server, monkeypatch)
    name = re.sub(r"[^a-z0-9]", "", "b" + request.node.name.lower())[:60]
    s3.make_bucket(name)
    yield name
    fsspec.filesystem("s3").clear_instance_cache()


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    def opened(url: str, *roots: str, prefix: str | None = None, **changes: Any) -> Source:
        settings = Settings(
            **{"data_dir": tmp_path, "source_roots": roots or (url,), "max_image_bytes": 1000, **changes}
        )
        return sources.open_source({"type": "location", "url": url, "prefix": prefix}, Storage(settings), settings)

    return opened


@pytest.fixture(params=["s3", "memory"])
def location(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of the files, on a file system each, with others beside them."""
    url = f"s3://{request.getfixturevalue('bucket')}/photos" if request.param == "s3" else "memory://bucket/photos"
    s3.put(url, FILES)
    s3.put(url + "-beside", {"secret.png": PNG})
    yield url
    if request.param == "memory":
        fsspec.filesystem("memory").rm("/bucket", recursive=True)


def summary(entry: Entry) -> tuple[str, str | None]:
    return entry.key, entry.error and entry.error.code


def test_what_a_location_holds(location: str, opened: Open) -> None:
    source = opened(location + "/")
    entries = list(entries_of(source))
    assert sorted(entry.key for entry in entries if entry.ignored) == ["a/.hidden.png", "a/b/empty", "notes.txt"]
    items = [entry for entry in entries if not entry.ignored]
    assert sorted(entry.key for entry in items) == ITEMS
    assert {entry.key: entry.error.code for entry in items if entry.error} == {
        "empty.png": "empty_file",
        "large.png": "too_large",
    }
    for entry in items:
        if not entry.error:
            assert source.read(json.loads(json.dumps(entry.ref))) == FILES[entry.key]
    source.close()


def test_planning_goes_on_from_every_cursor(location: str, opened: Open) -> None:
    source = opened(location)
    entries = list(entries_of(source))
    for at, entry in enumerate(entries, 1):
        assert list(entries_of(source, json.loads(json.dumps(entry.cursor)))) == entries[at:]


@pytest.mark.parametrize("prefix", ["a", "a/", "a/b/", "a/b/2", "a-", "zoë", "notes", "none"])
def test_only_what_begins_with_the_prefix(location: str, opened: Open, tmp_path: Path, prefix: str) -> None:
    for name, data in FILES.items():
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    for url in (location, (tmp_path / "photos").as_uri()):
        entries = list(entries_of(opened(url, prefix=prefix)))
        assert entries == [entry for entry in entries_of(opened(url)) if entry.key.startswith(prefix)]
        assert (entries == []) is (prefix == "none")
        for at, entry in enumerate(entries, 1):
            assert list(entries_of(opened(url, prefix=prefix), json.loads(json.dumps(entry.cursor)))) == entries[at:]


def test_a_file_that_does_not_begin_with_the_prefix(opened: Open, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    url = (tmp_path / "a.png").as_uri()
    found = [[entry.key for entry in entries_of(opened(url, prefix=prefix))] for prefix in ("a", "b")]
    assert found == [["a.png"], []]


def test_a_location_below_the_root(location: str, opened: Open) -> None:
    keys = [entry.key for entry in entries_of(opened(f"{location}/a/b", location))]
    assert sorted(keys) == ["2.JPG", "empty", "no suffix"]


def test_what_was_there_and_changed(location: str, opened: Open) -> None:
    source = opened(location)
    fs, root = fsspec.url_to_fs(location)
    fs.rm_file(f"{root}/a.png")
    with pytest.raises(errors.ItemNotFound):
        source.read({"p": "a.png"})
    s3.put(location, {"a/1.png": bytes(5000)})
    with pytest.raises(errors.ImageTooLarge):
        source.read({"p": "a/1.png"})


def test_what_comes_is_listed_the_next_time(location: str, opened: Open) -> None:
    before = len(list(entries_of(opened(location))))
    s3.put(location, {"new.png": PNG})
    assert len(list(entries_of(opened(location)))) == before + 1


def test_objects_come_page_by_page(bucket: str, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imagekin.sources.listing.PAGE", 5)
    names = [f"{n:02}.png" for n in range(20)]
    s3.put(f"s3://{bucket}/many", dict.fromkeys(names, PNG))
    source = opened(f"s3://{bucket}/many")
    assert [entry.key for entry in entries_of(source)] == names
    assert [entry.key for entry in entries_of(source, "06.png")] == names[7:]


def test_names_that_only_S3_has(bucket: str, opened: Open) -> None:
    fs = fsspec.filesystem("s3")
    for name in ("p/", "p/folder/", "p//double.png", "p/../up.png", "p/a\\b.png"):
        fs.call_s3("put_object", Bucket=bucket, Key=name, Body=PNG)
    found = {entry.cursor: summary(entry) for entry in entries_of(opened(f"s3://{bucket}/p"))}
    assert found == {
        "/double.png": ("double.png", None),
        "../up.png": ("up.png", "fetch_refused"),
        "a\\b.png": ("a/b.png", None),
    }


def test_a_bucket_as_a_whole(bucket: str, opened: Open) -> None:
    s3.put(f"s3://{bucket}", {"a.png": PNG, "b/c.png": PNG})
    assert [entry.key for entry in entries_of(opened(f"s3://{bucket}"))] == ["a.png", "b/c.png"]


def test_an_empty_or_missing_location(bucket: str, opened: Open) -> None:
    assert list(entries_of(opened(f"s3://{bucket}/nothing"))) == []
    with pytest.raises(errors.SourceUnreadable):
        list(entries_of(opened("s3://no-such-bucket-anywhere/photos")))
    with pytest.raises(errors.SourceUnreadable):
        list(entries_of(opened("memory://nowhere/photos")))


def test_a_server_that_is_not_there(opened: Open, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    fsspec.filesystem("s3").clear_instance_cache()
    source = opened(f"s3://{bucket}/photos")
    with pytest.raises(errors.SourceUnreadable, match="cannot be listed"):
        list(entries_of(source))
    with pytest.raises(errors.FetchFailed, match="cannot be read"):
        source.read({"p": "a.png"})


ROOT = "s3://bucket/photos"


@pytest.mark.parametrize("url", [ROOT, ROOT + "/", ROOT + "/2024", "S3://bucket/photos", "s3a://bucket/photos/x y/ü"])
def test_below_the_root(url: str) -> None:
    sources.check_source({"type": "location", "url": url}, Settings(source_roots=(ROOT,)))


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket", "s3://bucket/", "s3://bucket/photos2", "s3://bucket/other", "s3://other/photos", "s3://",
        "gs://bucket/photos", "photos", "/bucket/photos", "s3:/bucket/photos", "s3:bucket/photos",
        "s3://bucket/photos/../other", "s3://bucket/photos/./x", "s3://bucket//photos", "s3://bucket/photos//x",
        "s3://bucket/photos/%2e%2e/../x", "s3://bucket/photos\\..\\other", "s3://bucket/photos/\n", "s3://bucket/photos?x",
        "s3://bucket/photos/a?versionId=1", "s3://bucket/photos#x", "s3://key:secret@bucket/photos",
        "s3://bucket:9000/photos", "simplecache::s3://bucket/photos", "zip://a::s3://bucket/photos",
        "s3://bucket/photos::file:///etc", "http://169.254.169.254/", "https://example.org/", "ftp://example.org/",
        "data:,x", "memory://bucket/photos", "file:///etc", "local:///etc",
    ],
)  # fmt: skip
def test_outside_of_the_root(url: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path, source_roots=(ROOT, str(tmp_path)))
    with pytest.raises(errors.SourceRefused):
        sources.check_source({"type": "location", "url": url}, settings)
    with pytest.raises(errors.SourceRefused):
        sources.open_source({"type": "location", "url": url}, Storage(settings), settings)


@pytest.mark.parametrize("root", ["http://169.254.169.254", "https://example.org/photos", "zip://x::s3://bucket"])
def test_roots_that_nobody_gets(root: str) -> None:
    with pytest.raises(errors.SourceRefused):
        sources.check_source({"type": "location", "url": root}, Settings(source_roots=(root,)))


@pytest.fixture
def listed(location: str, tmp_path: Path) -> Open:
    """Open a manifest of paths or addresses, below the files' location as the only root."""
    settings = Settings(data_dir=tmp_path, source_roots=(location,), max_image_bytes=1000)
    storage = Storage(settings)

    def listed(field: str, *names: str) -> Source:
        lines = "".join(json.dumps({field: name}) + "\n" for name in names)
        storage.write("uploads/u1", [lines.encode()], 1 << 20)
        spec = {"type": "manifest", "upload_id": "u1", "path": "uploads/u1"}
        return sources.open_source(spec, storage, settings)

    return listed


def test_a_manifest_of_paths_below_the_root(listed: Open, location: str) -> None:
    source = listed("path", f"{location}/a/1.png", "a-b.png", "zoë & co.png", f"{location}/gone.png", "large.png")
    entries = list(entries_of(source))
    assert [entry.key for entry in entries] == ["a/1.png", "a-b.png", "zoë & co.png", "gone.png", "large.png"]
    assert [source.read(entry.ref) for entry in entries[:3]] == [FILES[entry.key] for entry in entries[:3]]
    with pytest.raises(errors.ItemNotFound):
        source.read(entries[3].ref)
    with pytest.raises(errors.ImageTooLarge):
        source.read(entries[4].ref)


def test_an_address_of_a_location_is_its_own_key(listed: Open, location: str) -> None:
    source = listed("url", f"{location}/a/1.png")
    (entry,) = entries_of(source)
    assert (entry.key, source.read(entry.ref)) == (f"{location}/a/1.png", FILES["a/1.png"])


@pytest.mark.parametrize("field", ["path", "url"])
@pytest.mark.parametrize("outside", ["-beside/secret.png", "/../photos-beside/secret.png", "/..", "?x", ""])
def test_a_manifest_stays_below_the_root(listed: Open, location: str, field: str, outside: str) -> None:
    source = listed(field, location + outside, *(["../photos-beside/secret.png"] if field == "path" else []))
    for entry in entries_of(source):
        if entry.error is not None:
            assert entry.error.code == "fetch_refused"
        else:
            with pytest.raises((errors.FetchRefused, errors.ItemNotFound, errors.FetchFailed)) as caught:
                source.read(entry.ref)
            # the root itself may be asked for; it is no file
            assert isinstance(caught.value, errors.FetchRefused) or not outside


@pytest.mark.parametrize(
    "url",
    ["s3://other/photos/a.png", "gs://bucket/photos/a.png", "memory://other/a.png", "file:///etc/passwd", "ftp://a.org/b",
     "simplecache::s3://bucket/photos/a.png", "/etc/passwd"],
)  # fmt: skip
@pytest.mark.parametrize("field", ["path", "url"])
@pytest.mark.parametrize("location", ["memory"], indirect=True)
def test_a_manifest_reaches_nothing_else(listed: Open, field: str, url: str) -> None:
    source = listed(field, url)
    (entry,) = entries_of(source)
    with pytest.raises(errors.FetchRefused):
        source.read(entry.ref)


def test_a_local_location_is_a_folder(tmp_path: Path, opened: Open) -> None:
    (tmp_path / "ro ot").mkdir()
    (tmp_path / "ro ot" / "a.png").write_bytes(PNG)
    (tmp_path / "ro ot" / "passwd.png").symlink_to("/etc/passwd")
    url = (tmp_path / "ro ot").as_uri()
    source = opened(url)
    sources.check_source({"type": "location", "url": url}, Settings(source_roots=(url,)))
    assert [(entry.key, bool(entry.ignored)) for entry in entries_of(source)] == [
        ("a.png", False),
        ("passwd.png", True),
    ]
    assert source.read({"p": "a.png"}) == PNG


def test_kinds_that_this_worker_cannot_read(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(errors.SourceUnreadable, match="no locations of the kind"):
        opened("nonsense://bucket/photos")
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(errors.SourceUnreadable, match="cannot read gs://"):
        opened("gs://bucket/photos")


def test_the_pictures_here_are_pictures() -> None:
    assert formats.looks_like_image(PNG)
