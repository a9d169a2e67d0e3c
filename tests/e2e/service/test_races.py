"""The same thing asked for by several commands at once: all succeed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from imagekin import Client
from imagekin.stack import Stack

COMMAND = [sys.executable, "-c", "from imagekin.cli import main; main()"]
AT_ONCE = 3


def at_once(*arguments: list[str], **environment: str) -> list[tuple[int, str]]:
    """Run commands at the same time, and return how each ended."""
    ran = [
        subprocess.Popen(
            [*COMMAND, *each],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        for each in arguments
    ]
    return [(process.returncode, told) for process in ran if (told := process.communicate(timeout=120)[0]) is not None]


def test_a_new_collection_from_several_commands(service: Stack, client: Client, tmp_path: Path) -> None:
    for number in range(AT_ONCE):
        Image.new("RGB", (32, 32), (60 * number, 10, 90)).save(tmp_path / f"{number}.png")
    commands = [["embed", str(tmp_path / f"{n}.png"), "-c", "race", "--backbone", "fake"] for n in range(AT_ONCE)]
    done = at_once(*commands, IMAGEKIN_URL=service.url)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
    assert sum("New collection race" in told for _, told in done) == 1
    assert client.collection("race").image_count == AT_ONCE


def test_the_same_pictures_from_several_commands(service: Stack, client: Client, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    for number in range(6):
        Image.new("RGB", (32, 32), (40 * number, 90, 20)).save(tmp_path / "pictures" / f"{number}.png")
    for more in ([], ["--upload"]):
        command = ["embed", str(tmp_path / "pictures"), "-c", "same", "--backbone", "fake", *more]
        done = at_once(*[command] * AT_ONCE, IMAGEKIN_URL=service.url)
        assert [code for code, _ in done] == [0] * AT_ONCE, done
    assert client.collection("same").image_count == 6
    assert len({image.key for image in client.images("same")}) == 6


def test_an_export_and_a_deletion_from_several_commands(service: Stack, client: Client, tmp_path: Path) -> None:
    Image.new("RGB", (32, 32), (9, 90, 90)).save(tmp_path / "a.png")
    client.embed(tmp_path / "a.png", collection="deleted-at-once", backbone="fake").wait()
    target = tmp_path / "vectors.npz"
    done = at_once(*[["export", "-c", "deleted-at-once", "-o", str(target)]] * AT_ONCE, IMAGEKIN_URL=service.url)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
    with np.load(target) as vectors:
        assert vectors["keys"].tolist() == ["a.png"]
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".png"] == ["vectors.npz"]
    done = at_once(*[["collections", "delete", "deleted-at-once", "--yes"]] * AT_ONCE, IMAGEKIN_URL=service.url)
    assert sorted(code for code, _ in done) == [0] + [1] * (AT_ONCE - 1), done
    assert not any("Traceback" in told for _, told in done)


def test_tables_and_keys_from_several_commands(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    done = at_once(*[["db", "upgrade"]] * AT_ONCE, IMAGEKIN_DATA_DIR=data)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
    done = at_once(*[["keys", "create", f"owner-{n}"] for n in range(AT_ONCE)], IMAGEKIN_DATA_DIR=data)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
