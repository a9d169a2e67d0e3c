from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from imagekin import errors, schemas
from imagekin_api.documents import openapi
from imagekin_api.http import problems


@pytest.mark.parametrize(
    ("location", "data", "pointer"),
    [
        ((), {}, ""),
        (("name",), {"name": 1}, "/name"),
        (("name",), {}, "/name"),
        (("a/b~c",), {}, "/a~1b~0c"),
        (("query", "ImageIdQuery", "image_id"), {"query": {"image_id": 1}}, "/query/image_id"),
        (("query", "ImageIdQuery", "image_id"), {"query": {}}, "/query/image_id"),
        (("query", "ImageIdQuery"), {"query": "x"}, "/query"),
        (("source", "upload", "upload_id"), {"source": {"type": "upload"}}, "/source/upload_id"),
        (("source", "urls", "urls", 1, "url"), {"source": {"type": "urls", "urls": [{}, {}]}}, "/source/urls/1/url"),
        (("query", "EmbeddingQuery", "embedding", 2), {"query": {"embedding": [1, 2, "x"]}}, "/query/embedding/2"),
    ],
)
def test_a_location_becomes_a_json_pointer(location: tuple[int | str, ...], data: Any, pointer: str) -> None:
    assert problems.pointer(location, data) == pointer


def found(data: Any, model: type[schemas.Body] = schemas.SearchBody) -> list[str]:
    with pytest.raises(ValidationError) as raised:
        model.model_validate_json(json.dumps(data), strict=True)
    return [error["pointer"] for error in problems.invalid(raised.value, data).errors]


def test_of_a_union_the_member_that_came_nearest_is_told_of() -> None:
    assert found({"collection": "a", "query": {"image_id": 5}}) == ["/query/image_id"]
    assert found({"collection": "a", "query": {"embedding": []}}) == ["/query/embedding"]
    assert found({"query": {"image_key": ""}}) == ["/collection", "/query/image_key"]
    assert found({"collection": "a", "query": 5}) == ["/query"]


@pytest.mark.parametrize("source", [{"type": "ftp"}, {}])
def test_a_type_that_a_union_does_not_know_is_pointed_at(source: dict[str, str]) -> None:
    assert found({"collection": "a", "source": source}, schemas.EmbedBody) == ["/source/type"]


def test_every_error_that_an_answer_may_name_has_a_code_of_its_own_and_a_status() -> None:
    listed = openapi.all_errors()
    assert len({error.code for error in listed}) == len(listed)
    assert all(400 <= error.http_status < 600 for error in listed)
    assert errors.CollectionExists in listed
    assert not any(issubclass(error, errors.ItemError) for error in listed)
