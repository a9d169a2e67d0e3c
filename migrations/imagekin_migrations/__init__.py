"""The database's tables, version by version (Alembic)."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import sqlalchemy as sa
from alembic import command as alembic
from alembic.config import Config
from sqlalchemy.exc import OperationalError

from imagekin import errors
from imagekin.database.engine import Database

# Any number, as long as every imagekin uses the same.
ADVISORY_LOCK = 0x696D6B
PAUSE_S = 0.5


def upgrade(database: Database, revision: str = "head") -> None:
    """Bring the tables up to `revision` in one transaction; processes that start together wait for each other."""
    _run(database, alembic.upgrade, revision)


def upgrade_when_reachable(database: Database, timeout_s: float) -> None:
    """Upgrade as soon as the database answers; raises NotReady with the reason when the time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            return upgrade(database)
        except OperationalError as error:
            if time.monotonic() >= deadline:
                raise errors.NotReady(f"The database cannot be reached: {error.orig}") from error
        time.sleep(PAUSE_S)


def downgrade(database: Database, revision: str) -> None:
    """Bring the tables back to `revision` (`base`: none) in one transaction. What newer tables hold is lost."""
    _run(database, alembic.downgrade, revision)


def _run(database: Database, step: Callable[[Config, str], None], revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    with database.engine.begin() as connection:  # on SQLite this is BEGIN IMMEDIATE, a lock already
        if not database.is_sqlite:
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        config.attributes["connection"] = connection
        step(config, revision)
