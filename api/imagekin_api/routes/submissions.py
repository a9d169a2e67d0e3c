"""Jobs as they are posted: embed, search, cluster, assign."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from typing import Any

import flask
import numpy as np
import sqlalchemy as sa
from sqlalchemy.orm import Session

from imagekin import errors, schemas, sources
from imagekin.database import tables
from imagekin.enums import TERMINAL, JobKind
from imagekin.jobs import submit, view
from imagekin.net import fetch
from imagekin.sources import urls
from imagekin.store import collections, images
from imagekin.uploads import rows
from imagekin_api.documents.operations import BINARY, IDEMPOTENCY_KEY, operation
from imagekin_api.http import bodies, idempotency, multipart, packing, problems
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.routes import intake
from imagekin_api.wiring import service

blueprint = flask.Blueprint("submissions", __name__)

REFUSED = (errors.IdempotencyMismatch, errors.CollectionNotFound, errors.QuotaExceeded, errors.Backlog)
JSON_OR_FORM = "Send JSON or multipart/form-data."

Parts = list[tuple[str, str | None, str]]


@dataclass
class Form:
    """The text fields of a multipart request, and all of its parts in their order."""

    fields: dict[str, Any] = field(default_factory=dict)
    parts: Parts = field(default_factory=list)
    size: int = 0

    def take(self, part: multipart.Part) -> None:
        """Read a text field; raises InvalidRequest for a file and for a field that came before, TooLarge."""
        if part.filename is not None:
            raise multipart.invalid(part.field, "This form takes no file in that field.")
        if part.field in self.fields:
            raise multipart.invalid(part.field, "The field came twice.")
        self.fields[part.field] = part.text()
        self.size += len(part.field.encode()) + part.size
        if self.size > multipart.MAX_FIELDS_BYTES:
            raise errors.TooLarge(f"The form's fields are larger than {multipart.MAX_FIELDS_BYTES:,} bytes.")

    def note(self, part: multipart.Part) -> None:
        """Remember a part that was read, for the idempotency digest."""
        self.parts.append((part.field, part.filename, part.sha256))


# --- embed -----------------------------------------------------------------------------------------------------


@blueprint.post("/jobs/embed")
@operation(
    "Embed images into a collection",
    body=schemas.EmbedBody,
    form={"images": {"type": "array", "items": BINARY}, "archive": BINARY},
    form_model=schemas.EmbedForm,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*REFUSED, errors.UploadNotFound, errors.SourceRefused, errors.InvalidKey, errors.TooLarge),
)
def embed() -> flask.Response:
    """As JSON from an upload, a folder, addresses, a manifest or a location; as a form with the images or an archive.

    An image whose key is there with the same content is `reused`; with other content, `on_conflict` decides.
    """
    if multipart.is_multipart():
        return _embed_form()
    if bodies.is_json():
        return _embed_json()
    raise problems.UnsupportedMediaType(JSON_OR_FORM)


def _embed_json() -> flask.Response:
    here, owner = service.current(), service.owner()
    data = bodies.read_json()
    body = bodies.parse(schemas.EmbedBody, data)
    intake.check_callback(body.callback_url)
    public, work, contents = _source(body.source, owner)
    request = Idempotency.of_json(data, contents)
    if (answer := intake.known(request)) is not None:
        return answer
    collection = here.database.read(collections.get, owner, body.collection)
    try:
        sources.check_source(work, here.settings)
    except errors.JobError as error:
        raise _invalid("/source", error.detail) from error
    params = {"source": public, "on_conflict": body.on_conflict.value}
    with intake.enclosure() as enclosed:
        if isinstance(body.source, schemas.UrlsSource):
            # beside the job, which is read far more often than they are
            enclosed.store(io.BytesIO(urls.written(work["urls"])), here.settings.max_upload_bytes)
            work = {"type": "urls", **enclosed.work()}
        return intake.accept(
            _submission(
                JobKind.EMBED,
                collection,
                params,
                {"source": work},
                request,
                body.callback_url,
                work.get("upload_id"),
            ),
            enclosed,
        )


def _source(source: schemas.Source, owner: str) -> tuple[dict[str, Any], dict[str, Any], dict[str, str]]:
    """Return a source as clients see it, as workers need it, and the sha256 of the upload in it."""
    public = source.model_dump(mode="json", exclude_none=True)
    match source:
        case schemas.FolderSource() | schemas.LocationSource():
            return public, public, {}
        case schemas.UrlsSource():
            return {"type": source.type, "count": len(source.urls)}, public, {}
        case schemas.UploadSource(upload_id=upload_id) | schemas.ManifestSource(upload_id=upload_id):
            work = service.current().database.read(upload_work, owner, upload_id)
            excluded = {"exclude": public["exclude"]} if "exclude" in public else {}
            return public, {**work, "type": source.type, **excluded}, {upload_id: work["sha256"]}


def upload_work(session: Session, owner: str, upload_id: str) -> dict[str, Any]:
    """Return an upload as workers need it; raises UploadNotFound."""
    try:
        upload = rows.get(session, owner, upload_id)
    except errors.UploadNotFound:
        # a repeated request is the same one also when its upload was deleted since
        if (key := idempotency.read_key()) is None:
            raise
        earlier = sa.select(tables.Job).filter_by(owner=owner, idempotency_key=key, upload_id=upload_id)
        if (job := session.scalar(earlier)) is None or "sha256" not in job.work.get("source", {}):
            raise
        return job.work["source"]
    return {
        "type": "upload",
        "upload_id": upload.id,
        "path": upload.path,
        "filename": upload.filename,
        "sha256": upload.sha256,
    }


def _embed_form() -> flask.Response:
    here = service.current()
    form = Form()
    with packing.Pack() as pack, intake.enclosure() as enclosed:
        for part in multipart.parts(here.settings.max_upload_bytes):
            if part.field == "images":
                pack.add(part)
            elif part.field == "archive" and part.filename is not None and enclosed.stored is None:
                enclosed.filename = part.filename or None
                enclosed.store(part, here.settings.max_upload_bytes)
            else:
                form.take(part)
            form.note(part)
        if (pack.count > 0) == (enclosed.stored is not None):
            raise multipart.invalid("images", "Send either files as `images` or one as `archive`.")
        body = bodies.parse_form(schemas.EmbedForm, form.fields)
        intake.check_callback(body.callback_url)
        request = Idempotency.of_parts(form.parts)
        if (answer := intake.known(request)) is not None:
            return answer
        collection = here.database.read(collections.get, service.owner(), body.collection)
        if pack.count:
            enclosed.filename = packing.FILENAME
            # the zip's own bytes come on top of the images'
            enclosed.store(pack.finish(), 2 * here.settings.max_upload_bytes)
        params = {"source": {"type": "upload", "upload_id": enclosed.id}, "on_conflict": body.on_conflict.value}
        work = {"source": {"type": "upload", **enclosed.work()}}
        return intake.accept(
            _submission(JobKind.EMBED, collection, params, work, request, body.callback_url, enclosed.id), enclosed
        )


# --- search ----------------------------------------------------------------------------------------------------


@blueprint.post("/jobs/search")
@operation(
    "Search a collection for an image's neighbors",
    body=schemas.SearchBody,
    form={"image": BINARY},
    form_model=schemas.SearchForm,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*REFUSED, errors.ImageNotFound, errors.TooLarge),
)
def search() -> flask.Response:
    """By an image of the collection, an embedding or an address as JSON, or by a picture of your own as a form.

    In a form, `filter` is JSON text.
    """
    if multipart.is_multipart():
        return _search_form()
    if bodies.is_json():
        return _search_json()
    raise problems.UnsupportedMediaType(JSON_OR_FORM)


def _search_json() -> flask.Response:
    data = bodies.read_json()
    body = bodies.parse(schemas.SearchBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection, public, work = service.current().database.read(_query, service.owner(), body.collection, body.query)
    params = _search_params(public, body)
    return intake.accept(_submission(JobKind.SEARCH, collection, params, {"query": work}, request, body.callback_url))


def _query(
    session: Session, owner: str, name: str, query: schemas.Query
) -> tuple[tables.Collection, dict[str, Any], dict[str, Any]]:
    """Return the collection, and the query as clients see it and as workers need it."""
    collection = collections.get(session, owner, name)
    match query:
        case schemas.ImageIdQuery(image_id=image_id):
            image = images.get(session, collection, image_id)
            return collection, {"image_id": image.id}, {"image_id": image.id}
        case schemas.ImageKeyQuery(image_key=key):
            image = images.by_key(session, collection, key)
            return collection, {"image_key": image.key}, {"image_id": image.id}
        case schemas.EmbeddingQuery(embedding=embedding):
            _check_embedding(embedding, session.get_one(tables.Space, collection.space_id).dim)
            return collection, {"embedding_dim": len(embedding)}, {"embedding": embedding}
        case schemas.UrlQuery(url=url):
            _check_url(url)
            return collection, {"url": url}, {"url": url}


def _check_url(url: str) -> None:
    try:
        fetch.parse(url)
    except errors.FetchRefused as error:
        raise _invalid("/query/url", error.detail) from None


def _check_embedding(embedding: list[float], dim: int) -> None:
    if len(embedding) != dim:
        raise _invalid("/query/embedding", f"The collection's embeddings have {dim} numbers, not {len(embedding)}.")
    with np.errstate(over="ignore"):
        length = np.linalg.norm(np.asarray(embedding, np.float32))
    if not np.isfinite(length) or not length:
        raise _invalid("/query/embedding", "The embedding's length must be finite in float32 and not 0.")


def _search_form() -> flask.Response:
    here = service.current()
    form = Form()
    with intake.enclosure() as enclosed:
        for part in multipart.parts(here.settings.max_upload_bytes):
            if part.field == "image" and part.filename is not None and enclosed.stored is None:
                enclosed.filename = part.filename or None
                enclosed.store(part, here.settings.max_image_bytes)
            else:
                form.take(part)
            form.note(part)
        if enclosed.stored is None or enclosed.stored.size == 0:
            raise multipart.invalid("image", "Send the picture to search for, as a file that is not empty.")
        body = bodies.parse_form(schemas.SearchForm, _with_filter(form.fields))
        intake.check_callback(body.callback_url)
        request = Idempotency.of_parts(form.parts)
        if (answer := intake.known(request)) is not None:
            return answer
        collection = here.database.read(collections.get, service.owner(), body.collection)
        params = _search_params({"image": enclosed.filename}, body)
        work = {"query": {"upload": enclosed.path, "filename": enclosed.filename}}
        return intake.accept(
            _submission(JobKind.SEARCH, collection, params, work, request, body.callback_url, enclosed.id), enclosed
        )


def _with_filter(fields: dict[str, Any]) -> dict[str, Any]:
    if "filter" not in fields:
        return fields
    try:
        return {**fields, "filter": bodies.load(fields["filter"], "/filter")}
    except errors.BadRequest as error:
        raise multipart.invalid("filter", error.detail) from None


def _search_params(query: dict[str, Any], form: schemas.SearchForm) -> dict[str, Any]:
    return {
        "query": query,
        "top_k": form.top_k,
        "min_score": form.min_score,
        "exclude_query": form.exclude_query,
        "filter": form.filter,
    }


# --- cluster ---------------------------------------------------------------------------------------------------


@blueprint.post("/jobs/cluster")
@operation(
    "Cluster a collection",
    body=schemas.ClusterBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=REFUSED,
)
def cluster() -> flask.Response:
    """Into `n_clusters` groups of similar images; the largest gets the label 0."""
    data = bodies.read_json()
    body = bodies.parse(schemas.ClusterBody, data)
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection = service.current().database.read(collections.get, service.owner(), body.collection)
    if body.n_clusters > collection.image_count:
        raise _invalid(
            "/n_clusters",
            f"The collection has {collection.image_count} images, too few for {body.n_clusters} clusters.",
        )
    params = body.model_dump(mode="json", exclude={"collection", "callback_url"})
    return intake.accept(_submission(JobKind.CLUSTER, collection, params, {}, request, body.callback_url))


# --- assign ----------------------------------------------------------------------------------------------------


@blueprint.post("/jobs/assign")
@operation(
    "Put images into the clusters of an earlier clustering",
    body=schemas.AssignBody,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*REFUSED, errors.JobNotFound, errors.JobNotFinished, errors.ImageNotFound, errors.Conflict),
)
def assign() -> flask.Response:
    """Those named by `image_ids` or `image_keys`, or else all that came or changed after the clustering."""
    data = bodies.read_json()
    body = bodies.parse(schemas.AssignBody, data)
    intake.check_callback(body.callback_url)
    if body.image_ids is not None and body.image_keys is not None:
        raise _invalid("/image_keys", "Name the images by their ids or by their keys, not by both.")
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection, ids = service.current().database.read(_assigned, service.owner(), body)
    params = {"clustering_id": body.clustering_id, "images": None if ids is None else len(ids)}
    work = {"clustering_id": body.clustering_id, "image_ids": ids}
    return intake.accept(_submission(JobKind.ASSIGN, collection, params, work, request, body.callback_url))


def _assigned(session: Session, owner: str, body: schemas.AssignBody) -> tuple[tables.Collection, list[str] | None]:
    """Return the clustering's collection, and the ids of the images that are named, each once."""
    job = view.get(session, owner, body.clustering_id)
    if job.kind != JobKind.CLUSTER:
        raise _invalid("/clustering_id", f"This is a job of kind {job.kind}; name one of kind cluster.")
    if job.status not in TERMINAL:
        raise errors.JobNotFinished("The clustering is not finished yet; poll its job until its status is terminal.")
    if session.get(tables.Clustering, job.id) is None:
        raise errors.Conflict(f"The job found no clusters, because it ended as {job.status}.")
    collection = session.get_one(tables.Collection, job.collection_id)
    if collection.deleted_at is not None:
        raise errors.CollectionNotFound("The clustering's collection was deleted.")
    if body.image_ids is not None:
        return collection, images.all_by_id(session, collection, body.image_ids)
    if body.image_keys is not None:
        return collection, images.all_by_key(session, collection, body.image_keys)
    return collection, None


def _submission(
    kind: JobKind,
    collection: tables.Collection,
    params: dict[str, Any],
    work: dict[str, Any],
    request: Idempotency,
    callback_url: str | None,
    upload_id: str | None = None,
) -> submit.Submission:
    return submit.Submission(
        owner=service.owner(),
        kind=kind,
        collection_id=collection.id,
        space_id=collection.space_id,
        params=params,
        work=work,
        upload_id=upload_id,
        callback_url=callback_url,
        idempotency_key=request.key,
        idempotency_digest=request.digest,
    )


def _invalid(pointer: str, detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": pointer, "detail": detail}])
