"""`imagekin blobs`: where vectors and thumbnails lie. It works on the database and the storage themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import sqlalchemy as sa
import typer

from imagekin import errors
from imagekin.cli import output
from imagekin.client.progress import Bar
from imagekin.database import engine
from imagekin.maintenance import relocation
from imagekin.maintenance.relocation import Place
from imagekin.schemas import Wire
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs

app = typer.Typer(
    help="Where vectors and thumbnails lie: in the database or in object storage.",
    no_args_is_help=True,
    add_completion=False,
)


class Relocated(Wire):
    """What moved of a collection, and how many segments were left as they are, since they are not sound."""

    owner: str
    collection: str
    segments: int
    images: int
    bytes: int
    left: int


@app.callback()
def blobs() -> None:
    """Where vectors and thumbnails lie: in the database or in object storage."""


@app.command()
def move(
    to: Annotated[Place, typer.Option("--to", help="The storage that IMAGEKIN_BLOB_URL names, or the database.")],
    collection: Annotated[str | None, typer.Option("-c", "--collection", help="This one only; else all.")] = None,
    owner: Annotated[str | None, typer.Option("--owner", help="This owner's only.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Move what is stored already, while the service runs; exit 1 if something was left.

    It may be stopped at any time and called again.
    """
    settings = Settings()
    storage = _storage(settings, to)
    database = engine.Database(settings.database, pool_size=2, blobs=storage)
    try:
        engine.wait_until_migrated(database, 0)
        with Bar() as bar:
            found = [_move(database, storage, row, to, bar) for row in _chosen(database, collection, owner)]
    finally:
        database.dispose()
    if as_json:
        output.data(found)
    else:
        columns = list(Relocated.model_fields)
        output.table(columns, [[getattr(one, name) for name in columns] for one in found], right=columns[2:])
    if any(one.left for one in found):
        output.say("What was left is not sound: `imagekin doctor` says why.")
        raise typer.Exit(1)


def _storage(settings: Settings, to: Place) -> Blobs:
    storage = Blobs.of(settings)
    if storage is None:
        raise errors.NotReady("IMAGEKIN_BLOB_URL does not say where the storage of blobs is.")
    if storage.read_only == (to == Place.STORAGE):
        raise errors.NotReady(
            "IMAGEKIN_BLOB_READ_ONLY has new blobs written into the database; unset it, for the service, too."
            if storage.read_only
            else "New blobs are written into the storage; set IMAGEKIN_BLOB_READ_ONLY, for the service, too."
        )
    return storage


def _chosen(database: engine.Database, collection: str | None, owner: str | None) -> list[sa.Row]:
    chosen = database.read(relocation.collections, collection, owner)
    if not chosen and collection is not None:
        raise errors.CollectionNotFound()
    return chosen


def _move(database: engine.Database, storage: Blobs, row: sa.Row, to: Place, bar: Bar) -> Relocated:
    """Move a collection's blobs, and show how far that is."""
    what = f"{row.owner}/{row.name}"
    total = database.read(relocation.waiting, row.id, to)
    moved = relocation.Moved()
    for moved in relocation.move(database, storage, row.id, to):
        count = f"{moved.images:,} of {max(total, moved.images):,} images"
        bar.update(what, moved.images, total, count, f"{moved.bytes / 1e6:,.1f} MB")
    bar.update(what, moved.images, total, f"{moved.images:,} images", f"{moved.bytes / 1e6:,.1f} MB", final=True)
    return Relocated(owner=row.owner, collection=row.name, **asdict(moved))
