"""`imagekin keys`: API keys. It works on the database itself, so it needs neither a key nor a running server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Annotated, Any

import typer

from imagekin import api_keys, errors
from imagekin.cli import output
from imagekin.database import engine, tables
from imagekin.database.sql import moment
from imagekin.schemas import Wire
from imagekin.settings import Settings

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app = typer.Typer(
    help="Make, list and revoke API keys, in the database itself.", no_args_is_help=True, add_completion=False
)


class Key(Wire):
    """A key without its text, which only its recipient has."""

    id: str
    owner: str
    created_at: datetime
    last_used_at: datetime | None
    revoked_at: datetime | None


class NewKey(Key):
    """A new key with its text."""

    key: str


@app.command()
def create(
    owner: Annotated[
        str, typer.Argument(metavar="OWNER", help="The key's owner; owners don't see each other's images and jobs.")
    ],
    as_json: AsJson = False,
) -> None:
    """Make a key and print it. It is shown only once: only its digest is stored."""
    with _database() as database:
        try:
            row, text = database.write(api_keys.create, owner)
        except errors.InvalidRequest as error:
            raise typer.BadParameter(error.detail, param_hint="OWNER") from error
    if as_json:
        output.data(NewKey(key=text, **_values(row)))
        return
    output.line(text)
    output.say(f"Key {row.id} of {row.owner}. Keep it: it is not shown again.")


@app.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List all keys, including revoked ones; `last_used_at` is exact to an hour."""
    with _database() as database:
        rows = database.read(api_keys.page)
    found = [Key(**_values(row)) for row in rows]
    if as_json:
        output.data(found)
        return
    columns = ("id", "owner", "created_at", "last_used_at", "revoked_at")
    output.table(columns, ([getattr(key, column) for column in columns] for key in found))


@app.command()
def revoke(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id, as `imagekin keys list` shows it.")],
    as_json: AsJson = False,
) -> None:
    """Revoke a key, from the next request on; the owner's images and jobs stay."""
    with _database() as database:
        row = database.write(api_keys.revoke, key_id)
    if as_json:
        output.data(Key(**_values(row)))
        return
    output.say(f"Key {row.id} of {row.owner} is revoked.")


@contextmanager
def _database() -> Iterator[engine.Database]:
    database = engine.Database(Settings().database, pool_size=1)
    try:
        engine.wait_until_migrated(database, 0)
        yield database
    finally:
        database.dispose()


def _values(row: tables.ApiKey) -> dict[str, Any]:
    times = {name: getattr(row, name) for name in ("created_at", "last_used_at", "revoked_at")}
    return {"id": row.id, "owner": row.owner} | {name: None if at is None else moment(at) for name, at in times.items()}
