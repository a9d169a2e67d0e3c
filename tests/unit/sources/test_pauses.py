"""Sources in which nothing is found for long: they pause, and go on from each pause as from an entry."""

from __future__ import annotations

import io
import json
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path

import fsspec
import numpy as np
import pytest

from imagekin import sources
from imagekin.settings import Settings
from imagekin.sources import Entry, Pause, Source, vectors
from imagekin.sources.base import Pace
from imagekin.uploads.files import Storage
from kit import s3
from kit.packing import PICTURE, RawZip, member, tarred

GAP = 40


@pytest.fixture(autouse=True)
def always(no_pauses: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sources pause wherever they may."""
    monkeypatch.setattr(Pace, "PAUSE_S", -1.0)


def folders(kind: str) -> bytes:
    """An archive of folders with pictures before and behind them."""
    if kind == "tar":
        empty = [member(f"{n}", b"", type=tarfile.DIRTYPE) for n in range(3000)]
        return tarred(member("a.png"), *empty, member("z.png"))
    archive = RawZip()
    archive.add("a.png")
    for n in range(3000):
        archive.add(f"{n}/", b"")
    archive.add("z.png")
    return archive.bytes()


def npz() -> bytes:
    lines = "".join(f'{{"n": {n}}}{" " * 60_000}\n' for n in range(GAP))
    file = io.BytesIO()
    np.savez(file, space_id="s", keys=np.array([f"k{n}" for n in range(GAP)]), embeddings=np.zeros((GAP, 4), "<f4"))
    with zipfile.ZipFile(file, "a") as archive:
        archive.writestr("metadata.jsonl", lines)
    return file.getvalue()


LISTS = {
    "blank lines": '{"url": "http://a.org/1"}\n' + "\n" * GAP + '{"url": "http://a.org/2"}\n',
    "blank lines of CSV": "url\nhttp://a.org/1\n" + "\n" * GAP + "http://a.org/2\n",
    "rows without values": "url,key\nhttp://a.org/1,\n" + ",\n" * GAP + "http://a.org/2,\n",
}
UPLOADS: dict[str, Callable[[], bytes]] = {
    "folders in a tar": lambda: folders("tar"),
    "folders in a zip": lambda: folders("zip"),
    "a hard link": lambda: tarred(
        *(member(f"{n}.png") for n in range(GAP)), member("z.png", b"", type=tarfile.LNKTYPE, linkname="7.png")
    ),
}


def check(source: Source, pauses: int, *, from_each: bool = True) -> None:
    """Hold a source to have pauses, and to give the same after each of them as after an entry."""
    steps = list(source.entries())
    assert sum(isinstance(step, Pause) for step in steps) >= pauses
    for at, step in enumerate(steps):
        if from_each or at in (0, len(steps) // 2, len(steps) - 1):
            later = source.entries(json.loads(json.dumps(step.cursor)))
            assert found(later) == found(steps[at + 1 :]), at


def found(steps: Iterable[Entry | Pause]) -> list[tuple[str, object]]:
    return [(step.key, step.metadata) for step in steps if isinstance(step, Entry)]


@pytest.mark.parametrize("name", LISTS)
def test_lists_of_nothing(name: str, tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    Storage(settings).write("u", [LISTS[name].encode()], 1 << 20)
    spec = {"type": "manifest", "upload_id": "u", "path": "u"}
    source = sources.open_source(spec, Storage(settings), settings)
    check(source, GAP)
    source.close()


@pytest.mark.parametrize("name", UPLOADS)
def test_archives_of_nothing(name: str, open_upload: Callable[..., Source]) -> None:
    source = open_upload(UPLOADS[name]())
    check(source, GAP, from_each=False)
    source.close()


def test_long_texts_before_a_row(tmp_path: Path) -> None:
    settings = Settings(data_dir=tmp_path)
    Storage(settings).write("u", [npz()], 1 << 30)
    spec = {"type": "vectors", "upload_id": "u", "path": "u", "space_id": "s", "dim": 4}
    source = vectors.open_source(spec, Storage(settings), settings)
    check(source, 5)
    source.close()


def test_folders_without_a_file(open_folder: Callable[..., Source], tmp_path: Path) -> None:
    folder = tmp_path / "root" / "in"
    for n in range(GAP):
        (folder / f"{n:02}" / "deep").mkdir(parents=True)
    (folder / "07" / "a.png").write_bytes(PICTURE)
    (folder / "z.png").write_bytes(PICTURE)
    check(open_folder(), 2 * GAP)


def test_places_without_a_file(tmp_path: Path) -> None:
    fs = fsspec.filesystem("memory")
    for n in range(GAP):
        fs.makedirs(f"/pauses/photos/{n:02}/deep")
    s3.put("memory://pauses/photos", {"07/a.png": PICTURE, "z.png": PICTURE})
    settings = Settings(data_dir=tmp_path, source_roots=("memory://pauses/photos",))
    spec = {"type": "location", "url": "memory://pauses/photos"}
    check(sources.open_source(spec, Storage(settings), settings), GAP)
    fs.rm("/pauses", recursive=True)
