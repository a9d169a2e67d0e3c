"""Pictures on their way out: folders and lists as one tar stream, whose memory does not grow with their number.

A tar has no directory at its end, so it can be written and forgotten file by file; times and owners are left out,
so that the same pictures make the same bytes, and the service finds the same job for them.
"""

from __future__ import annotations

import logging
import os
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from imagekin import errors, formats
from imagekin.client.bodies import CHUNK_BYTES

_log = logging.getLogger("imagekin")


@dataclass(frozen=True, slots=True)
class File:
    key: str
    path: Path


@dataclass(frozen=True)
class Folder:
    """The pictures below a folder, sorted, keyed by their paths below it; hidden ones are left out."""

    path: Path
    prefix: str = ""

    def __iter__(self) -> Iterator[File]:
        folders = [(self.path, self.prefix)]
        while folders:
            folder, prefix = folders.pop()
            with os.scandir(folder) as entries:
                found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            for entry in found:
                if entry.is_file() and looks_like_image(Path(entry.path)):
                    yield File(_key(prefix + entry.name), Path(entry.path))
            # Links to folders are not followed: they may lead back up.
            below = [entry for entry in found if entry.is_dir(follow_symlinks=False)]
            folders += [(Path(entry.path), f"{prefix}{entry.name}/") for entry in reversed(below)]


@dataclass(frozen=True)
class Listing:
    """Named files, keyed by file name, or by the path below their common folder where names are not enough."""

    paths: Sequence[Path]

    def __iter__(self) -> Iterator[File]:
        names = Counter(path.name for path in self.paths)
        if len(names) == len(self.paths):
            base = None
        else:
            base = Path(os.path.commonpath([path.absolute().parent for path in self.paths]))
        for path in self.paths:
            name = path.name if base is None else path.absolute().relative_to(base).as_posix()
            if path.is_dir():
                yield from Folder(path, f"{name}/")
            else:
                yield File(_key(name), path)


def measure(files: Iterable[File]) -> tuple[int, int]:
    """Count files and their bytes; raises `EmptySource` when there is none."""
    count = size = 0
    for file in files:
        count += 1
        size += file.path.stat().st_size
    if not count:
        raise errors.EmptySource("There is no picture in the source; nothing was sent.")
    return count, size


def looks_like_image(path: Path) -> bool:
    """Tell whether a file is an image by suffix, or by its first bytes; the service decides on all of it."""
    if formats.named_like_image(path.name):
        return True
    try:
        with path.open("rb") as file:
            return formats.looks_like_image(file.read(formats.HEAD_BYTES))
    except OSError:
        return False


def tar(files: Iterable[File]) -> Iterator[bytes]:
    """Write a tar (POSIX.1-2001) of the files' contents, piece by piece."""
    for file in files:
        yield from _member(file)
    yield bytes(2 * tarfile.BLOCKSIZE)


def _member(file: File) -> Iterator[bytes]:
    try:
        opened = file.path.open("rb")
    except OSError as error:
        # An empty member keeps the picture in the job's ledger, as failed, where leaving it out would hide it.
        _log.warning("%s cannot be read (%s); it goes as an empty file", file.path, error.strerror)
        yield _header(file.key, 0)
        return
    with opened:
        left = os.fstat(opened.fileno()).st_size
        yield _header(file.key, left)
        padding = -left % tarfile.BLOCKSIZE
        while left:
            chunk = opened.read(min(CHUNK_BYTES, left))
            if not chunk:
                raise errors.SourceUnreadable(f"{file.path} became shorter while it was being read.")
            left -= len(chunk)
            yield chunk
    yield bytes(padding)


def _header(key: str, size: int) -> bytes:
    info = tarfile.TarInfo(key)
    info.size = size
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", name)
