"""What the front found wrong with a request: the app answers it, so that it is logged and counted like any other."""

from __future__ import annotations

import flask

REFUSAL = "imagekin.refusal"


def refuse() -> None:
    """Raise the front's reason for refusing this request; called before the view, after authentication."""
    # where the app itself has nothing at this address, that is the answer
    error = flask.request.environ.get(REFUSAL)
    if error is not None and flask.request.routing_exception is None:
        raise error
