"""Folders with links that lead out, in circles or nowhere, and with what is no regular file."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from imagekin import errors
from kit.packing import PICTURE, Open, assert_resumable, codes, entries_of


def test_links_in_folders_stay_below_the_roots(tmp_path: Path, open_folder: Open) -> None:
    folder, root = tmp_path / "root" / "in", tmp_path / "root"
    (root / "beside").mkdir()
    (root / "beside" / "b.png").write_bytes(PICTURE)
    (root / "beside" / "deeper").symlink_to(root / "beside", target_is_directory=True)
    (folder / "good.png").write_bytes(PICTURE)
    targets = {
        "file-in.png": folder / "good.png",
        "file-out.png": tmp_path / "outside" / "secret.png",
        "folder-beside": root / "beside",
        "folder-out": tmp_path / "outside",
        "loop": folder,
        "self.png": folder / "self.png",
        "up": root,
        "void.png": folder / "missing.png",
        "zero.png": Path("/dev/zero"),
    }
    for name, target in targets.items():
        (folder / name).symlink_to(target)
    source = open_folder()
    assert codes(source) == [
        ("file-in.png", None),
        ("file-out.png", "ignored"),
        ("folder-beside/b.png", None),
        ("folder-beside/deeper", "ignored"),
        ("folder-out", "ignored"),
        ("good.png", None),
        ("loop", "ignored"),
        ("self.png", "ignored"),
        ("up", "ignored"),
        ("void.png", "ignored"),
        ("zero.png", "ignored"),
    ]
    assert_resumable(source)


def test_a_doubling_chain_of_links_does_not_make_the_walk_endless(tmp_path: Path, open_folder: Open) -> None:
    for level in range(40):
        (tmp_path / "root" / "in" / f"{level}").mkdir()
        (tmp_path / "root" / f"far{level}").mkdir()
        for name in "ab":
            (tmp_path / "root" / "in" / f"{level}" / name).symlink_to(tmp_path / "root" / "in" / f"{level + 1}")
            (tmp_path / "root" / f"far{level}" / name).symlink_to(tmp_path / "root" / f"far{level + 1}")
    (tmp_path / "root" / "in" / "far").symlink_to(tmp_path / "root" / "far0")
    assert len(codes(open_folder())) < 100


def test_fifos_sockets_and_folders_named_as_images_do_not_hang(tmp_path: Path, open_folder: Open) -> None:
    folder = tmp_path / "root" / "in"
    os.mkfifo(folder / "fifo.png")
    os.mkfifo(folder / "no suffix")
    (folder / "folder.png").mkdir()
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(folder)
        try:
            server.bind("socket.png")
        finally:
            os.chdir(here)
        found = [("fifo.png", "ignored"), ("no suffix", "ignored"), ("socket.png", "ignored")]
        assert codes(open_folder()) == found
    with pytest.raises(errors.SourceUnreadable):
        open_folder("in/fifo.png")


def test_what_a_file_is_counts_when_it_is_read(tmp_path: Path, open_folder: Open) -> None:
    folder = tmp_path / "root" / "in"
    (folder / "sub").mkdir()
    for name in ("a.png", "b.png", "c.png", "sub/d.png"):
        (folder / name).write_bytes(PICTURE)
    source = open_folder()
    refs = {entry.key: entry.ref for entry in entries_of(source)}
    (folder / "a.png").unlink()
    (folder / "a.png").symlink_to(tmp_path / "outside" / "secret.png")
    (folder / "b.png").unlink()
    os.mkfifo(folder / "b.png")
    (folder / "c.png").unlink()
    (folder / "c.png").mkdir()
    (folder / "sub").rename(folder / "gone")
    (folder / "sub").symlink_to(tmp_path / "outside")
    (tmp_path / "outside" / "d.png").write_bytes(PICTURE)
    for ref in refs.values():
        with pytest.raises(errors.FetchRefused):
            source.read(ref)
    with pytest.raises(errors.FetchRefused):
        source.read({"p": "../../outside/secret.png"})


def test_a_link_slipped_in_after_the_check_is_not_followed(
    tmp_path: Path, open_folder: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "root" / "in"
    (folder / "secret.png").write_bytes(PICTURE)
    source = open_folder()
    (entry,) = entries_of(source)
    folder.rename(tmp_path / "root" / "moved")
    folder.symlink_to(tmp_path / "outside")
    # As if the path had been resolved just before the folder was swapped for a link.
    monkeypatch.setattr("imagekin.sources.roots.os.path.realpath", lambda path: path)
    with pytest.raises(errors.ItemError):
        source.read(entry.ref)


def test_unreadable_folders_fail_as_one_item(tmp_path: Path, open_folder: Open) -> None:
    closed = tmp_path / "root" / "in" / "closed"
    closed.mkdir()
    closed.chmod(0)
    if os.access(closed, os.R_OK):
        pytest.skip("this user may read everything")
    assert codes(open_folder()) == [("closed", "fetch_failed")]
    closed.chmod(0o700)
