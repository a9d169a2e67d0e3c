"""A request's body, read completely: small ones into memory, others into a file without a name."""

from __future__ import annotations

import asyncio
import io
import tempfile
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import Any, BinaryIO

from imagekin import errors
from imagekin.uploads import files
from imagekin_api.http.problems import RequestTimeout

Receive = Callable[[], Awaitable[dict[str, Any]]]

# As much of a body is taken before it is known who sends it, so it may be held for every connection.
SMALL_BYTES = 64 << 10
# A body may pause so long, and has to keep up this rate after as long: a stalled one holds a connection and a file.
STALL_S = 30.0
LEAST_BYTES_PER_S = 1024
_PIECE_BYTES = 1 << 20


class Body:
    """The body of a request; `whole` when all of it has arrived.

    The readers raise BadRequest if it breaks off or its chunks are malformed, and RequestTimeout if it stalls.
    """

    def __init__(self, receive: Receive) -> None:
        self.size = 0
        self.whole = False
        self.broken = False
        self._receive = receive
        self._began = time.monotonic()
        self._pieces: list[bytes] = []
        self._held = 0
        self._file: BinaryIO | None = None

    async def begin(self) -> None:
        """Read to the end, or until the body is larger than SMALL_BYTES."""
        while not self.whole and self.size <= SMALL_BYTES:
            await self._take()

    async def finish(self, max_bytes: int, folder: Path, disk: Executor) -> None:
        """Read the rest into a file of `folder`; raises TooLarge past `max_bytes`, Unavailable if the disk is full."""
        file = self._file = await _run(disk, _opened, folder)
        while not self.whole:
            await self._take()
            if self.size > max_bytes:
                raise too_large(max_bytes)
            if self._held >= _PIECE_BYTES or self.whole:
                pieces, self._pieces, self._held = self._pieces, [], 0
                await _run(disk, _write, file, pieces)
        await _run(disk, file.seek, 0)

    async def discard(self, max_bytes: int) -> None:
        """Read and drop at most `max_bytes`, so that the client gets to read its answer."""
        self._pieces, until = [], self.size + max_bytes
        while not self.whole and self.size < until:
            await self._take()
            self._pieces.clear()

    def reader(self) -> BinaryIO:
        """Return what was read, from its start."""
        return self._file or io.BytesIO(b"".join(self._pieces))

    def close(self) -> None:
        """Release what was read."""
        self._pieces.clear()
        if self._file is not None:
            self._file.close()

    async def _take(self) -> None:
        try:
            message = await asyncio.wait_for(self._receive(), self._patience_s())
        except TimeoutError:
            self.broken = True
            raise RequestTimeout() from None
        if message["type"] != "http.request":
            self.broken = True
            raise errors.BadRequest("The request's body is malformed, or it ended too early.")
        if piece := message.get("body", b""):
            self._pieces.append(piece)
            self._held += len(piece)
            self.size += len(piece)
        self.whole = not message.get("more_body", False)

    def _patience_s(self) -> float:
        due = self._began + STALL_S + self.size / LEAST_BYTES_PER_S
        return min(STALL_S, max(0.0, due - time.monotonic()))


def too_large(max_bytes: int) -> errors.TooLarge:
    """Build the error of a body larger than `max_bytes`."""
    return errors.TooLarge(f"The body is larger than {max_bytes:,} bytes.")


async def _run(executor: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(executor, function, *arguments)


def _opened(folder: Path) -> BinaryIO:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # closed with the body; it has no name, so nothing is left of it whatever happens
        return tempfile.TemporaryFile(dir=folder, buffering=0)  # type: ignore[return-value] - raw, but read and written alike
    except OSError as error:
        raise _no_room(error) from error


def _write(file: BinaryIO, pieces: list[bytes]) -> None:
    try:
        view = memoryview(b"".join(pieces))
        while view:
            view = view[file.write(view) :]
    except OSError as error:
        raise _no_room(error) from error


def _no_room(error: OSError) -> errors.Unavailable:
    if files.is_full(error):
        return errors.Unavailable("The folder for request bodies is full; free some space and try again.")
    return errors.Unavailable("The folder for request bodies cannot be written; see IMAGEKIN_SPOOL_DIR.")
