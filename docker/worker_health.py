"""The health check of a worker's container: exit 0 where its worker is warm and was heard of lately.

It asks the database, as the API's /readyz does; a `celery inspect ping` would answer before the model is loaded.
"""

from __future__ import annotations

import socket
import sys

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import engine, sql
from imagekin.database.tables import Worker
from imagekin.settings import Settings

# three heartbeats, as the API counts them
LIVE_S = 30.0


def is_live(session: Session, host: str) -> bool:
    """Say whether a worker of this host has a fresh row."""
    rows = sa.select(Worker.name).where(
        Worker.name.endswith(f"@{host}", autoescape=True), Worker.seen_at > sql.clock() - LIVE_S
    )
    return session.scalar(rows.limit(1)) is not None


def main() -> None:
    """Exit 0 or say what is wrong."""
    try:
        live = engine.Database(Settings().database, pool_size=1).read(is_live, socket.gethostname())
    except sa.exc.SQLAlchemyError as error:
        sys.exit(f"The database does not answer: {error}")
    if not live:
        sys.exit(f"No worker of this container was heard of in the last {LIVE_S:g} s.")


if __name__ == "__main__":
    main()
