"""Whether to accept a large body: decided after its first bytes, before any of it is on disk."""

from __future__ import annotations

from typing import Any

import flask
from werkzeug.exceptions import HTTPException

from imagekin.uploads import rows
from imagekin_api.front.body import SMALL_BYTES, too_large
from imagekin_api.http import auth, bodies, multipart
from imagekin_api.wiring import service


def is_drawn(app: flask.Flask, environ: dict[str, Any]) -> bool:
    """Return whether a request asks for a picture that is drawn for it."""
    try:
        path = environ["PATH_INFO"].encode("latin-1").decode("utf-8", "replace")
        endpoint, _ = app.url_map.bind("").match(path, environ["REQUEST_METHOD"])
    except HTTPException:  # nothing is there, or it is elsewhere
        return False
    return getattr(getattr(app.view_functions[endpoint], "operation", None), "drawn", False)


def admit(app: flask.Flask, environ: dict[str, Any], length: int) -> int | None:
    """Return how many bytes this request may send; None if the app refuses it in any case.

    `length` is the announced length, or 0. Raises what the app would: Unauthorized, RateLimited, QuotaExceeded,
    TooLarge and the like.
    """
    with app.request_context(environ):
        request = flask.request
        auth.identify()
        view = app.view_functions.get(request.endpoint) if request.endpoint else None
        if view is None or request.routing_exception is not None:
            return None
        here, operation = service.current(), getattr(view, "operation", None)
        if operation is None or not (operation.raw or operation.body or operation.form):
            raise too_large(SMALL_BYTES)
        if operation.body and bodies.is_json():
            max_bytes = operation.json.max_bytes(here.settings)
        elif operation.form if multipart.is_multipart() else operation.raw:
            max_bytes = here.settings.max_upload_bytes
            if length <= max_bytes:
                here.database.read(rows.check_room, service.owner(), length or 1, here.settings)
        else:
            return None
        if length > max_bytes:
            raise too_large(max_bytes)
        return max_bytes
