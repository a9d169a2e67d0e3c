"""Pictures on their way out: folders and lists as one tar stream, whose memory does not grow with their number.

A tar has no directory at its end, so it can be written and forgotten file by file; times and owners are left out,
so that the same pictures make the same bytes, and the service finds the same job for them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from imagekin import archive_kinds, errors, formats, schemas
from imagekin.client.bodies import CHUNK_BYTES
from imagekin.left_out import LeftOut, of_environment
from imagekin.schemas import keys

# What an interrupted upload loses at most, and what the server is asked about at once.
PART_BYTES = 256 << 20
PART_FILES = schemas.MAX_CONTENTS
# Hashing leaves the interpreter's lock, so that threads keep up with a fast disk.
HASHERS = 4

_log = logging.getLogger("imagekin")


@dataclass(frozen=True, slots=True)
class File:
    key: str
    path: Path


@dataclass(frozen=True)
class Folder:
    """The pictures below a folder, sorted, keyed by their paths below it; hidden ones are left out.

    Folders below it that cannot be read are left out, too, with a warning for each.
    """

    path: Path
    prefix: str = ""
    exclude: Sequence[str] = ()
    # a folder is walked more than once
    warned: set[Path] = field(default_factory=set, compare=False, repr=False)
    # the first that were met, by their paths below the folder
    archives: list[str] = field(default_factory=list, compare=False, repr=False)

    def __iter__(self) -> Iterator[File]:
        left_out = LeftOut((*of_environment(), *self.exclude))
        folders = [(self.path, self.prefix)]
        while folders:
            folder, prefix = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    found = sorted((entry for entry in entries if entry.name[0] != "."), key=lambda entry: entry.name)
            except OSError as error:
                if folder == self.path:
                    raise
                self._warn(folder, error)
                continue
            inside = prefix.removeprefix(self.prefix)
            found = [entry for entry in found if not left_out.path(_key(inside + entry.name))]
            for entry in found:
                if entry.is_file() and self._is_picture(Path(entry.path), inside + entry.name):
                    yield File(_key(prefix + entry.name), Path(entry.path))
            # Links to folders are not followed: they may lead back up.
            below = [entry for entry in found if entry.is_dir(follow_symlinks=False)]
            folders += [(Path(entry.path), f"{prefix}{entry.name}/") for entry in reversed(below)]

    def _is_picture(self, path: Path, name: str) -> bool:
        """Return whether a file is an image by suffix, or by its first bytes; the service decides on all of it."""
        if formats.named_like_image(path.name):
            return True
        head = _head(path)
        if formats.looks_like_image(head):
            return True
        found = len(self.archives) < archive_kinds.NAMED and archive_kinds.looks_like_archive(name, head)
        if found and _key(name) not in self.archives:
            self.archives.append(_key(name))
        return False

    def _warn(self, folder: Path, error: OSError) -> None:
        if folder not in self.warned:
            self.warned.add(folder)
            _log.warning("%s cannot be read (%s); what is in it is left out", folder, error.strerror)


@dataclass(frozen=True)
class Listing:
    """Named files, keyed by file name, or by the path below their common folder where names are not enough."""

    paths: Sequence[Path]
    exclude: Sequence[str] = ()
    warned: set[Path] = field(default_factory=set, compare=False, repr=False)
    archives: list[str] = field(default_factory=list, compare=False, repr=False)

    def __iter__(self) -> Iterator[File]:
        names = Counter(path.name for path in self.paths)
        if len(names) == len(self.paths):
            base = None
        else:
            base = Path(os.path.commonpath([path.absolute().parent for path in self.paths]))
        for path in self.paths:
            name = path.name if base is None else path.absolute().relative_to(base).as_posix()
            if path.is_dir():
                yield from Folder(path, f"{name}/", self.exclude, self.warned, self.archives)
            else:
                yield File(_key(name), path)


def no_picture(files: Folder | Listing) -> errors.EmptySource:
    """Build the error of a source in which no picture was found."""
    if not files.archives:
        return errors.EmptySource("There is no picture in the source; nothing was sent.")
    told = archive_kinds.only_archives("The source", files.archives, "embed each of them by itself")
    return errors.EmptySource(f"{told} Nothing was sent.")


def measure(files: Folder | Listing) -> tuple[int, int]:
    """Count files and their bytes; raises `EmptySource` without files."""
    count = size = 0
    for file in files:
        count += 1
        size += size_of(file)
    if not count:
        raise no_picture(files)
    return count, size


@dataclass(frozen=True, slots=True)
class Hashed:
    """A file with its size and the SHA-256 of its content, None if it cannot be read."""

    file: File
    size: int
    content_hash: str | None


def parts(files: Iterable[File]) -> Generator[list[Hashed]]:
    """Yield the files, hashed, in runs of bounded size; a run is hashed while its predecessor is being used."""
    with ThreadPoolExecutor(HASHERS, thread_name_prefix="hash") as pool:
        try:
            before: Iterator[Hashed] | None = None
            for run in _runs(files):
                after = pool.map(_hashed, *zip(*run, strict=True))
                if before is not None:
                    yield list(before)
                before = after
            if before is not None:
                yield list(before)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _runs(files: Iterable[File]) -> Iterator[list[tuple[File, int]]]:
    run: list[tuple[File, int]] = []
    total = 0
    for file in files:
        size = size_of(file)
        if run and (total + size > PART_BYTES or len(run) == PART_FILES):
            yield run
            run, total = [], 0
        run.append((file, size))
        total += size
    if run:
        yield run


def size_of(file: File) -> int:
    try:
        return file.path.stat().st_size
    except OSError:
        return 0


def _hashed(file: File, size: int) -> Hashed:
    try:
        with file.path.open("rb") as opened:
            return Hashed(file, size, hashlib.file_digest(opened, "sha256").hexdigest())
    except OSError:
        return Hashed(file, size, None)


def _head(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(formats.HEAD_BYTES)
    except OSError:
        return b""


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
    return unicodedata.normalize("NFC", keys.of_bytes(os.fsencode(name)))
