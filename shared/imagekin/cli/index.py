"""`imagekin index`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from imagekin import schemas
from imagekin.cli import following, output
from imagekin.cli.session import AsJson, InCollection, View, current
from imagekin.client import Job
from imagekin.enums import IndexMethod

app = typer.Typer(help="Build, check and remove indexes of vectors, for collections of millions.", no_args_is_help=True)


@app.command()
def build(context: typer.Context, collection: InCollection, as_json: AsJson = False) -> None:
    """Build the index of a collection, which its searches then use; one that is there is built again."""
    job = current(context).client(collection).index(collection, IndexMethod.HNSW)
    result = _result(job, as_json)
    output.say(f"Index {job.id}: {result.images:,} images, {result.nbytes / 2**20:,.0f} MiB.")


@app.command()
def remove(context: typer.Context, collection: InCollection, as_json: AsJson = False) -> None:
    """Remove the index of a collection: its searches are exact again."""
    _result(current(context).client(collection).index(collection, IndexMethod.EXACT), as_json)
    output.say(f"Searches of {collection} are exact.")


@app.command()
def check(
    context: typer.Context,
    collection: InCollection,
    queries: Annotated[
        int | None,
        typer.Option(min=1, max=schemas.MAX_CHECKED, help="Images that are searched for.", show_default="100"),
    ] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", "-k", min=1, max=schemas.MAX_TOP_K, show_default="10")] = None,
    view: View = None,
    as_json: AsJson = False,
) -> None:
    """Search for some images by the index and exactly, and compare answers and times."""
    job = current(context).client(collection).check_index(collection, queries, top_k=top_k, view=view)
    found = _result(job, as_json).check
    if found is None or as_json:
        return
    output.line(f"recall@{found.top_k}: {found.recall:.4f} ({found.low:.4f} to {found.high:.4f})")
    output.line(f"by the index: {found.ms:,.1f} ms")
    output.line(f"exact: {found.exact_ms:,.1f} ms")
    output.say(f"{found.queries:,} images in the {found.view.name} view; times are medians.")


def _result(job: Job[Any], as_json: bool) -> schemas.IndexResult:
    """Return the result of a job that is followed."""
    result = following.result(job)
    if as_json:
        output.data(result)
    return result
