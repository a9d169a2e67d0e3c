"""Exports: a collection's vectors as one file."""

from __future__ import annotations

from itertools import chain

import flask

from imagekin import errors
from imagekin.store import exports
from imagekin_api.http.operations import BINARY, Parameter, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("vectors", __name__)

DEFAULT_FORMAT = "npz"
OCTETS, PARQUET = "application/octet-stream", "application/vnd.apache.parquet"
MEDIA_TYPES = {"npz": OCTETS, "parquet": PARQUET, "safetensors": OCTETS}
FORMAT = Parameter(
    "format", "The file's format.", {"type": "string", "enum": list(exports.FORMATS), "default": DEFAULT_FORMAT}
)


@blueprint.get("/collections/<name>/export")
@operation(
    "Export the vectors of a collection",
    parameters=(FORMAT,),
    media={OCTETS: BINARY, PARQUET: BINARY},
    errors=(errors.CollectionNotFound, errors.Unavailable),
)
def export(name: str) -> flask.Response:
    """The file has all vectors with ids, keys and metadata as of one moment, and their space in its own metadata."""
    format = flask.request.args.get("format", DEFAULT_FORMAT)
    if format not in exports.FORMATS:
        detail = f"format must be one of {', '.join(exports.FORMATS)}."
        raise errors.InvalidRequest(detail, errors=[{"pointer": "/format", "in": "query", "detail": detail}])
    here = service.current()
    if not here.exports.acquire(blocking=False):
        raise errors.Unavailable("The server is already running as many exports as it can; try again later.")
    pieces = exports.write(here.database, service.owner(), name, format)
    try:
        # what is wrong comes out before the answer begins
        first = next(pieces)
    except BaseException:
        here.exports.release()
        raise
    answer = flask.Response(chain([first], pieces), mimetype=MEDIA_TYPES[format])
    answer.headers["Content-Disposition"] = f'attachment; filename="{name}.{format}"'
    answer.call_on_close(pieces.close)
    answer.call_on_close(here.exports.release)
    return answer
