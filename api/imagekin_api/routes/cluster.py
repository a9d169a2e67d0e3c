"""Cluster jobs, and a contact sheet of each cluster."""

from __future__ import annotations

import heapq
from collections.abc import Iterable
from typing import Any

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.enums import AUTO
from imagekin.jobs import end, results, view
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections
from imagekin_api.http import answers, bodies
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import IDEMPOTENCY_KEY, operation
from imagekin_api.render import sheets
from imagekin_api.routes import intake, pictures
from imagekin_api.routes import results as results_routes
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
    """Group the images into `n_clusters` clusters of similar images; the largest has the label 0.

    `auto` tries the numbers from 2 to `max_clusters` on a sample, and the result has the silhouettes of all. A
    collection with fewer distinct vectors than clusters has one cluster for each of them.
    """
    data = bodies.read_json()
    body = bodies.parse(schemas.ClusterBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection = service.current().database.read(collections.get, service.owner(), body.collection)
    least = 1 if body.n_clusters == AUTO else body.n_clusters
    if least > collection.image_count:
        raise intake.invalid(
            "/n_clusters", f"The collection has {collection.image_count} images, too few for {least} clusters."
        )
    unused = set() if body.n_clusters == AUTO else {"max_clusters"}
    params = body.model_dump(mode="json", exclude={"collection", "callback_url", *unused})
    return intake.accept(intake.submission(JobKind.CLUSTER, collection, params, {}, request, body.callback_url))


@results_routes.blueprint.patch("/jobs/<id:job_id>/clusters/<label>")
@operation(
    "Name a cluster",
    body=schemas.ClusterPatch,
    returns=schemas.Cluster,
    errors=(*results_routes.NO_RESULT, errors.NotFound),
)
def name_cluster(job_id: str, label: str) -> flask.Response:
    """Name a cluster; the job's results and sheets show it, and so do assignments to the clustering.

    A name lasts as long as the clustering, another one replaces it, and null removes it.
    """
    body = bodies.parse(schemas.ClusterPatch, bodies.read_json())
    named = service.current().database.write(_name, service.owner(), job_id, label, body.name)
    return answers.of(schemas.Cluster.model_validate(named))


def _name(session: Session, owner: str, job_id: str, label: str, name: str | None) -> dict[str, Any]:
    view.get(session, owner, job_id)
    # two names at a time are written one after the other
    end.lock(session, job_id)
    job, summary = results_routes.finished(session, owner, job_id)
    if job.kind != JobKind.CLUSTER:
        raise errors.NotFound(f"A job of kind {job.kind} has no clusters that can be named.")
    number = int(label) if label.isascii() and label.isdigit() and len(label) < 10 else -1
    cluster = results.name_cluster(session, job_id, number, name)
    if cluster is None:
        raise errors.NotFound(f"The result has no cluster {label}; it has {len(summary['clusters'])}, from 0.")
    return cluster


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
    title = sheets.cluster_title(
        label, cluster["size"], cluster["cohesion"], sheets.view_title(summary), cluster.get("name")
    )
    return sheets.cluster_sheet(title, tiles, total=cluster["size"])


def nearest(rows: Iterable[dict[str, Any]], label: int) -> list[dict[str, Any]]:
    """Return the members of a cluster that are nearest to its centroid, nearest first, as many as fit on a sheet."""
    members = (row for row in rows if row["label"] == label)
    return heapq.nsmallest(sheets.MAX_TILES, members, key=lambda row: (row["distance"], row["key"]))
