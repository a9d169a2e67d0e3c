"""A sink: what writers of files write into, and give away while the file is being written."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any


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
