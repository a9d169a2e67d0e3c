"""Receive imagekin's webhooks: check the signature, drop repetitions, do something with the job.

    pip install standardwebhooks
    IMAGEKIN_WEBHOOK_SECRET=whsec_... python examples/webhook_receiver.py --port 9000

Answer quickly and work afterwards: a receiver that takes longer than 15 seconds gets the message again.
"""

from __future__ import annotations

import argparse
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from standardwebhooks import Webhook, WebhookVerificationError

MAX_BODY_BYTES = 8 << 20


def handle(message: dict[str, Any]) -> None:
    """Do something with a job that ended."""
    job = message["data"]
    progress = job["progress"]
    print(f"{message['type']} {job['id']}: {progress['done']} images, {progress['failed']} failed", flush=True)


class Receiver(ThreadingHTTPServer):
    """A server that knows the secret and which messages it has seen."""

    def __init__(self, address: tuple[str, int], secret: str) -> None:
        super().__init__(address, Handler)
        self.webhook = Webhook(secret)
        # a real receiver keeps these where they outlive it, for a day at least
        self.seen: set[str] = set()


class Handler(BaseHTTPRequestHandler):
    server: Receiver  # pyright: ignore[reportIncompatibleVariableOverride]

    def do_POST(self) -> None:
        """Answer 204 for a message that is genuine, and 400 for any other."""
        length = int(self.headers.get("Content-Length") or 0)
        if not 0 < length <= MAX_BODY_BYTES:
            return self._answer(400)
        body = self.rfile.read(length)
        try:
            # the bytes as they came: JSON that was read and written again has another signature
            message = self.server.webhook.verify(body, dict(self.headers))
        except (WebhookVerificationError, ValueError):
            return self._answer(400)
        if self.headers["webhook-id"] not in self.server.seen:
            handle(message)
            # only now: what failed above comes again
            self.server.seen.add(self.headers["webhook-id"])
        return self._answer(204)

    def _answer(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing beside what `handle` says."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Receive imagekin's webhooks.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    options = parser.parse_args()
    with Receiver((options.host, options.port), os.environ["IMAGEKIN_WEBHOOK_SECRET"]) as receiver:
        print(f"Listening at http://{options.host}:{receiver.server_port}", flush=True)
        receiver.serve_forever()


if __name__ == "__main__":
    main()
