"""The client against a small server over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin.client import Client
from imagekin.client import jobs as client_jobs
from imagekin.client import transport as client_transport
from kit.fake_server import PNG, FakeServer


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeServer]:
    monkeypatch.setattr(client_transport, "BACKOFF_S", 0.01)
    monkeypatch.setattr(client_jobs, "MIN_PAUSE_S", 0.01)
    with FakeServer() as server:
        yield server


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.url) as client:
        yield client


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.JPG").write_bytes(b"\xff\xd8\xff b")
    (folder / "sub" / "a.png").write_bytes(b"a" * 1000)
    (folder / "nameless").write_bytes(PNG)
    (folder / "notes.txt").write_bytes(b"no picture")
    (folder / ".hidden.png").write_bytes(PNG)
    (folder / "cafe\u0301.png").write_bytes(PNG)
    return folder
