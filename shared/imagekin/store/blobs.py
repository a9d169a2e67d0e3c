"""Blobs: the vectors and thumbnails of segments, in their rows or, with IMAGEKIN_BLOB_URL, in object storage.

A row whose `data` is empty although its segment has some has its blob in the storage, under a name made of the
segment's id. A blob is written once and never changes. `loose_blobs` has a row for each that may lie there without a
row that names it: from before it is written until it is named, and from when its segment goes until the sweep has
removed it.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import fsspec
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors
from imagekin.database import sql, tables
from imagekin.database.tables import LOOSE_BLOBS
from imagekin.settings import Settings, local_path

# What is given to programs for S3: botocore would wait for a minute, five times over.
_S3 = {"config_kwargs": {"connect_timeout": 5, "read_timeout": 20}, "use_listings_cache": False}
_OPTIONS: Mapping[str, dict[str, Any]] = {"s3": _S3, "s3a": _S3}
_PART_SUFFIX = ".part"


class Kind(StrEnum):
    """Which of a segment's two blobs; the folder that it lies in."""

    VECTORS = "vectors"
    THUMBNAILS = "thumbnails"


class Part(NamedTuple):
    """Bytes `start` to `end` of a segment's blob."""

    segment_id: str
    start: int
    end: int

    @property
    def size(self) -> int:
        """How many bytes these are."""
        return self.end - self.start


class Blobs:
    """The storage of blobs, a local folder or behind any other fsspec URL. May be shared between threads."""

    def __init__(self, url: str) -> None:
        folder = local_path(url) if "://" in url else url
        self._folder = None if folder is None else Path(folder).resolve()
        options = _OPTIONS.get(url.partition("://")[0].lower(), {})
        fs, root = (fsspec.filesystem("file"), str(self._folder)) if folder else fsspec.url_to_fs(url, **options)
        self._fs: Any = fs
        self._root = str(root).rstrip("/")

    @classmethod
    def of(cls, settings: Settings) -> Blobs | None:
        """Return the storage that the settings name, None if blobs stay in the database."""
        return cls(settings.blob_url) if settings.blob_url else None

    def put(self, segment_id: str, blobs: Mapping[Kind, bytes]) -> None:
        """Write a segment's blobs, each as a whole and so that it lasts; an empty one is not written.

        Raises Unavailable, after which they may be there or not.
        """
        written = {self._path(kind, segment_id): data for kind, data in blobs.items() if data}
        with _failures():
            if self._folder is None:
                self._fs.pipe(written)
            else:
                for path, data in written.items():
                    _write_file(Path(path), data)

    def get(self, kind: Kind, segment_ids: Sequence[str]) -> list[bytes]:
        """Return whole blobs, read at once. Raises Unavailable."""
        with _failures():
            paths = [self._path(kind, id) for id in segment_ids]
            if len(paths) == 1:
                return [self._fs.cat_file(paths[0])]
            found = self._fs.cat(paths, recursive=False)
            return [found[path] for path in paths]

    def parts(self, kind: Kind, wanted: Sequence[Part]) -> list[bytes]:
        """Return parts of blobs, read at once. Raises Unavailable."""
        paths = [self._path(kind, part.segment_id) for part in wanted]
        with _failures():
            if len(paths) == 1:
                return [self._fs.cat_file(paths[0], start=wanted[0].start, end=wanted[0].end)]
            starts, ends = [part.start for part in wanted], [part.end for part in wanted]
            return self._fs.cat_ranges(paths, starts, ends, on_error="raise")

    def size(self, kind: Kind, segment_id: str) -> int | None:
        """Return a blob's bytes, None if it is not there. Raises Unavailable."""
        with _failures():
            try:
                return int(self._fs.info(self._path(kind, segment_id))["size"])
            except FileNotFoundError:
                return None

    def remove(self, segment_id: str) -> None:
        """Remove a segment's blobs; nothing happens where they are not there. Raises Unavailable."""
        with _failures():
            for kind in Kind:
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self._path(kind, segment_id))

    def _path(self, kind: Kind, segment_id: str) -> str:
        # the last digits are random: folders stay small, and a storage that divides by names divides evenly
        return f"{self._root}/{kind}/{segment_id[-2:]}/{segment_id}"


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
def _failures() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise errors.Unavailable(
            "A blob is not where its row says it is: run `imagekin doctor`, and see IMAGEKIN_BLOB_URL."
        ) from error
    except Exception as error:
        # each file system has errors of its own
        raise errors.Unavailable(f"The storage of blobs failed: {type(error).__name__}.") from error


def of(session: Session) -> Blobs | None:
    """Return the storage that the session's database keeps blobs in, None if they stay in their rows."""
    return session.info.get("blobs")


def whole(session: Session, kind: Kind, rows: Sequence[tuple[str, bytes]]) -> list[bytes]:
    """Return the blobs of segments, given as (id, `data` of its row), those in the storage read at once.

    None of the blobs may be empty. Raises Unavailable.
    """
    absent = [id for id, data in rows if not data]
    if not absent:
        return [data for _, data in rows]
    read = dict(zip(absent, _needed(session).get(kind, absent), strict=True))
    return [data or read[id] for id, data in rows]


def parts(session: Session, kind: Kind, rows: Sequence[tuple[Part, bytes]]) -> list[bytes]:
    """Return parts of blobs, given with what their rows have of them, those in the storage read at once.

    None of the parts may be empty. Raises Unavailable.
    """
    absent = list(dict.fromkeys(part for part, data in rows if not data))
    if not absent:
        return [data for _, data in rows]
    read = dict(zip(absent, _needed(session).parts(kind, absent), strict=True))
    return [data or read[part] for part, data in rows]


def _needed(session: Session) -> Blobs:
    storage = of(session)
    if storage is None:
        raise errors.Unavailable(
            "The vectors of some images lie in object storage, and IMAGEKIN_BLOB_URL does not say where."
        )
    return storage


def announce(session: Session, segment_id: str) -> None:
    """Announce blobs of a segment that are about to be written into the storage; commit before they are."""
    session.execute(sa.insert(LOOSE_BLOBS), {"segment_id": segment_id})


def name(session: Session, segment_id: str) -> bool:
    """End the announcement, as rows name the blobs now; return whether they are still there."""
    mine = sa.delete(LOOSE_BLOBS).where(LOOSE_BLOBS.c.segment_id == segment_id, LOOSE_BLOBS.c.removing.is_(False))
    return session.scalar(mine.returning(LOOSE_BLOBS.c.segment_id)) is not None


def unname(session: Session, segment_ids: Sequence[str]) -> None:
    """Hand what segments have in the storage over to the sweep, since their rows are about to go.

    It does not remove it at once: readers that began before the commit continue.
    """
    absent = sa.select(tables.Segment.id).where(tables.Segment.id.in_(segment_ids), outside())
    insert = sql.insert(session, LOOSE_BLOBS).from_select(["segment_id"], absent)
    session.execute(insert.on_conflict_do_nothing())


def outside() -> sa.ColumnElement[bool]:
    """Return the condition that a segment's vectors are in the storage."""
    return sa.and_(sa.func.length(tables.Segment.data) == 0, tables.Segment.count > 0)


def begin_removing(session: Session, older_than_s: float, limit: int) -> list[str]:
    """Return segments whose blobs no row names, and none will from now on."""
    old = sa.or_(LOOSE_BLOBS.c.since < sql.clock() - older_than_s, LOOSE_BLOBS.c.removing)
    ids = session.scalars(sa.select(LOOSE_BLOBS.c.segment_id).where(old).limit(limit)).all()
    mine = sa.update(LOOSE_BLOBS).where(LOOSE_BLOBS.c.segment_id.in_(ids)).values(removing=True)
    return list(session.scalars(mine.returning(LOOSE_BLOBS.c.segment_id)))


def end_removing(session: Session, segment_ids: Sequence[str]) -> None:
    """Forget segments whose blobs are removed."""
    session.execute(sa.delete(LOOSE_BLOBS).where(LOOSE_BLOBS.c.segment_id.in_(segment_ids)))
