"""The same thing asked for by several commands at once: all succeed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from PIL import Image

from imagekin import Client
from imagekin.stack import Stack

COMMAND = [sys.executable, "-c", "from imagekin.cli import main; main()"]
AT_ONCE = 4


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


def test_tables_and_keys_from_several_commands(tmp_path: Path) -> None:
    data = str(tmp_path / "data")
    done = at_once(*[["db", "upgrade"]] * AT_ONCE, IMAGEKIN_DATA_DIR=data)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
    done = at_once(*[["keys", "create", f"owner-{n}"] for n in range(AT_ONCE)], IMAGEKIN_DATA_DIR=data)
    assert [code for code, _ in done] == [0] * AT_ONCE, done
