"""The lock on a data folder: one stack at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from imagekin.stack.errors import FolderInUse


class FolderLock:
    """An flock on a file that names its holder; the kernel drops it with the process, however that ends."""

    def __init__(self, path: Path, folder: Path) -> None:
        self._path = path
        self._folder = folder
        self._file: int | None = None

    def acquire(self) -> None:
        """Take the lock; raises FolderInUse with the holder's pid and URL."""
        file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 4096, 0).decode() or "another process"
            os.close(file)
            raise FolderInUse(f"{self._folder} is in use by {holder}; use that one, or another data folder") from None
        self._file = file
        self.describe("")

    def describe(self, url: str) -> None:
        """Write down the lock's holder and, once it is known, where it serves."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.pwrite(self._file, f"the imagekin with pid {os.getpid()}{url and f' at {url}'}".encode(), 0)

    def release(self) -> None:
        """Let go of the folder; the file stays, since removing it would let two holders in."""
        if self._file is not None:
            os.ftruncate(self._file, 0)
            os.close(self._file)
            self._file = None
