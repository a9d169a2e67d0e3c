"""`imagekin embed`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from imagekin import errors
from imagekin.cli import following, output
from imagekin.cli.session import AsJson, InCollection, current
from imagekin.client import Client, sources
from imagekin.client.progress import UploadBar
from imagekin.types import DType, OnConflict, Precision


def embed(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="A folder, pictures, a zip or tar, a manifest (JSONL, CSV), or URLs."),
    ],
    collection: InCollection,
    backbone: Annotated[
        str | None, typer.Option(help="For a new collection: the network; `imagekin backbones` lists them.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="For a new collection: the network's weights.")] = None,
    dtype: Annotated[DType | None, typer.Option(help="For a new collection: how vectors are kept.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="For a new collection: exact or fast.")] = None,
    on_conflict: Annotated[
        OnConflict | None,
        typer.Option(help="What to do where a key is there with other content.", show_default="replace"),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait for the end of the job.")] = True,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send the pictures, even where the server could read the folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed pictures into a collection, which is made where there is none of that name.

    Prints what became of the images, or the job's id with --no-wait.
    """
    # a path with a typing error must not leave an empty collection behind
    sources.resolve(paths)
    client = current(context).client(collection)
    space = {"backbone": backbone, "weights": weights, "dtype": dtype, "precision": precision}
    with _Uploads() as uploads:
        _ensure(client, collection, space)
        job = client.embed(
            paths, collection, **space, on_conflict=on_conflict, upload=upload or None, on_upload=uploads.begin
        )
    if not wait:
        output.data(job.data) if as_json else output.line(job.id)
        output.say(f"Watch it: imagekin jobs watch {job.id}")
        return
    following.follow(job)
    output.data(job.data) if as_json else output.line(following.summary(job))
    following.finish(job)


def _ensure(client: Client, name: str, space: dict[str, str | None]) -> None:
    """Make the collection where it is missing, aloud: a name with a typing error would make one, too."""
    try:
        client.collection(name)
    except errors.CollectionNotFound:
        made = client.create_collection(name, **space)
        output.say(f"New collection {made.name}: {made.backbone}, {made.weights}, {made.dim} dimensions.")


class _Uploads:
    """The bar of an upload, where there is one."""

    def __init__(self) -> None:
        self._bar: UploadBar | None = None

    def __enter__(self) -> _Uploads:
        return self

    def begin(self, count: int, size: int) -> Callable[[int], None]:
        self._bar = UploadBar(count, size)
        self._bar.__enter__()
        return self._bar.show

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if self._bar is None:
            return
        if kind is None:
            self._bar.finish()
        self._bar.__exit__(None, None, None)
        if kind is KeyboardInterrupt:
            output.say("Stopped while uploading; no job was started.")
