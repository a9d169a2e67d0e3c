"""A web server whose every answer a test writes, on loopback."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Answer = Callable[[BaseHTTPRequestHandler], None]


@dataclass
class Web:
    """`pages` has what happens at each path; `seen` the (path, headers) that were asked for."""

    port: int
    pages: dict[str, Answer] = field(default_factory=dict)
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    stopping: threading.Event = field(default_factory=threading.Event)

    def url(self, path: str = "/", host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [path for path, _ in self.seen]


def body(data: bytes, status: int = 200, **headers: str) -> Answer:
    """Answer with `data`, and its length unless the headers say otherwise."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            request.send_header(name.replace("_", "-"), value)
        request.end_headers()
        request.wfile.write(data)

    return answer


def redirect(location: str, status: int = 302) -> Answer:
    return body(b"", status, Location=location)


def raw(*pieces: bytes, until: threading.Event | None = None, gap_s: float = 0.0) -> Answer:
    """Send bytes as they are, `gap_s` between them, then hold the connection open until told."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        for piece in pieces:
            request.wfile.write(piece)
            if until is not None and until.wait(gap_s):
                return
        if until is not None:
            until.wait(60)

    return answer


@contextmanager
def serve(context: ssl.SSLContext | None = None) -> Iterator[Web]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            web.seen.append((self.path, dict(self.headers)))
            try:
                web.pages.get(self.path, body(b"not here", 404))(self)
            except OSError:
                self.close_connection = True  # the client has gone, as it should when it was told too much

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: clients that go away are what the tests are about."""

    server = Server(("127.0.0.1", 0), Handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    web = Web(server.server_port)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.stopping.set()
        server.shutdown()
        thread.join()
        server.server_close()
