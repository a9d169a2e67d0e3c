"""`imagekin embed`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from imagekin import errors, schemas
from imagekin.cli import following, output
from imagekin.cli.session import INTERRUPTED, AsJson, InCollection, Wait, current, text_of
from imagekin.client import Client, Job, Sending, sources
from imagekin.client.progress import UploadBar
from imagekin.enums import DType, Fit, JobStatus, OnConflict, Precision


def command(
    context: typer.Context,
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATH", help="Folders, pictures, zips, tars, manifests (JSONL, CSV), or URLs."),
    ],
    collection: InCollection,
    backbone: Annotated[
        str | None, typer.Option(help="For a new collection: the network; `imagekin backbones` lists them.")
    ] = None,
    weights: Annotated[str | None, typer.Option(help="For a new collection: the network's weights.")] = None,
    dtype: Annotated[DType | None, typer.Option(help="For a new collection: how vectors are kept.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="For a new collection: exact or fast.")] = None,
    fit: Annotated[
        Fit | None,
        typer.Option(
            help="For a new collection: crop pictures to their middle, pad them, or squash them.",
            show_default="as the weights want it",
        ),
    ] = None,
    on_conflict: Annotated[
        OnConflict | None,
        typer.Option(help="What to do if a key is stored with other content.", show_default="replace"),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Leave out files and folders that match this pattern; repeatable."),
    ] = None,
    prefix: Annotated[
        list[str] | None,
        typer.Option(
            metavar="TEXT",
            help="Of a location or a manifest, only keys that begin like this; repeatable, and each makes a job.",
        ),
    ] = None,
    wait: Wait = True,
    upload: Annotated[
        bool, typer.Option("--upload", help="Send the pictures even if the server could read the folder.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Embed pictures into a collection, which is created if it does not exist.

    Images that the collection has already are not sent again, so an interrupted command continues where it stopped.
    Prints the outcome, or with --no-wait the ids of the jobs; a large folder has several.
    """
    # a source that cannot be read must not leave an empty collection behind
    patterns = [text_of(pattern) for pattern in exclude or ()]
    prefixes = [text_of(each) for each in prefix or ()]
    sources.check(sources.resolve(paths, patterns, prefixes))
    client = current(context).client(collection)
    space = {"backbone": backbone, "weights": weights, "dtype": dtype, "precision": precision, "fit": fit}
    made = client.ensure_collection(collection, **space)
    if made is not None:
        # aloud: a name with a typing error makes one, too
        output.say(f"New collection {made.name}: {made.backbone}, {made.weights}, {made.dim} dimensions.")
        if made.non_commercial:
            output.say(f"The license of these weights, {made.license}, allows no commercial use.")
    try:
        chosen = {"exclude": patterns, "prefixes": prefixes}
        job = _start(client, paths, collection, **space, **chosen, on_conflict=on_conflict, upload=upload or None)
    except errors.ImagekinError:
        _say_empty(client, made)
        raise
    if not wait:
        following.detach(job, as_json)
        return
    following.follow(job)
    output.data(job.data) if as_json else output.line(following.summary(job))
    if job.status is JobStatus.FAILED:
        _say_empty(client, made)
    following.finish(job)


def _start(client: Client, paths: list[str], collection: str, **options: Any) -> Job[Any]:
    """Start the job and show the bar of its upload, if any; Ctrl-C keeps what was sent."""
    begun: list[Sending] = []

    def show(sending: Sending) -> None:
        begun[:] = [sending]
        bar.show(sending)

    try:
        with UploadBar() as bar:
            job = client.embed(paths, collection, **options, on_upload=show)
            bar.finish()
            return job
    except KeyboardInterrupt:
        if not begun:
            raise
        kept = begun[0].jobs or begun[0].known
        output.say(
            f"Stopped while uploading; {'the same command continues from here' if kept else 'no job was started'}."
        )
        following.leave(begun[0].jobs)
        raise typer.Exit(INTERRUPTED) from None


def _say_empty(client: Client, made: schemas.Collection | None) -> None:
    """Report that a collection which this command created is empty after a failure."""
    if made is None:
        return
    try:
        if client.collection(made.name).image_count:
            return
    except errors.ImagekinError:
        # it is gone, or nobody answers: then there is nothing to say of it
        return
    output.say(f"The new collection {made.name} is empty. Remove it: imagekin collections delete {made.name}")
