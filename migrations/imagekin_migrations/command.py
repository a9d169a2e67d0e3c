"""`imagekin db`: the database's tables."""

from __future__ import annotations

import typer
from sqlalchemy.exc import OperationalError

import imagekin_migrations
from imagekin import db as database
from imagekin.config import Settings

db = typer.Typer(help="Create and upgrade the database's tables.", no_args_is_help=True)


@db.command()
def upgrade() -> None:
    """Create the tables or bring them up to date; safe to run at every start."""
    settings = Settings()
    engine = _open(settings)
    try:
        imagekin_migrations.upgrade(engine)
    except OperationalError as error:
        typer.echo(f"The database cannot be reached: {error.orig}", err=True)
        raise typer.Exit(1) from error
    typer.echo(f"The database is at revision {database.REVISION}.", err=True)


@db.command()
def downgrade(revision: str = typer.Argument(help="Revision to go back to; `base`: no tables at all.")) -> None:
    """Bring the tables back to an earlier revision; what newer tables hold is lost."""
    imagekin_migrations.downgrade(_open(Settings()), revision)
    typer.echo(f"The database is at revision {revision}.", err=True)


def _open(settings: Settings) -> database.Database:
    if not settings.database_url:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    return database.Database(settings.database)
