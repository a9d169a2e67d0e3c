"""The front as an ASGI application over the Flask app: only complete requests get one of its threads."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import flask

from imagekin import errors
from imagekin.settings import Settings
from imagekin_api.front import admission, environ
from imagekin_api.front.body import Body, Receive
from imagekin_api.front.refusal import REFUSAL

Send = Callable[[dict[str, Any]], Awaitable[None]]

# What is read of a body that nobody wants, so that the client gets to read the answer instead of a broken pipe.
MAX_DRAINED_BYTES = 64 << 20
# Bodies that go to disk take turns, so that a slow disk holds up no answer.
DISK_THREADS = 4
# A sheet takes a core for as long as hundreds of other answers, so sheets wait for each other and for nothing else.
DRAWING_THREADS = 2
# As much of an answer is made and sent at once; a thread is held for the making alone.
_BATCH_BYTES = 64 << 10
_SENT_BYTES = 64 << 10
# A client that takes less than a piece of an answer in this time is given up, and what the answer holds let go.
SEND_STALL_S = 60.0


@dataclass
class _Answer:
    """An answer being sent: its head, its first bytes, and an iterator over the rest, None if there is no more."""

    status: int
    headers: list[tuple[bytes, bytes]]
    first: bytes
    rest: Iterator[bytes] | None
    iterable: Iterable[bytes]


class Front:
    """Answers ASGI requests with the app, which runs in `settings.api_threads` threads.

    `started` is called in the main thread before the first request, `stopped` after the last.
    """

    def __init__(
        self, app: flask.Flask, settings: Settings, *, started: Callable[[], None], stopped: Callable[[], None]
    ) -> None:
        self._app = app
        self._started, self._stopped = started, stopped
        self._folder = settings.spool_folder
        self._threads = ThreadPoolExecutor(settings.api_threads, "request")
        self._disk = ThreadPoolExecutor(DISK_THREADS, "spool")
        self._drawing = ThreadPoolExecutor(DRAWING_THREADS, "drawing")

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's life."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
            return
        body = Body(receive)
        try:
            request = await self._take(scope, body)
            drawn = admission.is_drawn(self._app, request)
            answer = await _run(self._drawing if drawn else self._threads, self._call, request)
            try:
                await self._send(answer, send)
            finally:
                await _run(self._threads, _close, answer.iterable)
        finally:
            body.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        self._started()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        self._threads.shutdown(cancel_futures=True)
        self._disk.shutdown(cancel_futures=True)
        self._drawing.shutdown(cancel_futures=True)
        self._stopped()
        await send({"type": "lifespan.shutdown.complete"})

    async def _take(self, scope: dict[str, Any], body: Body) -> dict[str, Any]:
        """Return the request with its whole body, or without a body and with the reason for refusing it."""
        request = environ.of_scope(scope, io.BytesIO())
        try:
            environ.check(scope)
            await body.begin()
            if not body.whole:
                max_bytes = await _run(
                    self._threads, admission.admit, self._app, request, environ.content_length(scope)
                )
                if max_bytes is None:
                    await self._discard(scope, body)
                    return request
                await body.finish(max_bytes, self._folder, self._disk)
        except errors.ImagekinError as error:
            request[REFUSAL] = error
            await self._discard(scope, body)
            return request
        request["wsgi.input"] = body.reader()
        request["CONTENT_LENGTH"] = str(body.size)
        return request

    async def _discard(self, scope: dict[str, Any], body: Body) -> None:
        length = environ.content_length(scope)
        if body.broken or body.whole or length > MAX_DRAINED_BYTES or environ.expects_continue(scope):
            return
        try:
            await body.discard(MAX_DRAINED_BYTES)
        except errors.ImagekinError:  # the client is gone, or as good as: so nobody reads the answer
            return

    def _call(self, request: dict[str, Any]) -> _Answer:
        head: list[Any] = []

        def start(status: str, headers: list[tuple[str, str]], _error: Any = None) -> Callable[[bytes], object]:
            head[:] = int(status[:3]), [(n.lower().encode("latin-1"), v.encode("latin-1")) for n, v in headers]
            return lambda _: None

        iterable = self._app(request, start)
        rest = iter(iterable)
        first, more = _batch(rest)
        return _Answer(head[0], head[1], first, rest if more else None, iterable)

    async def _send(self, answer: _Answer, send: Send) -> None:
        await send({"type": "http.response.start", "status": answer.status, "headers": answer.headers})
        piece, more = answer.first, answer.rest is not None
        while True:
            for at in range(0, max(len(piece), 1), _SENT_BYTES):
                last = not more and at + _SENT_BYTES >= len(piece)
                part = {"type": "http.response.body", "body": piece[at : at + _SENT_BYTES], "more_body": not last}
                await asyncio.wait_for(send(part), SEND_STALL_S)
            if not more:
                return
            piece, more = await _run(self._threads, _batch, answer.rest)


async def _run(threads: Executor, function: Callable[..., Any], *arguments: Any) -> Any:
    return await asyncio.get_running_loop().run_in_executor(threads, function, *arguments)


def _batch(pieces: Iterator[bytes]) -> tuple[bytes, bool]:
    """Return the next pieces as one, and whether there may be more."""
    batch, size = [], 0
    for piece in pieces:
        batch.append(piece)
        size += len(piece)
        if size >= _BATCH_BYTES:
            return b"".join(batch), True
    return b"".join(batch), False


def _close(iterable: Iterable[bytes]) -> None:
    close = getattr(iterable, "close", None)
    if close is not None:
        close()
