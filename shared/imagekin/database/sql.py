"""SQL that both engines understand: the clock, inserts that may meet a row, rows by several columns, many values."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, orm
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import GenericFunction

# Bound by SQLite's limit on variables in a statement.
VALUES_PER_STATEMENT = 500


class clock(GenericFunction[float]):  # a SQL function, written as SQL writes it
    """The database's clock in seconds since 1970: workers' own clocks may be wrong, so no lease is told by them."""

    type = sa.Float()
    inherit_cache = True


@compiles(clock, "sqlite")
def _clock_sqlite(*_: Any, **__: Any) -> str:
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(clock, "postgresql")
def _clock_postgresql(*_: Any, **__: Any) -> str:
    # statement time, not transaction time: a transaction that waited for a lock must not write yesterday's lease
    return "extract(epoch from clock_timestamp())::double precision"


def insert(session: orm.Session, table: type[orm.DeclarativeBase] | sa.Table) -> sqlite.Insert | postgresql.Insert:
    """Return an INSERT that knows ON CONFLICT, which both databases have and plain SQLAlchemy has not."""
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    return dialect.insert(table)


def batches(values: Sequence[str]) -> Iterator[Sequence[str]]:
    """Yield the values in runs that fit into one statement."""
    for start in range(0, len(values), VALUES_PER_STATEMENT):
        yield values[start : start + VALUES_PER_STATEMENT]


def moment(seconds: float) -> datetime:
    """Return the database's time as a datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def cut(blob: sa.Column[bytes], start: sa.ColumnElement[int], length: sa.ColumnElement[int]) -> sa.ColumnElement[bytes]:
    """Return `length` bytes of a blob from byte `start` (0 for the first) on."""
    return sa.func.substr(blob, start + 1, length, type_=sa.LargeBinary())


def among(columns: Sequence[sa.SQLColumnExpression[Any]], rows: Iterable[Sequence[Any]]) -> sa.ColumnElement[bool]:
    """Return the condition that one or two columns, which lead an index, are those of one of the rows.

    `(first, second) IN (...)` would say so too, but SQLite looks through the whole table for it.
    """
    if len(columns) == 1:
        return columns[0].in_([value for (value,) in rows])
    first, second = columns
    seconds: dict[Any, list[Any]] = {}
    for one, other in rows:
        seconds.setdefault(one, []).append(other)
    return sa.or_(sa.false(), *(sa.and_(first == one, second.in_(others)) for one, others in seconds.items()))


def after_commit(session: orm.Session, note: Callable[[], None]) -> None:
    """Call `note` once the session's transaction is committed, and not at all where it is rolled back."""
    event.listen(session, "after_commit", lambda _session: note(), once=True)
