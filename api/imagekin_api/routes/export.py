"""Exports: a collection as one file."""

from __future__ import annotations

from collections.abc import Generator
from itertools import chain
from typing import Any

import flask

from imagekin import errors
from imagekin.database.engine import Database
from imagekin.schemas import json_values
from imagekin.sources.originals import Originals
from imagekin.store import collections, exports
from imagekin.store.exports.scratch import Scratch
from imagekin_api.http import bodies
from imagekin_api.http.operations import BINARY, Parameter, operation
from imagekin_api.routes.images import FILTER
from imagekin_api.wiring import service

blueprint = flask.Blueprint("vectors", __name__)

DEFAULT_FORMAT, DEFAULT_FIELD, DEFAULT_SPLIT = "npz", "label", "split"
TEXT = {"type": "string"}
OCTETS, PARQUET = "application/octet-stream", "application/vnd.apache.parquet"
JSON, LINES, CSV = "application/json", "application/x-ndjson", "text/csv"
TAR, ZIP = "application/x-tar", "application/zip"
MEDIA_TYPES = {
    "npz": OCTETS,
    "parquet": PARQUET,
    "safetensors": OCTETS,
    "jsonl": LINES,
    "csv": CSV,
    "labelstudio": JSON,
    "coco": JSON,
    "manifest": JSON,
    "webdataset": TAR,
    "imagefolder": ZIP,
}
SUFFIXES = {
    "labelstudio": "labelstudio.json",
    "coco": "coco.json",
    "manifest": "manifest.json",
    "webdataset": "tar",
    "imagefolder": "zip",
}
FORMAT = Parameter(
    "format", "The file's format.", {"type": "string", "enum": list(MEDIA_TYPES), "default": DEFAULT_FORMAT}
)

FIELD = Parameter(
    "field", "The field of the metadata that is the label, where the format has labels.",
    {"type": "string", "default": DEFAULT_FIELD},
)  # fmt: skip
SPLIT = Parameter(
    "split",
    "For imagefolder and manifest: the field of the metadata that is the split; empty: none.",
    {"type": "string", "default": DEFAULT_SPLIT},
)


@blueprint.get("/collections/<name>/export")
@operation(
    "Export a collection",
    parameters=(FORMAT, FIELD, SPLIT, FILTER),
    media={OCTETS: BINARY, PARQUET: BINARY, TAR: BINARY, ZIP: BINARY, LINES: TEXT, CSV: TEXT, JSON: {}},
    errors=(errors.CollectionNotFound, errors.Unavailable),
)
def export(name: str) -> flask.Response:
    """The file has all images with ids, keys and metadata as of one moment.

    npz, parquet and safetensors have their vectors, too, and the space in the file's metadata; jsonl and csv have their
    sizes, labelstudio has tasks to continue labelling with, coco has an annotation of the whole image for each label;
    manifest has the hashes of all images, the space, and the jobs with what they were asked. webdataset and imagefolder
    have the pictures themselves, as far as their sources are still there, and list the images without one.
    """
    format = flask.request.args.get("format", DEFAULT_FORMAT)
    if format not in MEDIA_TYPES:
        detail = f"format must be one of {', '.join(MEDIA_TYPES)}."
        raise errors.InvalidRequest(detail, errors=[{"pointer": "/format", "in": "query", "detail": detail}])
    asked = {
        "field": _text("field", DEFAULT_FIELD), "split": _text("split", DEFAULT_SPLIT), "wanted": bodies.query_filter()
    }  # fmt: skip
    here = service.current()
    if not here.exports.acquire(blocking=False):
        raise errors.Unavailable("The server is already running as many exports as it can; try again later.")
    write = _pictures if format in exports.PICTURES else exports.write
    pieces = write(here.database, service.owner(), name, format, **asked)
    try:
        # what is wrong comes out before the answer begins
        first = next(pieces)
    except BaseException:
        here.exports.release()
        raise
    answer = flask.Response(chain([first], pieces), mimetype=MEDIA_TYPES[format])
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}.{SUFFIXES.get(format, format)}"'
    answer.call_on_close(pieces.close)
    answer.call_on_close(here.exports.release)
    return answer


def _pictures(database: Database, owner: str, name: str, format: str, **asked: Any) -> Generator[bytes]:
    """Yield the pieces of an export with pictures; reading these takes long, so the database is let go before."""
    here = service.current()
    settings = here.settings
    with Scratch(settings.spool_folder) as scratch, Originals(here.storage, settings, scratch) as originals:
        with database.snapshot() as session:
            contents = exports.Contents(session, collections.get(session, owner, name), **asked)
            chosen = exports.Chosen.of(contents, scratch)
            originals.find(session, contents.collection_id)
        yield from exports.PICTURES[format](chosen, originals.read)


def _text(name: str, default: str) -> str:
    text = flask.request.args.get(name, default)
    if (fault := json_values.fault(text)) is not None:
        raise errors.InvalidRequest(fault, errors=[{"pointer": f"/{name}", "in": "query", "detail": fault}])
    return text
