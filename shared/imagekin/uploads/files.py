"""Storage: uploads as files on fsspec, under names that are ours."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import time
import uuid
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

import fsspec

from imagekin import errors
from imagekin.settings import Settings, local_path
from imagekin.uploads import unpack

_PIECE_BYTES = 1 << 20
# Of flat pictures much less is sent than is stored, and below this it does not matter.
_RATIO_FLOOR_BYTES = 64 << 20
_PART_SUFFIX = ".part"
# No part starts with a dot, so no name leaves the storage and none meets an unfinished file.
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*(/[A-Za-z0-9_-][A-Za-z0-9_.-]*)*")
_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
# ESTALE: on a network file system, another machine removed the file.
_GONE = {errno.ENOENT, errno.ESTALE}


class Readable(Protocol):
    """What gives its bytes piece by piece."""

    def read(self, size: int, /) -> bytes: ...


class Writable(Protocol):
    """What takes bytes piece by piece, each as a whole."""

    def write(self, piece: bytes, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Stored:
    """What was written: the sha256 of the bytes as they were sent, and the size in bytes as they are stored."""

    sha256: str
    size: int


class Storage:
    """The files of one deployment, in a local folder or behind any other fsspec URL."""

    def __init__(self, settings: Settings) -> None:
        # Path.as_uri() quotes spaces and the like, which fsspec would take literally
        folder = local_path(settings.storage) if "://" in settings.storage else settings.storage
        fs, root = fsspec.url_to_fs(settings.storage) if folder is None else (fsspec.filesystem("file"), Path(folder))
        self._fs: Any = fs
        self._max_ratio = settings.max_archive_ratio
        self._root = str(root).rstrip("/")

    def write(self, name: str, stream: Readable | Iterable[bytes], max_bytes: int) -> Stored:
        """Write `stream` to `name` as a whole or not at all; a gzipped tar is stored decompressed.

        Raises TooLarge if the stream, as sent or as stored, has more than `max_bytes`, or inflates beyond
        `max_archive_ratio`; BadRequest where gzipped
        data is broken; Unavailable where the storage is full or fails.
        """
        counter = _Counter(_pieces(stream), max_bytes)
        size = 0
        with self._sink(self._path(name)) as sink:
            for piece in unpack.without_gzip(counter):
                size += len(piece)
                if size > max_bytes:
                    raise _too_large(max_bytes)
                if size > _RATIO_FLOOR_BYTES and size > self._max_ratio * counter.size:
                    raise errors.TooLarge(
                        f"The gzipped archive becomes more than {self._max_ratio} times as large; send it unpacked."
                    )
                with _storage_errors():
                    sink.write(piece)
        return Stored(counter.digest.hexdigest(), size)

    def open(self, name: str) -> BinaryIO:
        """Open `name` for reading and seeking.

        Raises UploadExpired if it is gone, Unavailable if the storage fails.
        """
        path = self._path(name)
        with _storage_errors(missing=errors.UploadExpired):
            return cast(BinaryIO, self._fs.open(path, "rb"))

    def exists(self, name: str) -> bool:
        """Return whether `name` is there."""
        path = self._path(name)
        with _storage_errors():
            return bool(self._fs.isfile(path))

    def delete(self, name: str) -> None:
        """Remove `name`; nothing happens where it is not there."""
        path = self._path(name)
        with _storage_errors(), contextlib.suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def files(self, folder: str) -> Iterator[tuple[str, float]]:
        """Yield the name and the age in seconds of each whole file below `folder`."""
        with _storage_errors():
            for path in self._fs.find(self._path(folder)):
                name = path[path.index(self._root) + len(self._root) + 1 :]
                if _NAME.fullmatch(name):
                    with contextlib.suppress(FileNotFoundError):
                        yield name, self._age_s(path)

    def remove_abandoned(self, older_than_s: float) -> int:
        """Remove what killed processes left half written, and return how many files that were."""
        removed = 0
        with _storage_errors():
            for path in self._fs.find(self._root):
                with contextlib.suppress(FileNotFoundError):
                    if path.endswith(_PART_SUFFIX) and self._age_s(path) > older_than_s:
                        self._fs.rm_file(path)
                        removed += 1
        return removed

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise errors.ImagekinError(f"{name!r} is not a name that imagekin gives to a stored file.")
        return f"{self._root}/{name}"

    def _age_s(self, path: str) -> float:
        return time.time() - self._fs.modified(path).timestamp()

    @contextlib.contextmanager
    def _sink(self, path: str) -> Iterator[Writable]:
        """Open `path` for writing; the file gets its name when it is whole, and is removed where it never is."""
        folder, _, name = path.rpartition("/")
        part = f"{folder}/.{name}.{uuid.uuid4().hex}{_PART_SUFFIX}"
        with _storage_errors():
            self._fs.makedirs(folder, exist_ok=True)
            sink = self._fs.open(part, "wb")
        try:
            yield sink
            with _storage_errors():
                sink.close()
                self._fs.mv(part, path)
        except BaseException:
            for clean in (sink.close, lambda: self._fs.rm_file(part)):
                with contextlib.suppress(OSError):
                    clean()
            raise


class _Counter:
    """Pieces of a stream, hashed and counted on their way."""

    def __init__(self, pieces: Iterable[bytes], max_bytes: int) -> None:
        self.digest = hashlib.sha256()
        self.size = 0
        self._pieces = pieces
        self._max_bytes = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.size += len(piece)
            if self.size > self._max_bytes:
                raise _too_large(self._max_bytes)
            self.digest.update(piece)
            yield piece


def _pieces(stream: Readable | Iterable[bytes]) -> Iterable[bytes]:
    if isinstance(stream, Iterable) and not hasattr(stream, "read"):
        return stream
    readable = cast(Readable, stream)
    return iter(lambda: readable.read(_PIECE_BYTES), b"")


@contextlib.contextmanager
def _storage_errors(missing: type[errors.ImagekinError] = errors.Unavailable) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in _GONE or isinstance(error, FileNotFoundError):
            if missing is errors.Unavailable:
                raise errors.Unavailable("The storage is not there; see IMAGEKIN_STORAGE_URL.") from error
            raise missing from error
        if is_full(error):
            raise errors.Unavailable("The storage is full; free some room and try again.") from error
        raise errors.Unavailable(f"The storage failed: {error.strerror or type(error).__name__}.") from error


def is_full(error: OSError) -> bool:
    """Return whether a write failed because the disk is full."""
    return error.errno in _NO_ROOM


def _too_large(max_bytes: int) -> errors.TooLarge:
    return errors.TooLarge(f"The upload is larger than {max_bytes:,} bytes, archives counted as they are after gunzip.")
