"""What the front found wrong with a request: the app answers it, so that it is logged and counted as any other."""

from __future__ import annotations

import flask

REFUSAL = "imagekin.refusal"


def refuse() -> None:
    """Raise what the front refused this request for; called before the view, after who asks is known."""
    # where the app itself has nothing at this address, that is the answer
    error = flask.request.environ.get(REFUSAL)
    if error is not None and flask.request.routing_exception is None:
        raise error
