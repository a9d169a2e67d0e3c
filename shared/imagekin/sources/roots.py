"""The folders that jobs may read from, and reading below them and nowhere else."""

# Strings throughout: a walk makes no objects for paths, and names that are no Unicode pass through.
# ruff: noqa: PTH111, PTH117

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

from imagekin import errors
from imagekin.settings import Settings, local_path
from imagekin.sources.containers.entry import check_size

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
# Without O_NONBLOCK, opening a fifo waits for somebody to write.
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Roots:
    """The local folders among IMAGEKIN_SOURCE_ROOTS."""

    def __init__(self, settings: Settings) -> None:
        self._named = tuple(folder for root in settings.source_roots if (folder := _local(root)))
        self._roots = tuple(map(os.path.realpath, self._named))

    def allow(self, path: str) -> bool:
        """Return whether `path`, with no link in it, lies below a root or is one."""
        return self._root_of(path) is not None

    def absolute(self, path: str) -> str:
        """Return `path`, a relative one below the only root; raises FetchRefused if there is not just one."""
        if os.path.isabs(path):
            return path
        if len(self._roots) != 1:
            raise errors.FetchRefused("A relative path needs IMAGEKIN_SOURCE_ROOTS with one folder.")
        return f"{self._roots[0]}/{path}"

    def below(self, path: str) -> str:
        """Return the part of `path` below its root, without looking at the disk; all of it without a root."""
        above = (root.rstrip("/") + "/" for root in (*self._named, *self._roots))
        return next((path[len(root) :] for root in above if path.startswith(root)), path)

    def resolve(self, path: str) -> str:
        """Return `path` with its links resolved; raises SourceRefused if that is not below a root."""
        real = os.path.realpath(path)
        if not os.path.isabs(path) or not self.allow(real):
            raise errors.SourceRefused
        return real

    def read(self, path: str, max_bytes: int) -> bytes:
        """Return the bytes of the regular file at `path`.

        Raises ItemNotFound, FetchRefused if it is not (or no longer) a regular file below a root, FetchFailed
        where it cannot be read, EmptyFile, ImageTooLarge.
        """
        with self._open(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            size = os.fstat(descriptor).st_size
            check_size(size, max_bytes)
            # room for all that is asked for is taken before anything is read
            data = file.read(size + 1)
            if len(data) > size:
                data += file.read(max_bytes - size)
        check_size(len(data), max_bytes)
        return data

    def head(self, path: str, length: int) -> bytes:
        """Return at most `length` first bytes of the regular file at `path`; raises as `read` does."""
        with self._open(path) as descriptor:
            return os.read(descriptor, length)

    @contextmanager
    def _open(self, path: str) -> Iterator[int]:
        """Open the file that `path` leads to, folder by folder from its root, so that no link can be slipped in."""
        real = os.path.realpath(path)
        root = self._root_of(real)
        if root is None:
            raise errors.FetchRefused("The file lies outside the folders that IMAGEKIN_SOURCE_ROOTS allows.")
        *folders, name = os.path.relpath(real, root).split("/")
        try:
            folder = os.open(root, _DIRECTORY)
            try:
                for part in folders:
                    below = os.open(part, _DIRECTORY, dir_fd=folder)
                    os.close(folder)
                    folder = below
                descriptor = _open_regular(name, folder)
            finally:
                os.close(folder)
            try:
                yield descriptor
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            raise errors.ItemNotFound(
                "There is no file at this path; relative paths begin at the server's source roots."
            ) from None
        except OSError as error:
            raise errors.FetchFailed(f"The file cannot be read: {error.strerror}.") from error

    def _root_of(self, path: str) -> str | None:
        return next((root for root in self._roots if path == root or path.startswith(root.rstrip("/") + "/")), None)


def _open_regular(name: str, folder: int) -> int:
    # Looked at before it is opened, since opening a device can have effects, and after, since it may have changed.
    regular = stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    descriptor = os.open(name, _FILE, dir_fd=folder) if regular else -1
    if regular and stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    if regular:
        os.close(descriptor)
    raise errors.FetchRefused("It is not a regular file.")


def _local(root: str) -> str | None:
    return local_path(root) if "://" in root else os.path.expanduser(root)
