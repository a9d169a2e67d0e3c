"""Sinks: what writers of files and zips write into, and give away while the file is being written."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterable, Iterator
from typing import Any

# Zip knows no earlier date; with a fixed one the same collection makes the same bytes.
DATE = (1980, 1, 1, 0, 0, 0)


class Sink(io.RawIOBase):
    """Takes what a writer of files writes, and gives it away: nothing can be read in it or written before its end."""

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        piece = bytes(data)
        self._pieces.append(piece)
        self._written += len(piece)
        return len(piece)

    def tell(self) -> int:
        return self._written

    def take(self) -> Iterator[bytes]:
        """Yield what was written since the last time."""
        pieces, self._pieces = self._pieces, []
        if pieces:
            yield b"".join(pieces)


class Archive:
    """A zip in which a member goes out while it is written."""

    def __init__(self) -> None:
        self._sink = Sink()
        self._zip = zipfile.ZipFile(self._sink, "w")

    def add(self, name: str, pieces: Iterable[bytes], method: int = zipfile.ZIP_DEFLATED) -> Iterator[bytes]:
        """Write a member, and yield what that made."""
        info = zipfile.ZipInfo(name, DATE)
        info.compress_type = method
        with self._zip.open(info, "w", force_zip64=True) as member:
            for piece in pieces:
                member.write(piece)
                yield from self._sink.take()

    def finish(self) -> Iterator[bytes]:
        """Write the directory, and yield it."""
        self._zip.close()
        yield from self._sink.take()
