"""The app behind a real HTTP server."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import flask
import httpx2
import pytest
from werkzeug.serving import make_server

from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin_api.app import create_app
from imagekin_api.wiring import service

# Nobody listens there.
NO_REDIS = "redis://127.0.0.1:1/0"
# For calls that do more with the database than others.
BOTH_ENGINES = pytest.mark.parametrize("engine", ["sqlite", "postgresql"])


@dataclass
class Running:
    """A server and what it works with."""

    app: flask.Flask
    url: str
    settings: Settings
    clients: list[httpx2.Client] = field(default_factory=list)

    @property
    def service(self) -> service.Service:
        return self.app.extensions[service.EXTENSION]

    @property
    def database(self) -> Database:
        return self.service.database

    def client(self, key: str | None = None) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        # to verify nothing: reading the authorities' certificates takes longer than most tests
        client = httpx2.Client(base_url=self.url, headers=headers, timeout=30, trust_env=False, verify=False)
        self.clients.append(client)
        return client


@contextmanager
def running(settings: Settings) -> Iterator[Running]:
    app = create_app(settings)
    server = make_server("127.0.0.1", 0, app, threaded=True)
    setattr(server, "daemon_threads", True)  # noqa: B010 - of what `threaded` makes it
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    started = Running(app, f"http://127.0.0.1:{server.server_port}", settings)
    try:
        yield started
    finally:
        for client in started.clients:
            client.close()
        server.shutdown()
        thread.join()
        server.server_close()
        started.service.close()
