"""The health check of a worker's container: exit 0 where its worker is warm and was heard of lately.

It asks the database, as the API's /readyz does; a `celery inspect ping` would answer before the model is loaded.
"""

from __future__ import annotations

import sys

import sqlalchemy as sa

from imagekin import presence
from imagekin.database import engine
from imagekin.settings import Settings


def main() -> None:
    """Exit 0 or say what is wrong."""
    try:
        live = engine.Database(Settings().database, pool_size=1).read(presence.lives_here)
    except sa.exc.SQLAlchemyError as error:
        sys.exit(f"The database does not answer: {error}")
    if not live:
        sys.exit(f"No worker of this container was heard of in the last {presence.LIVE_S} s.")


if __name__ == "__main__":
    main()
