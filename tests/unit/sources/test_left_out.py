"""What NAS and systems keep beside pictures, and what a job asks to leave out."""

from __future__ import annotations

from pathlib import Path

import pytest

from imagekin import errors, left_out, sources
from imagekin.client import sources as client_sources
from imagekin.client.uploads import Folder
from imagekin.left_out import LeftOut
from imagekin.settings import Settings
from imagekin.sources import Source
from imagekin.uploads.files import Storage
from kit import s3
from kit.packing import PICTURE, Open, RawZip, codes, entries_of, member, tarred, upload

SYSTEM = (
    "@eaDir/p1.png/SYNOPHOTO_THUMB_M.jpg", "#recycle/old.png", "$RECYCLE.BIN/x.png", "lost+found/y.png",
    "sub/@eaDir/a.png", "sub/@Recycle/b.png", "#Recycle/c.png", "$Recycle.Bin/S-1-5/d.png", "FOUND.000/e.png",
    "System Volume Information/f.png", "@Recently-Snapshot/g.png", "#snapshot/h.png", "RECYCLER/i.png",
)  # fmt: skip
KEPT = ("p1.png", "sub/p2.png", "recycle/j.png", "eaDir.png", "lost and found/k.png", "sub/@home/l.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*SYSTEM, *KEPT):
        path = tmp_path / "in" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(PICTURE)
    return tmp_path / "in"


def opened(folder: Path, exclude: tuple[str, ...] = (), **changes: object) -> Source:
    where = Settings(data_dir=folder.parent / "data", source_roots=(str(folder),), **changes)  # type: ignore[arg-type]
    spec = {"type": "folder", "path": str(folder), "exclude": list(exclude)}
    return sources.open_source(spec, Storage(where), where)


def kept(source: Source) -> set[str]:
    return {key for key, what in codes(source) if what != "ignored"}


def test_folders_of_nas_and_systems_are_left_out(folder: Path) -> None:
    assert kept(opened(folder)) == set(KEPT)
    assert {file.key for file in Folder(folder)} == set(KEPT)


def test_archives_of_such_folders_too(open_upload: Open) -> None:
    archive = RawZip()
    for name in (*SYSTEM, *KEPT):
        archive.add(name)
    assert kept(open_upload(archive.bytes())) == set(KEPT)
    assert kept(open_upload(tarred(*map(member, (*SYSTEM, *KEPT))))) == set(KEPT)


def test_a_setting_takes_the_place_of_the_list(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kept(opened(folder, left_out=())) == {*SYSTEM, *KEPT}
    assert kept(opened(folder, left_out=("sub",))) == {each for each in (*SYSTEM, *KEPT) if not each.startswith("sub/")}
    monkeypatch.setenv(left_out.VARIABLE, " sub , @eaDir ")
    assert Settings(data_dir=tmp_path).left_out == ("sub", "@eaDir") == left_out.of_environment()
    there = {file.key for file in Folder(folder)}
    assert "#recycle/old.png" in there
    assert not any(key.startswith(("sub/", "@eaDir/")) for key in there)
    monkeypatch.setenv(left_out.VARIABLE, "")
    assert Settings(data_dir=tmp_path).left_out == ()


@pytest.mark.parametrize(
    ("patterns", "gone"),
    [
        (("sub",), {"sub/p2.png", "sub/@home/l.png"}),
        (("*.PNG",), set(KEPT)),
        (("p?.png",), {"p1.png", "sub/p2.png"}),
        (("sub/p*",), {"sub/p2.png"}),
        (("sub/@*",), {"sub/@home/l.png"}),
        (("recycle/", "eaDir.png"), {"recycle/j.png", "eaDir.png"}),
        (("*/j.png",), {"recycle/j.png"}),
        (("nothing", "su"), set()),
    ],
)
def test_what_a_job_leaves_out(folder: Path, tmp_path: Path, patterns: tuple[str, ...], gone: set[str]) -> None:
    assert kept(opened(folder, patterns)) == set(KEPT) - gone
    assert {file.key for file in Folder(folder, exclude=patterns)} == set(KEPT) - gone
    upload(tarred(*map(member, KEPT)), tmp_path)
    where = Settings(data_dir=tmp_path)
    spec = {"type": "upload", "upload_id": "u", "path": "u", "exclude": list(patterns)}
    assert kept(sources.open_source(spec, Storage(where), where)) == set(KEPT) - gone


def test_a_walk_goes_on_behind_what_is_left_out(folder: Path) -> None:
    source = opened(folder, ("sub/p*",))
    entries = list(entries_of(source))
    for at, entry in enumerate(entries, 1):
        assert list(entries_of(source, entry.cursor)) == entries[at:]


def test_no_patterns_are_none() -> None:
    assert not LeftOut(()).path("@eaDir/a.png")
    assert not LeftOut(("", "/")).path("a.png")


def test_a_source_of_archives_alone_says_what_to_do(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    for name, data in {"a.zip": b"PK\3\4", "sub/b.tar": b"", "c": b"7z\xbc\xaf\x27\x1c", "d.docx": b"PK\3\4"}.items():
        (folder / name).write_bytes(data + bytes(600))
    told = r"but archives \(a.zip, c, sub/b.tar, …\), .*; send each of them by itself, as a zip, a tar or a tar.gz"
    with pytest.raises(errors.EmptySource, match=f"The folder holds no image {told}"):
        list(entries_of(opened(folder)))
    settings = Settings(data_dir=tmp_path / "data", source_roots=("memory://archives",))
    s3.put("memory://archives", {"a.zip": b"PK\3\4", "b/c.7z": b"7z\xbc\xaf\x27\x1c"})
    location = sources.open_source({"type": "location", "url": "memory://archives"}, Storage(settings), settings)
    with pytest.raises(errors.EmptySource, match=r"The location holds no image but archives \(a.zip, b/c.7z\)"):
        list(entries_of(location))
    for given in (folder, [folder, folder / "sub"]):
        with pytest.raises(errors.EmptySource, match=r"no image but archives .*; embed each of them by itself"):
            client_sources.check(client_sources.resolve(given))
    # with a picture among them it is a source like others
    (folder / "e.png").write_bytes(PICTURE)
    assert kept(opened(folder)) == {"e.png"}
    client_sources.check(client_sources.resolve(folder))


def test_a_folder_of_what_only_extras_read_is_sent(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(40))
    (tmp_path / "in" / "b.JXL").write_bytes(b"")
    client_sources.check(client_sources.resolve(tmp_path / "in"))
    assert [file.key for file in Folder(tmp_path / "in")] == ["a", "b.JXL"]
    assert codes(opened(tmp_path / "in")) == [("a", None), ("b.JXL", "empty_file")]
