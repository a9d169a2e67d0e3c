"""Embed jobs: they take images from an upload, a folder, addresses, a manifest, a location or a form."""

from __future__ import annotations

import io
from typing import Any

import flask

from imagekin import errors, schemas, sources
from imagekin.schemas.kinds import JobKind
from imagekin.sources import urls
from imagekin.store import collections
from imagekin_api.http import bodies, multipart, operations, packing, problems
from imagekin_api.http.idempotency import Idempotency
from imagekin_api.http.operations import BINARY, IDEMPOTENCY_KEY, operation
from imagekin_api.routes import intake
from imagekin_api.wiring import service


@intake.blueprint.post("/jobs/embed")
@operation(
    "Embed images into a collection",
    body=schemas.EmbedBody,
    json=operations.MANY_SOURCES,
    form={"images": {"type": "array", "items": BINARY}, "archive": BINARY},
    form_model=schemas.EmbedForm,
    returns=schemas.Job,
    status=202,
    parameters=(IDEMPOTENCY_KEY,),
    errors=(*intake.REFUSED, errors.UploadNotFound, errors.SourceRefused, errors.InvalidKey, errors.TooLarge),
)
def embed() -> flask.Response:
    """JSON names an upload, a folder, addresses, a manifest or a location; a form brings the images or an archive.

    An image whose key is stored with the same content is `reused`; with other content, `on_conflict` decides.
    """
    if multipart.is_multipart():
        return _embed_form()
    if bodies.is_json():
        return _embed_json()
    raise problems.UnsupportedMediaType(intake.JSON_OR_FORM)


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
        raise intake.invalid("/source", error.detail) from error
    params = {"source": public, "on_conflict": body.on_conflict.value}
    with intake.enclosure() as enclosed:
        if isinstance(body.source, schemas.UrlsSource):
            # beside the job, which is read far more often than they are
            enclosed.store(io.BytesIO(urls.written(work["urls"])), here.settings.max_upload_bytes)
            work = {"type": "urls", **enclosed.work()}
        return intake.accept(
            intake.submission(
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
    """Return a source as clients see it and as workers need it, and the sha256 of its upload."""
    public = source.model_dump(mode="json", exclude_defaults=True)
    match source:
        case schemas.FolderSource() | schemas.LocationSource():
            return public, public, {}
        case schemas.UrlsSource():
            return {"type": source.type, "count": len(source.urls)}, public, {}
        case schemas.UploadSource(upload_id=upload_id) | schemas.ManifestSource(upload_id=upload_id):
            work = service.current().database.read(intake.upload_work, owner, upload_id)
            asked = {name: public[name] for name in ("exclude", "named", "prefix") if public.get(name)}
            return public, {**work, "type": source.type, **asked}, {upload_id: work["sha256"]}


def _embed_form() -> flask.Response:
    here = service.current()
    form = intake.Form()
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
        named = {"named": True} if pack.count else {}
        work = {"source": {"type": "upload", **enclosed.work(), **named}}
        submission = intake.submission(JobKind.EMBED, collection, params, work, request, body.callback_url, enclosed.id)
        return intake.accept(submission, enclosed)
