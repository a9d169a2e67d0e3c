"""The command line against a small server over real HTTP."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from imagekin.cli.app import app
from kit.answers import CLUSTERS, ITEMS, NEIGHBORS
from kit.fake_server import PNG, FakeServer
from kit.terminal import Call, Done


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer() as server:
        server.results = {"search": {"query": {}, "top_k": 5, "neighbors": NEIGHBORS}, "cluster": CLUSTERS}
        server.items = ITEMS
        yield server


@pytest.fixture
def call(server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Call:
    monkeypatch.setenv("IMAGEKIN_URL", server.url)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, input: str | None = None) -> Done:
        result = CliRunner().invoke(app, arguments, input=input)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Done(result.exit_code, result.stdout, result.stderr)

    return call


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    (folder / "a.png").write_bytes(PNG)
    return folder
