"""Cluster jobs, and a contact sheet of each cluster."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import flask

from imagekin import schemas
from imagekin.database import tables
from imagekin.jobs import results
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections
from imagekin_api.http import bodies
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.render import sheets
from imagekin_api.routes import intake, pictures
from imagekin_api.wiring import service


@intake.blueprint.post("/jobs/cluster")
@operation(
    "Cluster a collection",
    body=schemas.ClusterBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=intake.REFUSED,
)
def cluster() -> flask.Response:
    """Group the images into `n_clusters` clusters of similar images; the largest has the label 0."""
    data = bodies.read_json()
    body = bodies.parse(schemas.ClusterBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection = service.current().database.read(collections.get, service.owner(), body.collection)
    if body.n_clusters > collection.image_count:
        raise intake.invalid(
            "/n_clusters",
            f"The collection has {collection.image_count} images, too few for {body.n_clusters} clusters.",
        )
    params = body.model_dump(mode="json", exclude={"collection", "callback_url"})
    return intake.accept(intake.submission(JobKind.CLUSTER, collection, params, {}, request, body.callback_url))


@pictures.sheet_of(JobKind.CLUSTER)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database, label = service.current().database, pictures.number("label") or 0
    cluster = next((each for each in summary["clusters"] if each["label"] == label), None)
    if cluster is None:
        raise pictures.wrong("label", f"The result has no cluster {label}; it has {len(summary['clusters'])}, from 0.")
    members = nearest(results.rows(database, job.id), label)
    found = database.read(pictures.of, job.collection_id, [member["id"] for member in members])
    tiles = [
        sheets.Tile(
            found.get(member["id"]),
            sheets.distance_title(member["distance"]),
            member["key"],
            marked=member["id"] == cluster["medoid"]["id"],
        )
        for member in members
    ]
    title = sheets.cluster_title(label, cluster["size"], cluster["cohesion"], sheets.view_title(summary))
    return sheets.cluster_sheet(title, tiles, total=cluster["size"])


def nearest(rows: Iterable[dict[str, Any]], label: int) -> list[dict[str, Any]]:
    """Return the members of a cluster that are nearest to its centroid, nearest first, as many as fit on a sheet."""
    members = (row for row in rows if row["label"] == label)
    return heapq.nsmallest(sheets.MAX_TILES, members, key=lambda row: (row["distance"], row["key"]))
