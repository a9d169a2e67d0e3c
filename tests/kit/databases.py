"""Databases of tests: SQLite files, and a PostgreSQL server out of its wheel."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy as sa


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

    def forget_the_disk(self) -> None:
        """Let nothing wait for the disk: no test survives the machine's end, and to drop a database took seconds."""
        for setting in ("fsync", "full_page_writes", "synchronous_commit"):
            self._run(f"ALTER SYSTEM SET {setting} = off")
        self._run("SELECT pg_reload_conf()")

    def _run(self, statement: str) -> None:
        admin = sa.create_engine(self.address, isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        with admin.connect() as connection:
            connection.execute(sa.text(statement))


@contextmanager
def migrated(request: pytest.FixtureRequest, engine: str, folder: Path) -> Iterator[str]:
    """Copy a migrated database, into the folder where the engine is `sqlite`, and give its URL."""
    if engine == "sqlite":
        shutil.copy(request.getfixturevalue("migrated_sqlite"), folder / "imagekin.db")
        yield f"sqlite:///{folder / 'imagekin.db'}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = f"test_{os.urandom(6).hex()}"
    yield server.create(name, request.getfixturevalue("migrated_postgresql"))
    server.drop(name)


@contextmanager
def copied(request: pytest.FixtureRequest, url: sa.URL, folder: Path) -> Iterator[str]:
    """Copy a PostgreSQL database and give the copy's URL; SQLite's is the file that was copied with its folder."""
    if url.get_backend_name() == "sqlite":
        yield f"sqlite:///{folder / 'imagekin.db'}"
        return
    server: PostgreSQL = request.getfixturevalue("postgresql")
    name = f"copy_{os.urandom(6).hex()}"
    yield server.create(name, url.database or "")
    server.drop(name)
