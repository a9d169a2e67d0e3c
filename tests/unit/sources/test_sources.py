from __future__ import annotations

import gzip
import io
import json
import os
import tarfile
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from imagekin import errors, sources
from imagekin.settings import Settings
from imagekin.sources import Entry, Source
from imagekin.uploads.files import Storage
from kit.packing import entries_of

Open = Callable[..., Source]

# What every container below holds: names, with what becomes of them.
IMAGES = {"a.png": 1, "Sub/B.PNG": 2, "Sub/deep/c d.jpg": 3, "zoë.png": 4, "no suffix": 5}
IGNORED = ["notes.txt", ".hidden.png", "Sub/.DS_Store", "__MACOSX/Sub/._B.PNG", "archive.zip", "empty.txt"]
# A folder on disk is not entered where it is hidden, and counts as one.
HIDDEN_AT_ITS_TOP = [name.replace("__MACOSX/Sub/._B.PNG", "__MACOSX") for name in IGNORED]


def picture(seed: int) -> bytes:
    target = io.BytesIO()
    Image.new("RGB", (seed + 1, 2), (seed % 256, 7, 9)).save(target, "PNG")
    return target.getvalue()


def contents() -> dict[str, bytes]:
    ignored = {name: b"" if name == "empty.txt" else b"PK\x03\x04 just data " + name.encode() for name in IGNORED}
    return {name: picture(seed) for name, seed in IMAGES.items()} | ignored


def make_zip() -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.mkdir("Sub")
        for index, (name, data) in enumerate(contents().items()):
            archive.writestr(name, data, zipfile.ZIP_DEFLATED if index % 2 else zipfile.ZIP_STORED)
        archive.comment = b"a comment with PK\x05\x06 in it, long enough to hold a false end of the directory"
    return target.getvalue()


def make_tar(tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w", format=tar_format) as archive:
        folder = tarfile.TarInfo("Sub")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, data in contents().items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return target.getvalue()


def make_folder(folder: Path) -> Path:
    for name, data in contents().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", source_roots=(str(tmp_path / "root"),))


@pytest.fixture
def storage(settings: Settings) -> Storage:
    return Storage(settings)


@pytest.fixture
def open_upload(settings: Settings, storage: Storage) -> Open:
    def opened(data: bytes, filename: str | None = None, **changes: Any) -> Source:
        storage.write("uploads/u1", [data], 1 << 30)
        spec = {"type": "upload", "upload_id": "u1", "path": "uploads/u1", "filename": filename}
        return sources.open_source(spec, storage, settings.model_copy(update=changes))

    return opened


@pytest.fixture
def open_folder(settings: Settings, storage: Storage) -> Open:
    def opened(path: Path | str, **changes: Any) -> Source:
        spec = {"type": "folder", "path": str(path)}
        return sources.open_source(spec, storage, settings.model_copy(update=changes))

    return opened


@pytest.fixture(params=["zip", "zip_prefixed", "tar_pax", "tar_gnu", "tar_gz", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path, open_upload: Open, open_folder: Open) -> Source:
    make = {
        "zip": lambda: open_upload(make_zip()),
        "zip_prefixed": lambda: open_upload(b"#!/bin/sh self-extractor" * 100 + make_zip()),
        "tar_pax": lambda: open_upload(make_tar()),
        "tar_gnu": lambda: open_upload(make_tar(tarfile.GNU_FORMAT)),
        "tar_gz": lambda: open_upload(gzip.compress(make_tar())),
        "folder": lambda: open_folder(make_folder(tmp_path / "root")),
    }
    return make[request.param]()


def items(source: Source) -> list[Entry]:
    return [entry for entry in entries_of(source) if not entry.ignored]


def through_json(value: Any) -> Any:
    return json.loads(json.dumps(value))


def assert_resumable(source: Source) -> None:
    entries = list(entries_of(source))
    for index, entry in enumerate(entries):
        assert list(entries_of(source, through_json(entry.cursor))) == entries[index + 1 :]


def test_entries_are_the_images_and_what_is_ignored_is_counted(source: Source) -> None:
    found = items(source)
    assert sorted(entry.key for entry in found) == sorted(IMAGES)
    assert [entry.error for entry in found] == [None] * len(IMAGES)
    assert sorted(entry.key for entry in entries_of(source) if entry.ignored) in (
        sorted(IGNORED),
        sorted(HIDDEN_AT_ITS_TOP),
    )


def test_read_gives_each_image_from_many_threads(source: Source) -> None:
    found = {entry.key: through_json(entry.ref) for entry in items(source)}
    with ThreadPoolExecutor(8) as pool:
        for _ in range(20):
            read = dict(zip(found, pool.map(source.read, found.values()), strict=True))
            assert read == {name: picture(seed) for name, seed in IMAGES.items()}
    source.close()


def test_planning_goes_on_after_any_entry(source: Source) -> None:
    assert_resumable(source)


def test_read_keeps_the_limit_that_holds_now(tmp_path: Path, open_upload: Open, open_folder: Open) -> None:
    make_folder(tmp_path / "root")
    for opened, what in ((open_upload, make_zip()), (open_upload, make_tar()), (open_folder, tmp_path / "root")):
        ref = items(opened(what))[0].ref
        with pytest.raises(errors.ImageTooLarge, match="at most 10"):
            opened(what, max_image_bytes=10).read(ref)
        codes = {entry.error.code for entry in items(opened(what, max_image_bytes=10)) if entry.error}
        assert codes == {"too_large"}


def test_one_image_is_a_source(open_upload: Open) -> None:
    for filename, key in (("Bär.png", "Bär.png"), ("2024/a.png", "2024/a.png"), ("../a.png", "a.png"), (None, "u1")):
        source = open_upload(picture(1), filename)
        assert [entry.key for entry in entries_of(source)] == [key]
        assert_resumable(source)
        assert source.read({}) == picture(1)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"just text", "neither"),
        (b"%PDF-1.7" + bytes(5000), "neither"),
        (gzip.compress(b"just text" * 100, mtime=0), "not a tar"),
        (make_zip()[:-200], "directory"),
    ],
)
def test_other_uploads_are_refused_with_what_is_accepted(open_upload: Open, data: bytes, reason: str) -> None:
    with pytest.raises(errors.SourceUnreadable, match=reason):
        open_upload(data)


def test_an_upload_that_is_gone_has_expired(settings: Settings, storage: Storage) -> None:
    with pytest.raises(errors.UploadExpired):
        sources.open_source({"type": "upload", "upload_id": "u", "path": "u"}, storage, settings)


def test_uploads_are_read_from_other_storage_too(tmp_path: Path) -> None:
    settings = Settings(storage_url=f"memory://{tmp_path.name}")
    storage = Storage(settings)
    storage.write("u", [make_zip()], 1 << 30)
    source = sources.open_source({"type": "upload", "upload_id": "u", "path": "u"}, storage, settings)
    assert [source.read(entry.ref) for entry in items(source)] == [picture(seed) for seed in IMAGES.values()]


@pytest.mark.parametrize("data", [make_zip, make_tar])
def test_empty_archives_have_no_entries(open_upload: Open, data: Callable[[], bytes]) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") if data is make_zip else tarfile.open(fileobj=target, mode="w"):
        pass
    assert list(entries_of(open_upload(target.getvalue()))) == []


@pytest.mark.parametrize(
    "spec",
    [{}, {"type": "ftp"}, {"type": ["folder"]}, {"type": "folder"}, {"type": "folder", "path": 3}]
    + [{"type": "folder", "path": path} for path in ("", "/a\0b", "/\ud800")]
    + [{"type": "upload"}],
)
def test_invalid_specs_are_invalid_requests(spec: dict[str, Any], settings: Settings, storage: Storage) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        sources.check_source(spec, settings)
    assert caught.value.errors[0]["pointer"].startswith("/source/")
    with pytest.raises(errors.InvalidRequest):
        sources.open_source(spec, storage, settings)


# --- folders


def test_folders_are_read_below_the_roots_only(tmp_path: Path, settings: Settings, storage: Storage) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root-not").mkdir()
    (tmp_path / "root" / "link").symlink_to(tmp_path / "root-not")
    outside = [tmp_path, tmp_path / "root-not", tmp_path / "root/../root-not", tmp_path / "root/link", Path("/missing")]
    for path in [*map(str, outside), "root", "."]:
        with pytest.raises(errors.SourceRefused):
            sources.check_source({"type": "folder", "path": path}, settings)
    without = settings.model_copy(update={"source_roots": ()})
    with pytest.raises(errors.SourceRefused):
        sources.check_source({"type": "folder", "path": str(tmp_path / "root")}, without)
    with pytest.raises(errors.SourceUnreadable, match="no folder"):
        sources.check_source({"type": "folder", "path": str(tmp_path / "root/missing")}, settings)
    sources.check_source({"type": "folder", "path": str(tmp_path / "root")}, settings)


def test_a_root_may_be_a_link_or_a_file_url(tmp_path: Path, open_folder: Open) -> None:
    make_folder(tmp_path / "real root")
    (tmp_path / "link").symlink_to(tmp_path / "real root")
    for root in (str(tmp_path / "link"), (tmp_path / "real root").as_uri()):
        source = open_folder(tmp_path / "link", source_roots=("s3://other", root))
        assert len(items(source)) == len(IMAGES)


def test_one_image_file_is_a_source(tmp_path: Path, open_folder: Open) -> None:
    make_folder(tmp_path / "root")
    for name in ("Sub/B.PNG", "no suffix"):
        source = open_folder(tmp_path / "root" / name)
        (entry,) = entries_of(source)
        assert entry.key == Path(name).name
        assert source.read(through_json(entry.ref)) == picture(IMAGES[name])
        assert_resumable(source)
    with pytest.raises(errors.SourceUnreadable, match="neither"):
        open_folder(tmp_path / "root" / "notes.txt")


def test_a_folder_is_walked_in_the_order_of_names_and_past_what_goes_meanwhile(
    tmp_path: Path, open_folder: Open
) -> None:
    root = tmp_path / "root"
    for name in ("a/1.png", "a/2.png", "a.png", "b/x/1.png", "b/x/2.png", "b/y.png", "c.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(picture(1))
    source = open_folder(root)
    entries = list(entries_of(source))
    assert [e.key for e in entries] == ["a/1.png", "a/2.png", "a.png", "b/x/1.png", "b/x/2.png", "b/y.png", "c.png"]
    after = entries[3].cursor
    for name in ("1.png", "2.png"):
        (root / "b/x" / name).unlink()
    (root / "b/x").rmdir()
    assert [entry.key for entry in entries_of(source, after)] == ["b/y.png", "c.png"]
    (root / "b/y.png").unlink()
    (root / "b").rmdir()
    assert [entry.key for entry in entries_of(source, after)] == ["c.png"]


def test_names_that_are_not_utf8_are_read_as_latin1(tmp_path: Path, open_folder: Open) -> None:
    (tmp_path / "root").mkdir()
    try:
        Path(os.fsdecode(os.fsencode(tmp_path / "root") + b"/caf\xe9.png")).write_bytes(picture(1))
    except OSError:
        pytest.skip("this file system takes only Unicode names")
    source = open_folder(tmp_path / "root")
    (entry,) = entries_of(source)
    assert entry.key == "café.png"
    assert "\\ud" not in json.dumps(entry.ref)
    assert source.read(through_json(entry.ref)) == picture(1)
    assert_resumable(source)


def test_empty_and_vanished_files_fail_alone(tmp_path: Path, open_folder: Open) -> None:
    root = make_folder(tmp_path / "root")
    (root / "empty.jpg").touch()
    source = open_folder(root)
    found = {entry.key: entry for entry in items(source)}
    assert found["empty.jpg"].error is not None
    assert found["empty.jpg"].error.code == "empty_file"
    with pytest.raises(errors.EmptyFile):
        source.read(found["empty.jpg"].ref)
    (root / "a.png").unlink()
    with pytest.raises(errors.ItemNotFound):
        source.read(found["a.png"].ref)


# --- archives


def test_names_are_cleaned_as_tar_and_unzip_do(open_upload: Open) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("./a.png", "/abs/b.png", "x//c.png", "win\\d.png", "cafe\u0301.png"):
            archive.writestr(name, picture(1))
    assert [entry.key for entry in entries_of(open_upload(target.getvalue()))] == [
        "a.png",
        "abs/b.png",
        "x/c.png",
        "win/d.png",
        "café.png",
    ]


def test_zip_names_are_utf8_with_or_without_the_flag_else_cp437(open_upload: Open) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for name in ("AB.png", "CD.png", "é.png"):
            archive.writestr(name, picture(1))
    data = target.getvalue().replace(b"AB.png", b"\xc3\xa9.png").replace(b"CD.png", b"\x82\x81.png")
    assert [entry.key for entry in entries_of(open_upload(data))] == ["é.png", "éü.png", "é.png"]


def test_tar_agrees_with_tarfile_on_long_and_strange_names(open_upload: Open) -> None:
    names = ["x" * 99 + ".png", "y" * 300 + ".png", "d" * 90 + "/" + "e" * 90 + ".png", "zoë" * 40 + ".png", "a.png"]
    for tar_format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        target = io.BytesIO()
        with tarfile.open(fileobj=target, mode="w", format=tar_format, pax_headers={"comment": "global"}) as archive:
            for index, name in enumerate(names):
                member = tarfile.TarInfo(name)
                member.size = len(picture(index))
                member.mtime = 1.5
                archive.addfile(member, io.BytesIO(picture(index)))
        source = open_upload(target.getvalue())
        assert [entry.key for entry in entries_of(source)] == names
        assert [source.read(entry.ref) for entry in entries_of(source)] == [picture(i) for i in range(len(names))]
        assert_resumable(source)


def test_zip64_is_read(open_upload: Open) -> None:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        for index in range(70_000):
            archive.writestr(zipfile.ZipInfo(f"{index}.png"), b"x")
        with archive.open(zipfile.ZipInfo("last.png"), "w", force_zip64=True) as member:
            member.write(picture(1))
    source = open_upload(b"prefix" + target.getvalue())
    *_, last = entries_of(source)
    assert last.key == "last.png"
    assert source.read(last.ref) == picture(1)
    assert sum(1 for _ in entries_of(source)) == 70_001


# --- what a client chose, and what is told of the rest


def test_each_member_that_a_client_chose_is_an_item(tmp_path: Path) -> None:
    members = {
        ".hidden.png": picture(1),
        "@eaDir/a.png": picture(2),
        "notes.txt": b"text",
        "raw": b"FUJIFILMCCD-RAW" + bytes(99),
    }
    settings = Settings(data_dir=tmp_path)
    storage = Storage(settings)
    for kind, data in (("zip", _zip(members)), ("tar", _tar(members))):
        storage.write(kind, [data], 1 << 30)
        spec = {"type": "upload", "upload_id": kind, "path": kind, "named": True}
        source = sources.open_source(spec, storage, settings)
        found = {entry.key: (entry.ignored, entry.error and entry.error.code) for entry in entries_of(source)}
        source.close()
        assert found == {
            ".hidden.png": (None, None),
            "@eaDir/a.png": (None, None),
            "notes.txt": (None, "unsupported_format"),
            "raw": (None, None),
        }


def test_what_is_ignored_has_a_reason(tmp_path: Path) -> None:
    members = {
        ".hidden.png": picture(1),
        "@eaDir/a.png": picture(2),
        "notes.txt": b"text",
        "drawing": b"<svg xmlns='x'/>",
    }
    settings = Settings(data_dir=tmp_path)
    storage = Storage(settings)
    storage.write("zip", [_zip(members)], 1 << 30)
    source = sources.open_source({"type": "upload", "upload_id": "zip", "path": "zip"}, storage, settings)
    reasons = {entry.key: entry.ignored for entry in entries_of(source)}
    source.close()
    assert "hidden" in (reasons[".hidden.png"] or "")
    assert "left out" in (reasons["@eaDir/a.png"] or "")
    assert "a text" in (reasons["notes.txt"] or "")
    assert reasons["drawing"] is None


def _zip(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return out.getvalue()


def _tar(members: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()
