"""JSON bodies: checked value by value, parsed once."""

from __future__ import annotations

from typing import Any

import pytest

from imagekin import errors, schemas
from imagekin_api.http import bodies


def test_a_body_is_parsed_once() -> None:
    data = bodies.load('{"metadata": {"deep": [1, {"a": 2}]}}')
    # made anew it would be another list
    assert bodies.parse(schemas.ImagePatch, data).metadata["deep"] is data["metadata"]["deep"]


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"n_clusters": "5"}, "/n_clusters"),
        ({"n_clusters": True}, "/n_clusters"),
        ({"n_clusters": 2.5}, "/n_clusters"),
        ({"n_clusters": 5, "seed": "1"}, "/seed"),
        ({"n_clusters": 5, "metric": "cubic"}, "/metric"),
        ({"n_clusters": 5, "collection": 5}, "/collection"),
        ([], ""),
    ],
)
def test_values_are_of_their_types_and_not_texts_of_them(body: Any, pointer: str) -> None:
    if isinstance(body, dict):
        body = {"collection": "archive", **body}
    with pytest.raises(errors.InvalidRequest) as caught:
        bodies.parse(schemas.ClusterBody, body)
    assert [each["pointer"] for each in caught.value.errors] == [pointer]
    assert "dict" not in caught.value.detail


def test_a_forms_texts_are_read_as_numbers() -> None:
    form = bodies.parse_form(schemas.SearchForm, {"collection": "archive", "top_k": "5", "exclude_query": "false"})
    assert (form.top_k, form.exclude_query) == (5, False)


def test_whole_numbers_are_integers() -> None:
    assert [type(value) for value in bodies.load("[1.0, 1.5, 1e300, -0.0]")] == [int, float, float, int]


@pytest.mark.parametrize(
    ("text", "pointer"),
    [
        ('{"a": [0, {"b": "x\\u0000"}]}', "/filter/a/1/b"),
        ('{"a": {"b\\u0000": 1}}', "/filter/a"),
        ('["\\ud800"]', "/filter/0"),
        ("[1e999]", "/filter/0"),
    ],
)
def test_what_is_not_kept_is_pointed_to(text: str, pointer: str) -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        bodies.load(text, "/filter")
    assert [each["pointer"] for each in caught.value.errors] == [pointer]
