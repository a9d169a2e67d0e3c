"""`imagekin db`: the database's tables."""

from __future__ import annotations

import json
from typing import Annotated

import typer

import imagekin_migrations
from imagekin import errors
from imagekin.database import engine as database
from imagekin.settings import Settings

db = typer.Typer(help="Create and upgrade the database's tables.", no_args_is_help=True, add_completion=False)


@db.command()
def upgrade(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Create the tables or bring them up to date; safe to run at every start."""
    settings = Settings()
    try:
        imagekin_migrations.upgrade_when_reachable(_open(settings), settings.wait_for_database_s)
    except errors.NotReady as error:
        typer.echo(error.detail, err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"revision": database.REVISION}))
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
