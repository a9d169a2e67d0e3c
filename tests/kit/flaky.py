"""A road to an HTTP server on which requests and answers get lost."""

from __future__ import annotations

import http.client
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from enum import StrEnum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Of a server that is slow, and answers.
SLOW_S = 0.3
_OF_A_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class Fault(StrEnum):
    """What becomes of a request."""

    #: it is answered 503, and not done
    BUSY = "busy"
    #: its connection breaks before it is done
    BROKEN = "broken"
    #: it is done, and its connection breaks before the answer
    LOST = "lost"
    #: it is done, and never answered
    SILENT = "silent"
    #: it is done, and half of the answer arrives
    HALF = "half"
    #: it is done, and answered late
    SLOW = "slow"


class Road:
    """The road: `fate` says of a method what becomes of its next request."""

    def __init__(self, server: str) -> None:
        self.fate: Callable[[str], Fault | None] = lambda method: None
        self.happened: Counter[Fault] = Counter()
        self.closed = threading.Event()
        self._server = server.removeprefix("http://")

    def next(self, *faults: Fault, method: str) -> None:
        """Let these befall the next requests of a method, and none after them."""
        left = list(faults)
        self.fate = lambda asked: left.pop(0) if asked == method and left else None

    def always(self, fault: Fault, method: str) -> None:
        """Let this befall all requests of a method."""
        self.fate = lambda asked: fault if asked == method else None

    def clear(self) -> None:
        """Let all requests through."""
        self.fate = lambda method: None

    def ask(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[http.client.HTTPResponse, bytes]:
        """Pass a request on, and return its answer."""
        connection = http.client.HTTPConnection(self._server)
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            return answer, answer.read()
        finally:
            connection.close()


@contextmanager
def road(server: str) -> Iterator[tuple[Road, str]]:
    """Open a road to a server by its address, and give it with the address at its beginning."""
    opened = Road(server)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_one_request(self) -> None:
            # clients leave when they have waited for long enough
            with suppress(ConnectionError):
                super().handle_one_request()

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = opened.fate(self.command)
            if fault is not None:
                opened.happened[fault] += 1
            if fault == Fault.BUSY:
                return self.answer(503, {"Content-Type": "text/xml"}, b"<Error><Code>ServiceUnavailable</Code></Error>")
            if fault == Fault.BROKEN:
                return self.leave()
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            answer, content = opened.ask(self.command, self.path, headers, body)
            if fault == Fault.LOST:
                return self.leave()
            if fault in (Fault.SILENT, Fault.SLOW):
                opened.closed.wait(SLOW_S if fault == Fault.SLOW else None)
            told = {name: value for name, value in answer.getheaders() if name.lower() not in _OF_A_CONNECTION}
            length = answer.getheader("Content-Length", "") if self.command == "HEAD" else ""
            self.answer(answer.status, told, content, length=length, cut=fault == Fault.HALF)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = pass_on

        def answer(
            self, status: int, headers: dict[str, str], content: bytes, *, length: str = "", cut: bool = False
        ) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            # the answer to a HEAD tells of what it does not send
            self.send_header("Content-Length", length or str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if cut else content)
            if cut:
                self.leave()

        def leave(self) -> None:
            self.close_connection = True

        def log_message(self, format: str, *args: Any) -> None:
            """Stay quiet."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True

    beginning = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=beginning.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield opened, f"http://127.0.0.1:{beginning.server_port}"
    finally:
        opened.closed.set()
        beginning.shutdown()
        thread.join()
        beginning.server_close()
