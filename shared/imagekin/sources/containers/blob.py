"""Reading a stored file at any place, from several threads at once."""

from __future__ import annotations

import errno
import io
import os
import threading
from collections.abc import Callable
from typing import BinaryIO

from imagekin import errors


class Blob:
    """A stored file whose size is known; local files are read by position, others through a file per thread."""

    def __init__(self, opener: Callable[[], BinaryIO]) -> None:
        self._opener = opener
        self._local = threading.local()
        self._lock = threading.Lock()
        first = opener()
        self._files = [first]
        self._local.file = first
        self._descriptor = _descriptor(first)
        self.size = first.seek(0, io.SEEK_END)

    def read_at(self, offset: int, length: int) -> bytes:
        """Return `length` bytes from `offset` on, fewer at the end; raises UploadExpired or Unavailable."""
        length = min(length, self.size - offset)
        if offset < 0 or length <= 0:
            return b""
        try:
            return self._read(offset, length)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ESTALE):
                raise errors.UploadExpired from error
            raise errors.Unavailable(f"The storage failed: {error.strerror or type(error).__name__}.") from error

    def close(self) -> None:
        """Close the file in all threads that read it."""
        with self._lock:
            for file in self._files:
                file.close()
            self._files.clear()

    def _read(self, offset: int, length: int) -> bytes:
        if self._descriptor is None:
            file = self._file()
            file.seek(offset)
            return file.read(length)
        data = os.pread(self._descriptor, length, offset)
        while len(data) < length and (more := os.pread(self._descriptor, length - len(data), offset + len(data))):
            data += more
        return data

    def _file(self) -> BinaryIO:
        file = getattr(self._local, "file", None)
        if file is None:
            file = self._local.file = self._opener()
            with self._lock:
                self._files.append(file)
        return file


def _descriptor(file: BinaryIO) -> int | None:
    try:
        return file.fileno() if hasattr(os, "pread") else None
    except (AttributeError, OSError):
        return None
