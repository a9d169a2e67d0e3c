"""`imagekin export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from imagekin.cli import output
from imagekin.cli.session import AsJson, InCollection, current
from imagekin.client import bodies, exports
from imagekin.client.progress import DownloadBar
from imagekin.errors import InvalidRequest

Format = StrEnum("Format", list(exports.FORMATS))


class Exported(BaseModel):
    """The file that was written, and its size in bytes."""

    path: Path
    format: str
    size: int


def export(
    context: typer.Context,
    collection: InCollection,
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="The file to write.")],
    format: Annotated[Format | None, typer.Option(help="By default the format of FILE's suffix.")] = None,
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The field of the metadata that is the label.", show_default="label"),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a collection's images, with ids, keys and metadata, to a file.

    With their vectors as npz, Parquet or safetensors, without as JSON lines, CSV, Label Studio tasks or COCO.

    Prints the file's path.
    """
    try:
        chosen = format.value if format else exports.format_of(file)
    except InvalidRequest as error:
        raise typer.BadParameter(error.detail, param_hint="--output") from error
    client = current(context).client(collection)
    with DownloadBar(collection) as bar:
        client.export(collection, file, format=chosen, field=field, received=bar.show)
        bar.finish()
    if as_json:
        output.data(Exported(path=file, format=chosen, size=bodies.expanded(file).stat().st_size))
    else:
        output.line(str(file))
