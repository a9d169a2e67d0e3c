"""What PostgreSQL's planner knows of tables that grow fast.

Its own analysis comes a minute late at best. Until the first one it takes an index of the images that are not deleted
for an almost empty one, so that each look for what is stored walks through all images, and storing is quadratic.
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin.database import tables

# Changed rows below which any plan will do.
FEW_ROWS = 1000
WATCHED = [table.__tablename__ for table in (tables.Image, tables.Segment, tables.Chunk, tables.PlannedKey, tables.Job)]

_GROWN = sa.text(
    "SELECT relname FROM pg_stat_user_tables WHERE schemaname = current_schema() AND relname = ANY(:tables)"
    " AND n_mod_since_analyze > :few AND 2 * n_mod_since_analyze > n_live_tup"
)


def refresh(session: Session) -> int:
    """Have the tables analyzed that have doubled since they last were; return how many those were. None on SQLite."""
    if session.get_bind().dialect.name != "postgresql":
        return 0
    grown = session.scalars(_GROWN, {"tables": WATCHED, "few": FEW_ROWS}).all()
    for table in grown:
        session.execute(sa.text(f"ANALYZE {table}"))
    return len(grown)
