"""Images of a collection, their embeddings and thumbnails."""

from __future__ import annotations

import io
import unicodedata

import flask
import numpy as np
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.enums import DType, ImageOrder
from imagekin.schemas import json_values
from imagekin.store import bulk, collections, images, labels, listing, segments, thumbnails
from imagekin_api.http import answers, bodies, operations, pagination
from imagekin_api.http.operations import BINARY, PAGED, Parameter, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("images", __name__)

NPY = "application/octet-stream"
DEFAULT_FIELD = "label"
FILTER = Parameter(
    "filter",
    "JSON: only images whose metadata have these values.",
    {"type": "string", "contentMediaType": answers.MEDIA_TYPE},
)
PREFIX = Parameter("prefix", "Only images whose key begins like this.")
ORDER = Parameter(
    "order",
    "`-created`: the newest first. `key`: by code points.",
    {"type": "string", "enum": list(ImageOrder), "default": ImageOrder.CREATED},
)
FIELD = Parameter("field", "The field of the metadata.", {"type": "string", "default": DEFAULT_FIELD})
# So many digits of a hash are not the beginning of another one.
VERSION_DIGITS = 16
VERSION = Parameter("v", f"The first {VERSION_DIGITS} or more digits of the image's `content_hash`.")
MISSING = (errors.CollectionNotFound, errors.ImageNotFound)


@blueprint.get("/collections/<name>/images")
@operation(
    "List the images of a collection",
    returns=schemas.ImagePage,
    parameters=(*PAGED, FILTER, PREFIX, ORDER),
    errors=(errors.CollectionNotFound,),
)
def index(name: str) -> flask.Response:
    """They are listed in the order in which they were added, unless `order` says otherwise.

    `total` counts the images of all pages.
    """
    listing = _listing()
    place = f"images {listing.order}"
    after, limit = pagination.cursor(place), pagination.limit()
    items, last, total = service.current().database.read(_page, service.owner(), name, listing, after, limit)
    return answers.of(schemas.ImagePage(items=items, next_cursor=pagination.encode(place, last), total=total))


def _listing() -> listing.Listing:
    given = flask.request.args
    order = given.get("order", ImageOrder.CREATED)
    if order not in list(ImageOrder):
        raise _invalid("order", f"order must be one of {', '.join(ImageOrder)}.")
    prefix = given.get("prefix", "")
    if (fault := json_values.fault(prefix)) is not None:
        raise _invalid("prefix", fault)
    return listing.Listing(ImageOrder(order), unicodedata.normalize("NFC", prefix), bodies.query_filter())


def _invalid(parameter: str, detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": f"/{parameter}", "in": "query", "detail": detail}])


def _page(
    session: Session, owner: str, name: str, shown: listing.Listing, after: str | None, limit: int
) -> tuple[list[schemas.Image], str | None, int]:
    collection = collections.get(session, owner, name)
    items, last = listing.page(session, collection, shown, after, limit)
    return items, last, listing.total(session, collection, shown)


@blueprint.patch("/collections/<name>/images")
@operation(
    "Set metadata of many images",
    body=schemas.ImagesPatch,
    json=operations.MANY_NAMES,
    returns=schemas.ImagesChanged,
    errors=(*MISSING, errors.InvalidKey),
)
def annotate_many(name: str) -> flask.Response:
    """The fields that are sent are set, those that are null removed; the images' other fields stay.

    Of ids and keys all are changed or, where one is not there, none. What a filter chooses is changed some thousands
    at a time.
    """
    body = bodies.parse(schemas.ImagesPatch, bodies.read_json())
    changed = bulk.annotate(service.current().database, service.owner(), name, body, body.metadata)
    return answers.of(schemas.ImagesChanged(changed=changed))


@blueprint.delete("/collections/<name>/images")
@operation(
    "Delete many images",
    body=schemas.ImagesBody,
    json=operations.MANY_NAMES,
    returns=schemas.ImagesChanged,
    errors=(*MISSING, errors.InvalidKey),
)
def delete_many(name: str) -> flask.Response:
    """No search or clustering that starts from now on sees them. An empty filter chooses all."""
    body = bodies.parse(schemas.ImagesBody, bodies.read_json())
    changed = bulk.delete(service.current().database, service.owner(), name, body)
    return answers.of(schemas.ImagesChanged(changed=changed))


@blueprint.get("/collections/<name>/labels")
@operation(
    "Count the labels of a collection",
    returns=schemas.Page[schemas.LabelCount],
    parameters=(*PAGED, FIELD),
    errors=(errors.CollectionNotFound,),
)
def count_labels(name: str) -> flask.Response:
    """The values of one metadata field with the number of images that have each, most first."""
    field, skip, limit = (
        flask.request.args.get("field", DEFAULT_FIELD),
        pagination.skipped("labels"),
        pagination.limit(),
    )
    if (fault := json_values.fault(field)) is not None:
        raise _invalid("field", fault)
    items, next_ = service.current().database.read(_labels, service.owner(), name, field, skip, limit)
    cursor = pagination.encode("labels", None if next_ is None else str(next_))
    return answers.of(schemas.Page[schemas.LabelCount](items=items, next_cursor=cursor))


def _labels(
    session: Session, owner: str, name: str, field: str, skip: int, limit: int
) -> tuple[list[schemas.LabelCount], int | None]:
    return labels.page(session, collections.get(session, owner, name), field, skip, limit)


@blueprint.post("/collections/<name>/images/known")
@operation(
    "Ask which images a collection has already",
    body=schemas.KnownBody,
    json=operations.MANY_NAMES,
    returns=schemas.KnownImages,
    errors=(errors.CollectionNotFound,),
)
def known(name: str) -> flask.Response:
    """Return those of the keys that are stored with exactly this content, the SHA-256 of a file: they need not be sent.

    Content that only other keys or collections have is not listed: it will be `reused`, but the job needs its bytes.
    """
    body = bodies.parse(schemas.KnownBody, bodies.read_json())
    return answers.of(service.current().database.read(_known, service.owner(), name, body.images))


def _known(session: Session, owner: str, name: str, contents: list[schemas.Content]) -> schemas.KnownImages:
    return schemas.KnownImages(items=images.known(session, collections.get(session, owner, name), contents))


@blueprint.get("/collections/<name>/images/<id:image_id>")
@operation("Show an image", returns=schemas.Image, errors=MISSING)
def show(name: str, image_id: str) -> flask.Response:
    """Return an image's key, hash, size, format and metadata; embedding and thumbnail have their own addresses."""
    return answers.of(service.current().database.read(_view, service.owner(), name, image_id))


def _view(session: Session, owner: str, name: str, image_id: str) -> schemas.Image:
    return images.view(images.get(session, collections.get(session, owner, name), image_id))


@blueprint.patch("/collections/<name>/images/<id:image_id>")
@operation(
    "Replace an image's metadata",
    body=schemas.ImagePatch,
    json=operations.ONE_METADATA,
    returns=schemas.Image,
    errors=MISSING,
)
def annotate(name: str, image_id: str) -> flask.Response:
    """The new metadata replaces all of the old."""
    body = bodies.parse(schemas.ImagePatch, bodies.read_json())
    return answers.of(service.current().database.write(_annotate, service.owner(), name, image_id, body.metadata))


def _annotate(session: Session, owner: str, name: str, image_id: str, metadata: schemas.Metadata) -> schemas.Image:
    collection = collections.get(session, owner, name)
    return images.view(images.annotate(session, collection, image_id, metadata))


@blueprint.delete("/collections/<name>/images/<id:image_id>")
@operation("Delete an image", status=204, errors=MISSING)
def delete(name: str, image_id: str) -> flask.Response:
    """No search or clustering that starts from now on sees it."""
    service.current().database.write(_delete, service.owner(), name, image_id)
    return answers.nothing()


def _delete(session: Session, owner: str, name: str, image_id: str) -> None:
    images.delete(session, collections.get(session, owner, name), image_id)


@blueprint.get("/collections/<name>/images/<image_id>/embedding")
@operation("Get an image's embedding", returns=schemas.Embedding, media={NPY: BINARY}, errors=MISSING)
def embedding(name: str, image_id: str) -> flask.Response:
    """The answer is JSON, or a NumPy file for `Accept: application/octet-stream`."""
    image, dtype, vector = service.current().database.read(_vector, service.owner(), name, image_id)
    if answers.best_media_type(answers.MEDIA_TYPE, NPY) == NPY:
        return _npy(image.id, vector.astype(dtype.value))
    return answers.of(
        schemas.Embedding(id=image.id, key=image.key, dim=len(vector), dtype=dtype, embedding=vector.tolist())
    )


def _vector(session: Session, owner: str, name: str, image_id: str) -> tuple[schemas.Image, DType, np.ndarray]:
    collection = collections.get(session, owner, name)
    image = images.get(session, collection, image_id)
    return images.view(image), DType(collection.dtype), segments.vector(session, image)


def _npy(image_id: str, vector: np.ndarray) -> flask.Response:
    file = io.BytesIO()
    np.save(file, vector, allow_pickle=False)
    answer = flask.Response(file.getvalue(), mimetype=NPY)
    answer.headers["Content-Disposition"] = f'attachment; filename="{image_id}.npy"'
    return answer


@blueprint.get("/collections/<name>/images/<image_id>/thumbnail")
@operation("Get an image's thumbnail", parameters=(VERSION,), media={"image/jpeg": BINARY}, errors=MISSING)
def thumbnail(name: str, image_id: str) -> flask.Response:
    """Return a small, upright JPEG.

    Browsers keep it for good under an address with `v`, and else ask each time whether it has changed.
    """
    content_hash, picture = service.current().database.read(_thumbnail, service.owner(), name, image_id)
    if picture is None:
        raise errors.NotFound("This image has no thumbnail.")
    answer = flask.Response(picture, mimetype="image/jpeg")
    version = flask.request.args.get("v", "")
    # an image keeps its id when its content is replaced, so a cached one is asked for again
    kept = len(version) >= VERSION_DIGITS and content_hash.startswith(version)
    answer.headers["Cache-Control"] = f"private, {'max-age=31536000, immutable' if kept else 'no-cache'}"
    answer.set_etag(content_hash)
    answer.make_conditional(flask.request)
    return answer


def _thumbnail(session: Session, owner: str, name: str, image_id: str) -> tuple[str, bytes | None]:
    found = thumbnails.named(session, owner, name, image_id)
    if found is None:
        # one of these says what is missing
        images.get(session, collections.get(session, owner, name), image_id)
        raise errors.ImageNotFound()
    return found
