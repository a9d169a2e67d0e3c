"""`imagekin search`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from imagekin import errors
from imagekin.cli import filtering, following, output
from imagekin.cli.filtering import Where
from imagekin.cli.session import FAILURE, AsJson, InCollection, View, current, text_of
from imagekin.client import bodies
from imagekin.enums import Refine
from imagekin.schemas import MAX_TOP_K


def _shares(text: str) -> list[float]:
    try:
        return [float(share) for share in text.split(",")]
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not X,Y,WIDTH,HEIGHT") from None


def command(
    context: typer.Context,
    image: Annotated[
        str, typer.Argument(metavar="IMAGE", help="A file, a URL, or the key of an image in the collection.")
    ],
    collection: InCollection,
    top_k: Annotated[int, typer.Option("--top-k", "-k", min=1, max=MAX_TOP_K, help="How many images to find.")] = 5,
    min_score: Annotated[
        float | None, typer.Option(min=-1, max=1, help="Leave out images that are less similar than this.")
    ] = None,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="KEY", help="A key or URL that is right, too; may be given again."),
    ] = None,
    unlike: Annotated[
        list[str] | None,
        typer.Option("--unlike", metavar="KEY", help="A key or URL that is wrong; may be given again."),
    ] = None,
    refine: Annotated[
        Refine | None, typer.Option(help="How several examples become one.", show_default="rocchio")
    ] = None,
    view: View = None,
    where: Where = None,
    crop: Annotated[
        Any,
        typer.Option(
            metavar="X,Y,WIDTH,HEIGHT",
            parser=_shares,
            help="Of a file or URL, search for this part only: shares of the upright picture, such as 0.5,0,0.5,1.",
        ),
    ] = None,
    collapse: Annotated[
        bool, typer.Option("--collapse", help="List near-duplicates with the better one, without a rank of their own.")
    ] = False,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write a contact sheet (PNG).")] = None,
    as_json: AsJson = False,
) -> None:
    """Find the pictures that are most similar to one."""
    client = current(context).client(collection)
    query, wanted = _query(image), filtering.parsed(where)
    if also or unlike:
        query = _several(query, also or [], unlike or [], refine)
    elif refine:
        raise typer.BadParameter("it needs --also or --unlike", param_hint="--refine")
    try:
        job = client.search_job(
            **query,
            collection=collection,
            top_k=top_k,
            min_score=min_score,
            view=view,
            filter=wanted,
            crop=crop,
            collapse_duplicates=collapse or None,
        )
    except errors.ImageNotFound:
        raise errors.ImageNotFound(
            f"There is no file {image} here, and no image with that key in {collection}."
        ) from None
    following.follow(job)
    if following.exit_code(job) == FAILURE:
        following.finish(job)
    result = job.result()
    if as_json:
        output.data(result)
    else:
        rows = [(found.rank, f"{found.score:.4f}", found.key, found.id) for found in result.neighbors]
        if collapse:
            copies = ["; ".join(each.key for each in found.duplicates or ()) for found in result.neighbors]
            rows = [(*row, listed) for row, listed in zip(rows, copies, strict=True)]
        columns = ("rank", "score", "key", "id", *(("duplicates",) if collapse else ()))
        output.table(columns, rows, right=("rank", "score"))
        if not rows:
            output.say("Nothing found.")
    if result.ask:
        output.say(f"Judge next: {', '.join(each.key for each in result.ask)}")
    if result.view:
        output.say(f"Compared in the {result.view.name} view.")
    if sheet:
        write(sheet, job.sheet())


def write(path: Path, content: bytes) -> None:
    """Write a contact sheet, create its folder, and say where it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    output.say(f"Contact sheet: {path}")


def _several(query: dict[str, Any], also: list[str], unlike: list[str], refine: Refine | None) -> dict[str, Any]:
    if "picture" in query:
        raise typer.BadParameter("a file is searched for alone; name keys or URLs", param_hint="IMAGE")
    return {
        "positives": [query, *map(_stored, also)],
        "negatives": [_stored(each) for each in unlike],
        "refine": refine,
    }


def _stored(name: str) -> dict[str, Any]:
    return {"url": name} if name.startswith(("http://", "https://")) else {"image_key": text_of(name)}


def _query(image: str) -> dict[str, Any]:
    if image.startswith(("http://", "https://")):
        return {"url": image}
    path = bodies.expanded(Path(image))
    if _is(path, Path.is_file):
        return {"picture": image}
    is_folder = _is(path, Path.is_dir)
    # no key looks like these, so a file was meant
    if path.is_absolute() or is_folder or image.startswith("."):
        raise errors.ImageNotFound(f"There is no file {image}{'; it is a folder' if is_folder else ' here'}.")
    return {"image_key": text_of(image)}


def _is(path: Path, kind: Callable[[Path], bool]) -> bool:
    try:
        return kind(path)
    except OSError:
        # a key may be longer than a name of a file
        return False
