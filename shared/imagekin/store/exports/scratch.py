"""What a long export looks things up in: tables in a file without a name, so that memory does not grow with them."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imagekin.store.exports.contents import Described

CANDIDATES = 3
"""How many places an image's picture is looked for at."""


class Scratch:
    """The images of an export, the places where their pictures may be read, and the names that are taken."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=folder) as file:
            # one thread after the other, and the file is gone with its last descriptor
            self._tables = sqlite3.connect(file.name, check_same_thread=False)
            self._tables.executescript(
                """
                PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY;
                CREATE TABLE images (at INTEGER PRIMARY KEY, image TEXT);
                CREATE TABLE places (id TEXT, at INTEGER, job_id TEXT, ref TEXT, PRIMARY KEY (id, at)) WITHOUT ROWID;
                CREATE TABLE left_out (at INTEGER PRIMARY KEY, id TEXT, key TEXT, reason TEXT);
                CREATE TABLE names (name TEXT PRIMARY KEY) WITHOUT ROWID;
                """
            )
        self._placed = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._tables.close()

    def add_images(self, images: Iterable[Described]) -> None:
        """Keep images in their order."""
        rows = ((json.dumps(image),) for image in images)
        self._tables.executemany("INSERT INTO images (image) VALUES (?)", rows)

    def images(self) -> Iterator[Described]:
        """Yield the images in their order."""
        for (text,) in self._tables.execute("SELECT image FROM images ORDER BY at"):
            yield Described(*json.loads(text))

    def add_places(self, places: Iterable[tuple[str, str, Any]]) -> None:
        """Keep for ids of images a job and what its source calls the picture; the first ones are the best."""
        rows = []
        for id, job_id, ref in places:
            self._placed += 1
            rows.append((id, self._placed, job_id, json.dumps(ref)))
        self._tables.executemany("INSERT INTO places VALUES (?, ?, ?, ?)", rows)

    def places(self, image_id: str) -> list[tuple[str, Any]]:
        """Return at most CANDIDATES places of an image, the best first."""
        found = self._tables.execute(
            "SELECT job_id, ref FROM places WHERE id = ? ORDER BY at LIMIT ?", (image_id, CANDIDATES)
        )
        return [(job_id, json.loads(ref)) for job_id, ref in found]

    def leave_out(self, image: Described, reason: str) -> None:
        """Note that an image is not in the export, and why."""
        self._tables.execute("INSERT INTO left_out (id, key, reason) VALUES (?, ?, ?)", (image.id, image.key, reason))

    def left_out(self) -> Iterator[dict[str, str]]:
        """Yield what was left out, as `id`, `key` and `reason`."""
        for row in self._tables.execute("SELECT id, key, reason FROM left_out ORDER BY at"):
            yield dict(zip(("id", "key", "reason"), row, strict=True))

    def take(self, name: str) -> bool:
        """Take a name; return False where it is taken."""
        return self._tables.execute("INSERT OR IGNORE INTO names VALUES (?)", (name,)).rowcount == 1
