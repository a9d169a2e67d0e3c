"""`imagekin cluster`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from imagekin.cli import following, output
from imagekin.cli.search import write
from imagekin.cli.session import AsJson, InCollection, View, current
from imagekin.enums import AUTO, Algorithm, Metric
from imagekin.schemas import MAX_CLUSTERS, MAX_TRIED_CLUSTERS, ClusterResult


def _number(text: str) -> int | str:
    if text == AUTO:
        return text
    if text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= MAX_CLUSTERS:
        return int(text)
    raise typer.BadParameter(f"{text!r} is neither {AUTO} nor a number from 1 to {MAX_CLUSTERS:,}")


def table(result: ClusterResult) -> None:
    """Print the clusters of a result."""
    rows = [
        (found.label, found.size, f"{found.cohesion:.4f}", found.medoid.key, found.name) for found in result.clusters
    ]
    output.table(("label", "size", "cohesion", "medoid", "name"), rows, right=("label", "size", "cohesion"))


def command(
    context: typer.Context,
    collection: InCollection,
    n_clusters: Annotated[
        Any,
        typer.Option(
            "--n-clusters", "-k", metavar="N", parser=_number, help="How many groups; `auto` finds how many there are."
        ),
    ],
    max_clusters: Annotated[
        int | None,
        typer.Option(min=2, max=MAX_TRIED_CLUSTERS, help="The most groups that `auto` tries.", show_default="50"),
    ] = None,
    metric: Annotated[
        Metric | None, typer.Option(help="How the distance of two images is measured.", show_default="euclidean")
    ] = None,
    algorithm: Annotated[Algorithm | None, typer.Option(help="Which implementation.", show_default="kmeans")] = None,
    view: View = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of the random starts.", show_default="100")] = None,
    n_init: Annotated[
        int | None,
        typer.Option(
            min=1, max=100, help="Random starts; the best one counts.", show_default="8; 1 for 50,000 images or more"
        ),
    ] = None,
    sheet: Annotated[Path | None, typer.Option(metavar="DIR", help="Write a contact sheet (PNG) per cluster.")] = None,
    as_json: AsJson = False,
) -> None:
    """Group a collection by k-means; labels are ordered by size, the largest is 0. --json lists all images."""
    client = current(context).client(collection)
    job = client.cluster(
        collection,
        n_clusters,
        max_clusters=max_clusters,
        metric=metric,
        algorithm=algorithm,
        view=view,
        seed=seed,
        n_init=n_init,
    )
    result = following.result(job)
    if as_json:
        output.data(result)
    else:
        table(result)
    if result.silhouettes:
        curve = ", ".join(f"{tried.n_clusters}: {tried.score:.3f}" for tried in result.silhouettes)
        output.say(f"Chose {result.n_clusters} by the silhouettes of {curve}.")
    where = f" in the {result.view.name} view" if result.view else ""
    output.say(f"Clustering {job.id}: {result.iterations} iterations, inertia {result.inertia:.6g}{where}.")
    if sheet:
        for found in result.clusters:
            write(sheet / f"cluster-{found.label}.png", job.sheet(label=found.label))
