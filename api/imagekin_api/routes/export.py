"""Exports: a collection as one file."""

from __future__ import annotations

from itertools import chain

import flask

from imagekin import errors
from imagekin.store import exports
from imagekin_api.http.operations import BINARY, Parameter, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("vectors", __name__)

DEFAULT_FORMAT, DEFAULT_FIELD = "npz", "label"
TEXT = {"type": "string"}
OCTETS, PARQUET = "application/octet-stream", "application/vnd.apache.parquet"
JSON, LINES, CSV = "application/json", "application/x-ndjson", "text/csv"
MEDIA_TYPES = {
    "npz": OCTETS,
    "parquet": PARQUET,
    "safetensors": OCTETS,
    "jsonl": LINES,
    "csv": CSV,
    "labelstudio": JSON,
    "coco": JSON,
}
SUFFIXES = {"labelstudio": "labelstudio.json", "coco": "coco.json"}
FORMAT = Parameter(
    "format", "The file's format.", {"type": "string", "enum": list(exports.FORMATS), "default": DEFAULT_FORMAT}
)

FIELD = Parameter(
    "field", "For csv, labelstudio and coco: the field of the metadata that is the label.",
    {"type": "string", "default": DEFAULT_FIELD},
)  # fmt: skip


@blueprint.get("/collections/<name>/export")
@operation(
    "Export a collection",
    parameters=(FORMAT, FIELD),
    media={OCTETS: BINARY, PARQUET: BINARY, LINES: TEXT, CSV: TEXT, JSON: {}},
    errors=(errors.CollectionNotFound, errors.Unavailable),
)
def export(name: str) -> flask.Response:
    """The file has all images with ids, keys and metadata as of one moment.

    npz, parquet and safetensors have their vectors, too, and the space in the file's metadata; jsonl and csv have their
    sizes, labelstudio has tasks to continue labelling with, coco has an annotation of the whole image for each label.
    """
    format = flask.request.args.get("format", DEFAULT_FORMAT)
    if format not in exports.FORMATS:
        detail = f"format must be one of {', '.join(exports.FORMATS)}."
        raise errors.InvalidRequest(detail, errors=[{"pointer": "/format", "in": "query", "detail": detail}])
    field = flask.request.args.get("field", DEFAULT_FIELD)
    here = service.current()
    if not here.exports.acquire(blocking=False):
        raise errors.Unavailable("The server is already running as many exports as it can; try again later.")
    pieces = exports.write(here.database, service.owner(), name, format, field)
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
