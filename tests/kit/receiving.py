"""A receiver of webhooks that does what a test tells it to."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook

SECRET = "whsec_dGVzdCB0ZXN0IHRlc3QgdGVzdCB0ZXN0IHRlc3Q="

Behaviour = Callable[[BaseHTTPRequestHandler], object]


def answer(status: int, **headers: str) -> Behaviour:
    """Answer with a status."""

    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": "0", **headers}.items():
            handler.send_header(name, value)
        handler.end_headers()

    return behave


def drip(handler: BaseHTTPRequestHandler) -> None:
    """Answer a byte at a time, without an end."""
    with suppress(OSError):
        while True:
            handler.wfile.write(b"H")
            time.sleep(0.05)


@dataclass
class Message:
    """What came, and what it says."""

    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    def verified(self) -> dict[str, Any]:
        """Return the message; raises WebhookVerificationError for one that is not genuine."""
        return Webhook(SECRET).verify(self.body, self.headers)


@dataclass
class Receiver:
    """What it has received; `behave` is how it answers, by path, or for all paths."""

    url: str
    behave: dict[str, Behaviour] = field(default_factory=dict)
    messages: list[Message] = field(default_factory=list)
    changed: threading.Condition = field(default_factory=threading.Condition)

    def wait(self, count: int, timeout_s: float = 20) -> list[Message]:
        """Wait until so many messages have come, and return them."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.messages) >= count, timeout_s), self.messages
            return list(self.messages)


@contextmanager
def receiver(port: int = 0) -> Iterator[Receiver]:
    """Run a receiver on this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            headers = {name.lower(): value for name, value in self.headers.items()}
            with received.changed:
                received.messages.append(Message(self.path, headers, body))
                received.changed.notify_all()
            received.behave.get(self.path, received.behave.get("", answer(204)))(self)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    server.daemon_threads = True
    # who hangs must not hold up the test's end
    server.block_on_close = False
    received = Receiver(f"http://127.0.0.1:{server.server_port}")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield received
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
