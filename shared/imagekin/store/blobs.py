"""Blobs: the vectors and thumbnails of segments, in their rows or, with IMAGEKIN_BLOB_URL, in object storage.

A row whose `blob` is set has its bytes in the storage, under that id; of one whose `blob` is null they are its `data`.
An id is used for one writing only, so that nothing late (a removal, a second attempt) meets another's bytes. A blob
never changes. `loose_blobs` has a row for each id under which something may lie there that no row names: from before it
is written until it is named, and from when its segment goes, or moves to the database, until the sweep has removed it.
"""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import sqlalchemy as sa
from fsspec.asyn import AsyncFileSystem
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql
from imagekin.database.engine import Database
from imagekin.database.tables import LOOSE_BLOBS, SEGMENTS
from imagekin.settings import Settings, local_path

# botocore would wait for a minute five times, and s3fs try each of these again five times: that is half an hour.
# So it is two minutes until another worker may have the chunk, or a reader hears of it.
S3: dict[str, Any] = {
    "config_kwargs": {
        "connect_timeout": 5, "read_timeout": 20, "retries": {"mode": "standard", "total_max_attempts": 3},
    },
    "use_listings_cache": False,
}  # fmt: skip
S3FS_TRIES = 2
# Who asks whether the service is ready does not wait for long.
TRY_S = 5.0
_PART_SUFFIX = ".part"
GONE = "A blob is not where its row says it is: run `imagekin doctor`, and see IMAGEKIN_BLOB_URL."
NO_BUCKET = "The storage of blobs is not there: make the bucket that IMAGEKIN_BLOB_URL names."


class Kind(StrEnum):
    """Which of a segment's two blobs; the folder that it lies in."""

    VECTORS = "vectors"
    THUMBNAILS = "thumbnails"


class Stored(NamedTuple):
    """Something that lies in the storage where blobs do, as a rule under the id of one, and its age."""

    path: str
    size: int
    age_s: float

    @property
    def name(self) -> str:
        """The last part of its path."""
        return self.path.rpartition("/")[2]

    @property
    def is_blob(self) -> bool:
        """Whether its name is an id."""
        return re.fullmatch(r"[0-9a-f]{32}", self.name) is not None

    @property
    def is_unfinished(self) -> bool:
        """Whether it is a file that was being written."""
        return self.name.startswith(".") and self.name.endswith(_PART_SUFFIX)


class Part(NamedTuple):
    """Bytes `start` to `end` of a blob, in the storage if `blob` is its id there, else in its row."""

    blob: str | None
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes these are."""
        return self.end - self.start


class Blobs:
    """The storage of blobs, a local folder or behind any other fsspec URL. May be shared between threads.

    Where it is `read_only`, what is written from now on goes into the database.
    """

    def __init__(self, url: str, *, read_only: bool = False) -> None:
        self.read_only = read_only
        folder = local_path(url) if "://" in url else url
        self._folder = None if folder is None else Path(folder).resolve()
        is_s3 = url.partition("://")[0].lower() in ("s3", "s3a")
        options = S3 if is_s3 else {}
        fs, root = (fsspec.filesystem("file"), str(self._folder)) if folder else fsspec.url_to_fs(url, **options)
        self._fs: Any = fs
        if is_s3:
            self._fs.retries = S3FS_TRIES
        self._root = str(root).rstrip("/")

    @classmethod
    def of(cls, settings: Settings) -> Blobs | None:
        """Return the storage that the settings name, None if blobs stay in the database."""
        return cls(settings.blob_url, read_only=settings.blob_read_only) if settings.blob_url else None

    def put(self, blobs: Mapping[tuple[Kind, str], bytes]) -> None:
        """Write blobs by kind and id, all at once, each as a whole and so that it lasts.

        Raises Unavailable, after which they may be there or not.
        """
        written = {self._path(kind, id): data for (kind, id), data in blobs.items()}
        with _failures(NO_BUCKET):
            if self._folder is None:
                self._fs.pipe(written)
            else:
                for path, data in written.items():
                    _write_file(Path(path), data)

    def get(self, kind: Kind, ids: Sequence[str]) -> list[bytes]:
        """Return whole blobs, read at once. Raises Unavailable."""
        with _failures():
            paths = [self._path(kind, id) for id in ids]
            if len(paths) == 1:
                return [self._fs.cat_file(paths[0])]
            found = self._fs.cat(paths, recursive=False)
            return [found[path] for path in paths]

    def parts(self, kind: Kind, wanted: Sequence[Part]) -> list[bytes]:
        """Return parts of blobs, read at once. Raises Unavailable."""
        paths = [self._path(kind, part.blob or "") for part in wanted]
        with _failures():
            if len(paths) == 1:
                return [self._fs.cat_file(paths[0], start=wanted[0].start, end=wanted[0].end)]
            starts, ends = [part.start for part in wanted], [part.end for part in wanted]
            return self._fs.cat_ranges(paths, starts, ends, on_error="raise")

    def size(self, kind: Kind, id: str) -> int | None:
        """Return a blob's bytes, None if it is not there. Raises Unavailable."""
        with _failures():
            try:
                return int(self._fs.info(self._path(kind, id))["size"])
            except FileNotFoundError:
                return None

    def remove(self, id: str) -> None:
        """Remove what is there under an id; nothing happens where it is not there. Raises Unavailable."""
        with _failures():
            for kind in Kind:
                path = self._path(kind, id)
                with suppress(FileNotFoundError):
                    self._fs.rm_file(path)
                if self._folder is not None:
                    # of a process that was killed while it wrote
                    for part in Path(path).parent.glob(f".{id}.*{_PART_SUFFIX}"):
                        part.unlink(missing_ok=True)

    def try_out(self) -> None:
        """Write something where no blob lies, and remove it; each takes TRY_S at most. Raises Unavailable."""
        path = f"{self._root}/ready/{uuid.uuid4().hex}"
        limit: dict[str, Any] = {"timeout": TRY_S} if isinstance(self._fs, AsyncFileSystem) else {}
        with _failures(NO_BUCKET):
            if self._folder is None:
                self._fs.pipe_file(path, b"ready", **limit)
            else:
                _write_file(Path(path), b"ready")
            self._fs.rm_file(path, **limit)

    def listing(self) -> Iterator[list[Stored]]:
        """Yield what is there, a folder at a time: 1/256 of a kind. Raises Unavailable."""
        for kind in Kind:
            for folder in self._entries(f"{self._root}/{kind}", "directory"):
                found = self._entries(folder["name"], "file")
                yield [Stored(one["name"], one["size"] or 0, self._age_s(one)) for one in found]

    def there(self, path: str) -> bool:
        """Return whether something is there by its path, as `listing` tells it. Raises Unavailable."""
        with _failures():
            return bool(self._fs.exists(path))

    def discard(self, path: str) -> None:
        """Remove something by its path, as `listing` tells it. Raises Unavailable."""
        with _failures(), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def _entries(self, folder: str, type: str) -> list[dict[str, Any]]:
        with _failures():
            try:
                return [one for one in self._fs.ls(folder, detail=True) if one["type"] == type]
            except FileNotFoundError:
                return []

    def _age_s(self, found: dict[str, Any]) -> float:
        written = found.get("LastModified") or found.get("mtime") or self._fs.modified(found["name"])
        return time.time() - (written.timestamp() if isinstance(written, datetime) else written)

    def _path(self, kind: Kind, id: str) -> str:
        # the last digits are random: folders stay small, and a storage that divides by names divides evenly
        return f"{self._root}/{kind}/{id[-2:]}/{id}"


def _write_file(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}{_PART_SUFFIX}")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            # the name lasts as well, before a row says that it is there
            os.fsync(folder)
        finally:
            os.close(folder)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


@contextmanager
def _failures(missing: str = GONE) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise errors.Unavailable(missing) from error
    except Exception as error:
        # each file system has errors of its own
        raise errors.Unavailable(f"The storage of blobs failed: {type(error).__name__}.") from error


def of(session: Session) -> Blobs | None:
    """Return the storage that the session's database keeps blobs in, None if they stay in their rows."""
    return session.info.get("blobs")


def writable(database: Database) -> Blobs | None:
    """Return the storage that blobs are written into, None if they are written into the database."""
    storage = database.blobs
    return storage if isinstance(storage, Blobs) and not storage.read_only else None


def whole(session: Session, kind: Kind, rows: Sequence[tuple[str | None, bytes]]) -> list[bytes]:
    """Return blobs, given as (`blob`, `data`) of their rows, those in the storage read at once. Raises Unavailable."""
    absent = [blob for blob, _ in rows if blob is not None]
    read = dict(zip(absent, _needed(session).get(kind, absent), strict=True)) if absent else {}
    return [data if blob is None else read[blob] for blob, data in rows]


def parts(session: Session, kind: Kind, rows: Sequence[tuple[Part, bytes]]) -> list[bytes]:
    """Return parts of blobs, given with what their rows have of them, those in the storage read at once.

    None of the parts may be empty. Raises Unavailable.
    """
    absent = list(dict.fromkeys(part for part, _ in rows if part.blob is not None))
    read = dict(zip(absent, _needed(session).parts(kind, absent), strict=True)) if absent else {}
    return [data if part.blob is None else read[part] for part, data in rows]


def _needed(session: Session) -> Blobs:
    storage = of(session)
    if storage is None:
        raise errors.Unavailable(
            "The vectors of some images lie in object storage, and IMAGEKIN_BLOB_URL does not say where."
        )
    return storage


def announce(session: Session, *ids: str) -> None:
    """Announce blobs that are about to be written into the storage; commit before they are."""
    session.execute(sa.insert(LOOSE_BLOBS), [{"id": id} for id in ids])


def name(session: Session, id: str) -> bool:
    """End the announcement, as rows name the blobs now; return whether they are still there."""
    mine = sa.delete(LOOSE_BLOBS).where(LOOSE_BLOBS.c.id == id, LOOSE_BLOBS.c.removing.is_(False))
    return session.scalar(mine.returning(LOOSE_BLOBS.c.id)) is not None


def unname(session: Session, segment_ids: Sequence[str]) -> None:
    """Hand what segments have in the storage over to the sweep, since their rows are about to go.

    It does not remove it at once: readers that began before the commit continue.
    """
    outside = sa.select(SEGMENTS.c.blob).where(SEGMENTS.c.id.in_(segment_ids), SEGMENTS.c.blob.is_not(None))
    insert = sql.insert(session, LOOSE_BLOBS).from_select(["id"], outside)
    session.execute(insert.on_conflict_do_nothing())


def release(session: Session, id: str) -> None:
    """Hand a blob over to the sweep, as its row is about to name it no more."""
    session.execute(sql.insert(session, LOOSE_BLOBS).values(id=id).on_conflict_do_nothing())


def begin_removing(session: Session, older_than_s: float, limit: int) -> list[str]:
    """Return ids of blobs that no row names, and none will from now on."""
    old = sa.or_(LOOSE_BLOBS.c.since < sql.clock() - older_than_s, LOOSE_BLOBS.c.removing)
    ids = session.scalars(sa.select(LOOSE_BLOBS.c.id).where(old).limit(limit)).all()
    mine = sa.update(LOOSE_BLOBS).where(LOOSE_BLOBS.c.id.in_(ids)).values(removing=True)
    return list(session.scalars(mine.returning(LOOSE_BLOBS.c.id)))


def unknown(session: Session, ids: Sequence[str]) -> set[str]:
    """Return those ids that neither a segment's row names nor `loose_blobs` has."""
    known = [sa.select(column).where(column.in_(ids)) for column in (SEGMENTS.c.blob, LOOSE_BLOBS.c.id)]
    return set(ids).difference(*(session.scalars(query) for query in known))


def end_removing(session: Session, ids: Sequence[str]) -> None:
    """Forget blobs that are removed."""
    session.execute(sa.delete(LOOSE_BLOBS).where(LOOSE_BLOBS.c.id.in_(ids)))
