"""The database: connections and transactions.

Work is a function of a session, so that a transaction that meets a passing fault (a lock, a deadlock, a lost
connection) is simply run again:

    job, new = database.write(submit.submit, submission, settings)
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Concatenate, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

import sqlalchemy as sa
import structlog
from sqlalchemy import Compiled, event, orm
from sqlalchemy.exc import DBAPIError, OperationalError

from imagekin import errors

log = structlog.get_logger()

P = ParamSpec("P")
T = TypeVar("T")

BUSY_TIMEOUT_S = 10
STATEMENT_TIMEOUT_S = 60
IDLE_IN_TRANSACTION_TIMEOUT_S = 60
RETRIES = 6
# serialization_failure, deadlock_detected, lock_not_available
PASSING_SQLSTATES = frozenset({"40001", "40P01", "55P03"})
# undefined_table, undefined_column
UNDEFINED_SQLSTATES = frozenset({"42P01", "42703"})
READ_ONLY = "imagekin_read_only"
# psycopg.pq.Format.BINARY; what only speaks with SQLite, or as a client, need not import psycopg
BINARY = 1
# The migration that this code needs; a test holds it to the newest one in imagekin_migrations.
REVISION = "0010"


class Database:
    """A database by its SQLAlchemy URL (SQLite or PostgreSQL)."""

    def __init__(self, url: str, *, pool_size: int = 8, blobs: object = None) -> None:
        # what sessions find as `info["blobs"]`: where vectors and thumbnails lie that are not in the database
        self.blobs = blobs
        address = sa.make_url(url)
        self.is_sqlite = address.get_backend_name() == "sqlite"
        if self.is_sqlite:
            self.engine = sa.create_engine(
                address,
                pool_size=pool_size,
                max_overflow=pool_size,
                # errors are logged, and what clients sent is not for the log
                hide_parameters=True,
                connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
            )
            event.listen(self.engine, "connect", _connect_sqlite)
            event.listen(self.engine, "begin", _begin_sqlite)
        elif address.get_backend_name() == "postgresql":
            self.engine = sa.create_engine(
                address.set(drivername="postgresql+psycopg"),
                pool_size=pool_size,
                max_overflow=pool_size,
                hide_parameters=True,
                pool_pre_ping=True,
                connect_args={
                    "connect_timeout": 10,
                    "options": f"-c statement_timeout={STATEMENT_TIMEOUT_S}s"
                    f" -c idle_in_transaction_session_timeout={IDLE_IN_TRANSACTION_TIMEOUT_S}s",
                },
            )
            event.listen(self.engine, "before_cursor_execute", _ask_for_binary)
        else:
            raise errors.NotReady(
                f"IMAGEKIN_DATABASE_URL names {address.get_backend_name()}; use sqlite or postgresql."
            )

    def read(self, work: Callable[Concatenate[orm.Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(session, ...)` in a transaction that writes nothing and sees the database at one moment."""
        return self._run(True, work, *args, **kwargs)

    def write(self, work: Callable[Concatenate[orm.Session, P], T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `work(session, ...)` in one transaction and commit it; run it again after a passing fault."""
        return self._run(False, work, *args, **kwargs)

    @contextmanager
    def snapshot(self) -> Iterator[orm.Session]:
        """Return a session that writes nothing and sees the database at one moment, for as long as the block lasts."""
        with (
            self.engine.connect().execution_options(**self._options(True)) as connection,
            orm.Session(connection, expire_on_commit=False, info={"blobs": self.blobs}) as session,
            session.begin(),
        ):
            yield session

    def _run(
        self, read_only: bool, work: Callable[Concatenate[orm.Session, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        for attempt in range(RETRIES + 1):
            try:
                with (
                    self.engine.connect().execution_options(**self._options(read_only)) as connection,
                    orm.Session(connection, expire_on_commit=False, info={"blobs": self.blobs}) as session,
                    session.begin(),
                ):
                    return work(session, *args, **kwargs)
            except DBAPIError as error:
                if attempt == RETRIES or not _is_passing(error):
                    raise
                log.warning("database_retry", attempt=attempt, error=str(error.orig))
                # full jitter, so that those who met at a lock don't meet there again
                time.sleep(random.uniform(0, 0.1 * 2**attempt))
        raise AssertionError("unreachable")

    def _options(self, read_only: bool) -> dict[str, Any]:
        """Return a transaction's options; SQLite gives each one snapshot, PostgreSQL does where it is told to."""
        snapshot = {"isolation_level": "REPEATABLE READ"} if read_only and not self.is_sqlite else {}
        return {READ_ONLY: read_only, **snapshot}

    def dispose(self) -> None:
        """Close the pooled connections."""
        self.engine.dispose()


# By compiled statement: SQLAlchemy keeps those, and looking at one again costs more than it takes to run some.
_with_bytes: WeakKeyDictionary[Compiled, bool] = WeakKeyDictionary()


def _ask_for_binary(
    _connection: sa.Connection, cursor: Any, _statement: str, _parameters: Any, context: Any, _many: bool
) -> None:
    """Have PostgreSQL send blobs as they are: as text they are twice as long, and take three times as long to read."""
    compiled: Compiled | None = context.compiled
    if compiled is None:
        return
    found = _with_bytes.get(compiled)
    if found is None:
        query = compiled.statement
        columns = query.selected_columns if isinstance(query, sa.Select) else ()
        found = _with_bytes[compiled] = any(isinstance(column.type, sa.LargeBinary) for column in columns)
    if found:
        cursor.format = BINARY


def wait_until_migrated(database: Database, timeout_s: float) -> None:
    """Wait until the database answers and has this version's tables.

    Raises NotReady with the reason when the time is up.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            revision = database.read(_revision)
        except DBAPIError as error:
            reason = f"The database cannot be reached: {error.orig}"
        else:
            if revision == REVISION:
                return
            reason = (
                "The database has no tables yet"
                if revision is None
                else f"The database is at revision {revision}, not {REVISION}"
            ) + "; run `imagekin db upgrade`."
        if time.monotonic() >= deadline:
            raise errors.NotReady(reason)
        time.sleep(min(0.5, max(0.0, deadline - time.monotonic())))


def _revision(session: orm.Session) -> str | None:
    if not sa.inspect(session.connection()).has_table("alembic_version"):
        return None
    return session.scalar(sa.text("SELECT version_num FROM alembic_version"))


def lacks_tables(error: DBAPIError) -> bool:
    """Return whether PostgreSQL misses a table or column, as where it is not migrated; SQLite fails operationally."""
    return getattr(error.orig, "sqlstate", None) in UNDEFINED_SQLSTATES


def _is_passing(error: DBAPIError) -> bool:
    if error.connection_invalidated:
        return True
    if isinstance(error.orig, sqlite3.OperationalError):
        return "locked" in str(error.orig) or "busy" in str(error.orig)
    sqlstate = getattr(error.orig, "sqlstate", None)
    if sqlstate is None and isinstance(error, OperationalError):
        # refused: a server that is just starting again, mostly; without any answer it takes too long to ask again
        return type(error.orig).__name__ != "ConnectionTimeout"
    # class 08: connection exceptions; 57P: the server is shutting down or starting
    return sqlstate in PASSING_SQLSTATES or (sqlstate or "")[:2] == "08" or (sqlstate or "")[:3] == "57P"


def _connect_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # the driver's own BEGIN comes late and deferred; ours is below
    connection.isolation_level = None
    cursor = connection.cursor()
    # of a new database: most of an archive is blobs, whose pages are read one by one
    cursor.execute("PRAGMA page_size=16384")
    cursor.execute("PRAGMA journal_mode=WAL")
    # in WAL mode a crash of the machine can lose the last commits under NORMAL: an accepted job must not be lost
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.execute("PRAGMA foreign_keys=ON")
    # a cache for each connection: pages that are read again soon, not a share of the archive
    cursor.execute("PRAGMA cache_size=-4096")
    cursor.close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # a deferred transaction that upgrades to write fails at once with BUSY_SNAPSHOT, whatever the timeout
    read_only = connection.get_execution_options().get(READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")
