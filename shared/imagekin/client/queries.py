"""What `search` was given, as the body of its request."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, TypedDict

import numpy as np
from numpy.typing import ArrayLike

from imagekin import errors, schemas
from imagekin.client import bodies
from imagekin.client.bodies import Body
from imagekin.enums import Refine, ViewName

Picture = str | os.PathLike[str] | bytes | BinaryIO

SEVERAL = ("positives", "negatives", "refine")
QUERIES = ("image_id", "image_key", "embedding", "url")
_NAMELESS = "query"


class Options(TypedDict, total=False):
    """What a search takes beside its picture and collection; see `Client.search`."""

    image_id: str | None
    image_key: str | None
    embedding: ArrayLike | None
    url: str | None
    positives: Sequence[Mapping[str, Any]] | None
    negatives: Sequence[Mapping[str, Any]] | None
    refine: Refine | str | None
    top_k: int
    min_score: float | None
    exclude_query: bool
    view: ViewName | str | None
    filter: Mapping[str, Any] | None
    crop: Sequence[float] | None
    collapse_duplicates: bool | None


def body(picture: Picture | None, collection: str, callback_url: str | None, options: Options) -> Body:
    """Make the body of a search for exactly one of the queries; raises `InvalidRequest` for none or several.

    Positives and negatives may stand beside a picture, or alone.
    """
    given: dict[str, Any] = {"picture": picture, **dict.fromkeys((*QUERIES, *SEVERAL)), **options}
    form = bodies.model(
        schemas.SearchFields,
        collection=collection,
        callback_url=callback_url,
        **{name: value for name, value in given.items() if name not in ("picture", *QUERIES, *SEVERAL)},
    )
    if isinstance(picture, str) and picture.startswith(("http://", "https://")):
        given |= {"picture": None, "url": picture}
    named = {name: given[name] for name in ("picture", *QUERIES) if given[name] is not None}
    several = {name: given[name] for name in SEVERAL if given[name] is not None}
    for name in ("positives", "negatives"):
        if name in several:
            several[name] = [_example(each) for each in several[name]]
    if several and not named:
        return bodies.json(schemas.SearchBody, **_fields(form), **several)
    if several and list(named) != ["picture"]:
        raise errors.InvalidRequest(f"Give one query, or positives, not {', '.join([*named, *several])}.")
    if len(named) != 1:
        raise errors.InvalidRequest(f"Give one query out of picture, {', '.join(QUERIES)}, not {len(named)}.")
    if given["picture"] is not None:
        return _form(form, given["picture"], several)
    if "embedding" in named:
        named["embedding"] = _vector(named["embedding"])
    return bodies.of_json({**_fields(form), "query": named})


def _example(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return one of several queries; an embedding may be an array."""
    return {name: _vector(value) if name == "embedding" else value for name, value in given.items()}


def _form(form: schemas.SearchFields, picture: Picture, several: Mapping[str, Any]) -> Body:
    fields = {**_fields(form), **several}
    values = {name: value if isinstance(value, str) else json.dumps(value) for name, value in fields.items()}
    if isinstance(picture, str | os.PathLike):
        path = bodies.expanded(Path(picture))
        path.stat()
        return bodies.of_form("image", path, bodies.name_of(path), values)
    return bodies.of_form("image", picture, _name(picture), values)


def _fields(form: schemas.SearchFields) -> dict[str, Any]:
    return form.model_dump(mode="json", exclude_none=True)


def _name(picture: bytes | BinaryIO) -> str:
    name = getattr(picture, "name", None)
    return bodies.name_of(Path(name)) if isinstance(name, str) else _NAMELESS


def _vector(embedding: ArrayLike) -> list[float]:
    array = np.asarray(embedding, dtype=np.float64)
    if array.ndim != 1:
        raise errors.InvalidRequest(f"An embedding is a vector, not an array of shape {array.shape}.")
    return array.tolist()
