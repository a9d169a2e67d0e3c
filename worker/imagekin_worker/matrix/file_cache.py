"""The folder of matrix files, one for each collection and view, and of lists of nearest rows, under a disk budget.

It may be emptied at any time.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import sqlalchemy as sa
import structlog
from sqlalchemy.orm import Session

from imagekin.database import sql, tables
from imagekin.enums import ViewName
from imagekin.settings import Settings
from imagekin_worker.matrix import file, list_file
from imagekin_worker.matrix.file import Damaged, Label, MatrixFile, Writer

log = structlog.get_logger()

SUFFIX = ".matrix"
# What is kept until the budget is spent.
KEPT = (SUFFIX, list_file.SUFFIX)
# What a writer that died left behind; one that lives writes to its file more often.
ABANDONED_S = 3600.0


class MatrixCache:
    """The files below `folder`, at most `budget_bytes`; several processes of a machine may share it."""

    def __init__(self, folder: Path, budget_bytes: int) -> None:
        self.folder = folder
        self._budget_bytes = budget_bytes

    @classmethod
    def of(cls, settings: Settings) -> MatrixCache:
        """Return this machine's cache of files."""
        return cls(settings.cache_folder / "matrices", settings.matrix_cache_bytes)

    def open(self, label: Label) -> MatrixFile | None:
        """Return a collection's file, None if it is missing or damaged; a damaged one is removed."""
        path = self._path(label)
        try:
            file = MatrixFile(path, label)
        except FileNotFoundError:
            return None
        except Damaged as damage:
            self.damaged(label, damage)
            return None
        except OSError as error:
            # SQL has it all: a folder that cannot be read costs time, no search
            log.warning("matrix_file_unreadable", collection_id=label.collection_id, reason=str(error))
            return None
        # the oldest are those that were not opened for longest
        with suppress(OSError):
            os.utime(path)
        return file

    def damaged(self, label: Label, damage: Damaged) -> None:
        """Remove a file that does not match its checksums."""
        log.warning("matrix_file_damaged", collection_id=label.collection_id, reason=str(damage))
        self.remove(label)

    def remove(self, label: Label) -> None:
        """Remove a collection's file; a process that has it open can still read it."""
        self._path(label).unlink(missing_ok=True)

    def writer(self, label: Label) -> Writer:
        """Return a writer of a collection's next file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Writer(self._path(label), label)

    def revision(self, label: Label) -> int:
        """Return the revision of a collection's file, -1 if it has no file."""
        return file.revision_of(self._path(label))

    @contextmanager
    def turn(self, label: Label, *, wait: bool) -> Iterator[bool]:
        """Hold the right to write a collection's file; with `wait`, wait for it, else return whether it was free.

        It only saves work: if two processes write after all, each renames a complete file.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._path(label).with_suffix(".lock").open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
            else:
                yield True

    def nearest(self, collection_id: str, view: str) -> Path:
        """Return the path of the lists of nearest rows of a collection in a view (see list_file)."""
        return self.folder / f"{collection_id}.{view}{list_file.SUFFIX}"

    def prune(self, living: Callable[[Iterable[str]], set[str]]) -> int:
        """Remove files of collections that are not among the `living`, then the oldest past the budget.

        Return how many of both kinds went.
        """
        removed = 0
        files = self._files()
        alive = living({_collection(path) for path in files})
        kept: list[tuple[float, int, Path]] = []
        for path, about in files.items():
            abandoned = path.suffix == ".part" and time.time() - about.st_mtime > ABANDONED_S
            if abandoned or (path.suffix != ".part" and _collection(path) not in alive):
                path.unlink(missing_ok=True)
                removed += path.suffix in KEPT
            elif path.suffix in KEPT:
                kept.append((about.st_mtime, about.st_size, path))
        total = sum(size for _, size, _ in kept)
        # the newest stays, whatever its size: it is in use
        for _, size, path in sorted(kept)[: -1 if self._budget_bytes else None]:
            if total <= self._budget_bytes:
                break
            path.unlink(missing_ok=True)
            total -= size
            removed += 1
        return removed

    def _path(self, label: Label) -> Path:
        view = "" if label.view == ViewName.RAW else f".{label.view}"
        return self.folder / f"{label.collection_id}.{label.space_id}{view}{SUFFIX}"

    def _files(self) -> dict[Path, os.stat_result]:
        found = {}
        with suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError):
                    if path.suffix in (*KEPT, ".lock", ".part"):
                        found[path] = path.stat()
        return found


def living(session: Session, ids: Iterable[str]) -> set[str]:
    """Return which of the collections are not deleted."""
    found: set[str] = set()
    for some in sql.batches(sorted(ids)):
        query = sa.select(tables.Collection.id).where(
            tables.Collection.id.in_(some), tables.Collection.deleted_at.is_(None)
        )
        found.update(session.scalars(query))
    return found


def _collection(path: Path) -> str:
    return path.name.lstrip(".").split(".", 1)[0]
