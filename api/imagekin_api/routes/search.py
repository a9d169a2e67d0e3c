"""Search jobs: the neighbors of an image, a vector or an uploaded picture, and their contact sheet."""

from __future__ import annotations

from typing import Any

import flask
import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.database import tables
from imagekin.jobs import results
from imagekin.net import fetch
from imagekin.schemas.kinds import JobKind
from imagekin.store import collections, images, thumbnails
from imagekin_api.http import bodies, multipart, operations, problems
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import BINARY, IDEMPOTENCY_KEY, operation
from imagekin_api.render import sheets
from imagekin_api.routes import intake, pictures
from imagekin_api.wiring import service

# In a form, a text stands for their JSON.
JSON_FIELDS = {"filter", "crop", "positives", "negatives"}


@intake.blueprint.post("/jobs/search")
@operation(
    "Search a collection for an image's neighbors",
    body=schemas.SearchBody,
    json=operations.SOME_VECTORS,
    form={"image": BINARY},
    form_model=schemas.SearchForm,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*intake.REFUSED, errors.ImageNotFound, errors.TooLarge),
)
def search() -> flask.Response:
    """JSON names an image of the collection, an embedding or an address; a form brings a picture of your own.

    In a form, `filter`, `crop`, `positives` and `negatives` are JSON texts; the picture is the first of the positives.
    """
    if multipart.is_multipart():
        return _search_form()
    if bodies.is_json():
        return _search_json()
    raise problems.UnsupportedMediaType(intake.JSON_OR_FORM)


def _search_json() -> flask.Response:
    data = bodies.read_json()
    body = bodies.parse(schemas.SearchBody, data)
    if body.crop is not None and not isinstance(body.query, schemas.UrlQuery):
        raise intake.invalid("/crop", "Only a picture can be cropped: a query with an `url`, or an `image` in a form.")
    intake.check_callback(body.callback_url)
    request = Idempotency.of_json(data)
    if (answer := intake.known(request)) is not None:
        return answer
    collection, public, work = service.current().database.read(_queries, service.owner(), body)
    params = _search_params(public, body)
    if body.query is None:
        params["refine"] = body.refine.value
    return intake.accept(intake.submission(JobKind.SEARCH, collection, params, work, request, body.callback_url))


def _queries(
    session: Session, owner: str, body: schemas.SearchBody
) -> tuple[tables.Collection, dict[str, Any], dict[str, Any]]:
    """Return the collection, and one query or several as clients see them and as workers need them."""
    collection = collections.get(session, owner, body.collection)
    if body.query is not None:
        public, work = _query(session, collection, body.query, "/query")
        return collection, public, {"query": work}
    if body.positives is None:
        raise intake.invalid("/query", "Give a `query`, or `positives`.")
    public, work = _several(session, collection, body.positives, body.negatives)
    return collection, public, work


def _several(
    session: Session, collection: tables.Collection, positives: list[schemas.Query], negatives: list[schemas.Query]
) -> tuple[dict[str, Any], dict[str, Any]]:
    public, work = {}, {}
    for name, several in (("positives", positives), ("negatives", negatives)):
        both = [_query(session, collection, each, f"/{name}/{at}") for at, each in enumerate(several)]
        public[name], work[name] = [one for one, _ in both], [other for _, other in both]
    return public, work


def _beside(
    session: Session, owner: str, form: schemas.SearchForm
) -> tuple[tables.Collection, dict[str, Any], dict[str, Any]]:
    """Return the collection, and what stands beside a form's picture, as clients see it and as workers need it."""
    collection = collections.get(session, owner, form.collection)
    if not form.positives and not form.negatives:
        return collection, {}, {}
    public, work = _several(session, collection, form.positives, form.negatives)
    return collection, public, work


def _query(
    session: Session, collection: tables.Collection, query: schemas.Query, pointer: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    match query:
        case schemas.ImageIdQuery(image_id=image_id):
            image = images.get(session, collection, image_id)
            return {"image_id": image.id}, {"image_id": image.id}
        case schemas.ImageKeyQuery(image_key=key):
            image = images.by_key(session, collection, key)
            return {"image_key": image.key}, {"image_id": image.id}
        case schemas.EmbeddingQuery(embedding=embedding):
            _check_embedding(embedding, session.get_one(tables.Space, collection.space_id).dim, pointer)
            return {"embedding_dim": len(embedding)}, {"embedding": embedding}
        case schemas.UrlQuery(url=url):
            _check_url(url, pointer)
            return {"url": url}, {"url": url}


def _check_url(url: str, pointer: str) -> None:
    try:
        fetch.parse(url)
    except errors.FetchRefused as error:
        raise intake.invalid(f"{pointer}/url", error.detail) from None


def _check_embedding(embedding: list[float], dim: int, pointer: str) -> None:
    if len(embedding) != dim:
        raise intake.invalid(
            f"{pointer}/embedding", f"The collection's embeddings have {dim} numbers, not {len(embedding)}."
        )
    with np.errstate(over="ignore"):
        length = np.linalg.norm(np.asarray(embedding, np.float32))
    if not np.isfinite(length) or not length:
        raise intake.invalid(f"{pointer}/embedding", "The embedding's length must be finite in float32 and not 0.")


def _search_form() -> flask.Response:
    here = service.current()
    form = intake.Form()
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
        body = bodies.parse_form(schemas.SearchForm, _with_json(form.fields))
        intake.check_callback(body.callback_url)
        request = Idempotency.of_parts(form.parts)
        if (answer := intake.known(request)) is not None:
            return answer
        collection, public, beside = here.database.read(_beside, service.owner(), body)
        shown, sent = {"image": enclosed.filename}, {"upload": enclosed.path, "filename": enclosed.filename}
        if beside:
            shown = {**public, "positives": [shown, *public["positives"]]}
            work = {**beside, "positives": [sent, *beside["positives"]]}
        else:
            work = {"query": sent}
        params = _search_params(shown, body)
        if beside:
            params["refine"] = body.refine.value
        submission = intake.submission(
            JobKind.SEARCH, collection, params, work, request, body.callback_url, enclosed.id
        )
        return intake.accept(submission, enclosed)


def _with_json(fields: dict[str, Any]) -> dict[str, Any]:
    """Return a form's fields with those parsed that are JSON texts."""
    parsed: dict[str, Any] = {}
    for name in JSON_FIELDS & fields.keys():
        try:
            parsed[name] = bodies.load(fields[name], f"/{name}")
        except errors.BadRequest as error:
            raise multipart.invalid(name, error.detail) from None
    return {**fields, **parsed}


def _search_params(query: dict[str, Any], form: schemas.SearchFields) -> dict[str, Any]:
    return {
        "query": query,
        "top_k": form.top_k,
        "min_score": form.min_score,
        "exclude_query": form.exclude_query,
        "view": form.view.value,
        "filter": form.filter,
        "crop": form.crop,
        "collapse_duplicates": form.collapse_duplicates,
    }


@pictures.sheet_of(JobKind.SEARCH)
def sheet(job: tables.Job, summary: dict[str, Any]) -> bytes:
    database, neighbors = service.current().database, summary["neighbors"]
    # the query takes the first place
    shown = neighbors[: sheets.MAX_TILES - 1]
    query, found = database.read(_search_pictures, job, [neighbor["id"] for neighbor in shown])
    tiles = [
        sheets.Tile(
            found.get(neighbor["id"]),
            sheets.similarity_title(neighbor["score"], len(neighbor.get("duplicates") or ())),
            neighbor["key"],
        )
        for neighbor in shown
    ]
    title, caption = sheets.view_title(summary), _query_caption(job)
    if job.params.get("crop"):
        caption = f"part of {caption}" if caption else "part of the picture"
    return sheets.search_sheet(query, tiles, title=title, query_caption=caption, total=len(neighbors))


def _query_caption(job: tables.Job) -> str:
    query = job.params["query"]
    if several := query.get("positives"):
        return f"and {len(several) - 1} more" if len(several) > 1 else ""
    return next((query[name] for name in ("image_key", "image", "image_id", "url") if query.get(name)), "")


def _search_pictures(session: Session, job: tables.Job, ids: list[str]) -> tuple[bytes | None, dict[str, bytes]]:
    first = job.work.get("query") or next(iter(job.work.get("positives", [])), {})
    queried = first.get("image_id")
    image = session.get(tables.Image, queried) if queried else None
    if image is not None and image.deleted_at is None:
        return thumbnails.of(session, image), pictures.of(session, job.collection_id, ids)
    return results.thumbnail(session, job.id), pictures.of(session, job.collection_id, ids)
