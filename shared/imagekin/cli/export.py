"""`imagekin export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from pydantic import BaseModel

from imagekin.cli import filtering, output
from imagekin.cli.filtering import Where
from imagekin.cli.session import PARTIAL, AsJson, InCollection, current
from imagekin.client import bodies, exports
from imagekin.client.progress import DownloadBar
from imagekin.errors import InvalidRequest

Format = StrEnum("Format", list(exports.FORMATS))


class Exported(BaseModel):
    """The file that was written, its size in bytes, and how many images it is without."""

    path: Path
    format: str
    size: int
    left_out: int


def export(
    context: typer.Context,
    collection: InCollection,
    file: Annotated[Path, typer.Option("--output", "-o", metavar="FILE", dir_okay=False, help="The file to write.")],
    format: Annotated[Format | None, typer.Option(help="By default the format of FILE's suffix.")] = None,
    field: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The field of the metadata that is the label.", show_default="label"),
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="The field of the metadata that is the split.", show_default="split"),
    ] = None,
    where: Where = None,
    as_json: AsJson = False,
) -> None:
    """Write a collection's images, with ids, keys and metadata, to a file.

    With their vectors as npz, Parquet or safetensors; without as JSON lines, CSV, Label Studio tasks, COCO, manifest
    (hashes and jobs); with the pictures, where they can still be read, as webdataset (.tar) or imagefolder (.zip).

    Prints the file's path. Pictures that are not in it are listed in it, and the exit code is 3.
    """
    wanted = filtering.parsed(where)
    try:
        chosen = format.value if format else exports.format_of(file)
    except InvalidRequest as error:
        raise typer.BadParameter(error.detail, param_hint="--output") from error
    client = current(context).client(collection)
    with DownloadBar(collection) as bar:
        client.export(collection, file, format=chosen, field=field, split=split, filter=wanted, received=bar.show)
        bar.finish()
    written = bodies.expanded(file)
    left_out = exports.left_out(written, chosen)
    if as_json:
        output.data(Exported(path=file, format=chosen, size=written.stat().st_size, left_out=len(left_out)))
    else:
        output.line(str(file))
    if left_out:
        output.say(
            f"{len(left_out):,} images are not in it; the file lists them. {left_out[0].key}: {left_out[0].reason}"
        )
        raise typer.Exit(PARTIAL)
