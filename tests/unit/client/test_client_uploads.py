"""Folders as the tars that the client uploads."""

from __future__ import annotations

import io
import tarfile
import tracemalloc
from pathlib import Path

import pytest

from imagekin.client import Client, uploads
from kit.fake_server import PNG, FakeServer, unpack


def test_a_folder_is_uploaded(server: FakeServer, client: Client, photos: Path) -> None:
    seen: list[tuple[int, int, int]] = []
    client.embed(photos, "c", on_upload=lambda sending: seen.append((sending.files, sending.size, sending.sent_bytes)))
    body = server.posts("/v1/uploads")[0].body
    assert unpack(body) == {
        "b.JPG": b"\xff\xd8\xff b",
        "caf\u00e9.png": PNG,
        "nameless": PNG,
        "sub/a.png": b"a" * 1000,
    }
    assert seen[0] == (4, 5 + 2 * len(PNG) + 1000, 0)
    assert seen[-1] == (4, 5 + 2 * len(PNG) + 1000, len(body))
    in_place, uploaded = server.posts("/v1/jobs/embed")
    assert in_place.json["source"] == {"type": "folder", "path": str(photos.resolve())}
    assert uploaded.json["source"] == {"type": "upload", "upload_id": "u1", "named": True}


def test_the_same_folder_makes_the_same_bytes(photos: Path) -> None:
    def pack() -> bytes:
        return b"".join(uploads.tar(uploads.Folder(photos)))

    before = pack()
    (photos / "b.JPG").touch()
    assert pack() == before


def test_a_file_that_cannot_be_read_stays_in_the_ledger(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = list(uploads.Folder(photos))
    (photos / "b.JPG").unlink()
    assert unpack(b"".join(uploads.tar(files)))["b.JPG"] == b""
    assert "b.JPG" in caplog.text


def test_a_folder_below_that_cannot_be_read_is_left_out_with_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.png", "closed/b.png", "open/c.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(PNG)
    folder, closed = uploads.Folder(tmp_path), tmp_path / "closed"
    for _ in range(2):
        walk = iter(folder)
        found = [next(walk).key]
        # what root may read, too, cannot be read once it is no folder any more
        closed.rename(tmp_path / ".elsewhere")
        closed.touch()
        found += [file.key for file in walk]
        assert found == ["a.png", "open/c.png"]
        closed.unlink()
        (tmp_path / ".elsewhere").rename(closed)
    assert [str(closed) in record.getMessage() for record in caplog.records] == [True]
    with pytest.raises(FileNotFoundError):
        list(uploads.Folder(tmp_path / "nothing"))


def test_memory_does_not_grow_with_the_pictures(tmp_path: Path) -> None:
    for number in range(40):
        (tmp_path / f"{number}.png").write_bytes(bytes(1 << 20))
    tracemalloc.start()
    try:
        size = sum(len(piece) for piece in uploads.tar(uploads.Folder(tmp_path)))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert size > 40 << 20
    assert peak < 2 << 20


def test_long_and_foreign_keys_survive_the_tar(tmp_path: Path) -> None:
    name = "ü" * 60 + ".png"
    folder = tmp_path / ("d" * 90) / ("e" * 90)
    folder.mkdir(parents=True)
    (folder / name).write_bytes(PNG)
    body = b"".join(uploads.tar(uploads.Folder(tmp_path)))
    assert set(unpack(body)) == {f"{'d' * 90}/{'e' * 90}/{name}"}
    assert tarfile.is_tarfile(io.BytesIO(body))
