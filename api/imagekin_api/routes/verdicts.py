"""Verdicts on pairs of images, which later duplicates jobs obey."""

from __future__ import annotations

import flask
from sqlalchemy.orm import Session

from imagekin import errors, schemas
from imagekin.store import collections, verdicts
from imagekin_api.http import answers, bodies, operations, pagination
from imagekin_api.http.operations import PAGED, operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("verdicts", __name__)

MISSING = (errors.CollectionNotFound, errors.ImageNotFound)


@blueprint.get("/collections/<name>/verdicts")
@operation(
    "List verdicts",
    returns=schemas.Page[schemas.Verdict],
    parameters=PAGED,
    errors=(errors.CollectionNotFound,),
)
def index(name: str) -> flask.Response:
    """List those on contents that the collection has, each with an image that has it; null if they are all gone."""
    after, limit = pagination.cursor("verdicts"), pagination.limit()
    items, last = service.current().database.read(_page, service.owner(), name, after, limit)
    return answers.of(schemas.Page[schemas.Verdict](items=items, next_cursor=pagination.encode("verdicts", last)))


def _page(
    session: Session, owner: str, name: str, after: str | None, limit: int
) -> tuple[list[schemas.Verdict], str | None]:
    return verdicts.page(session, collections.get(session, owner, name), after, limit)


@blueprint.post("/collections/<name>/verdicts")
@operation(
    "Say which images are the same",
    body=schemas.VerdictsBody,
    json=operations.MANY_NAMES,
    returns=schemas.VerdictsChanged,
    errors=MISSING,
)
def give(name: str) -> flask.Response:
    """Keep verdicts by the images' contents: later duplicates jobs obey them, in all of the owner's collections.

    An image of each pair is of this collection, the other one may be of another. A later verdict on the same contents
    replaces the earlier. Images with the same bytes are one content, of which no verdict is kept.
    """
    body = bodies.parse(schemas.VerdictsBody, bodies.read_json())
    return answers.of(service.current().database.write(_give, service.owner(), name, body.pairs))


def _give(session: Session, owner: str, name: str, pairs: list[schemas.VerdictGiven]) -> schemas.VerdictsChanged:
    return schemas.VerdictsChanged(changed=verdicts.give(session, collections.get(session, owner, name), pairs))


@blueprint.delete("/collections/<name>/verdicts")
@operation(
    "Take verdicts back",
    body=schemas.PairsBody,
    json=operations.MANY_NAMES,
    returns=schemas.VerdictsChanged,
    errors=MISSING,
)
def take_back(name: str) -> flask.Response:
    """Forget the verdicts on these pairs; pairs without a verdict are not counted."""
    body = bodies.parse(schemas.PairsBody, bodies.read_json())
    return answers.of(service.current().database.write(_take_back, service.owner(), name, body.pairs))


def _take_back(session: Session, owner: str, name: str, pairs: list[schemas.PairNamed]) -> schemas.VerdictsChanged:
    return schemas.VerdictsChanged(changed=verdicts.take_back(session, collections.get(session, owner, name), pairs))
