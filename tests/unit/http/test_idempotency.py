from __future__ import annotations

from typing import Any

import flask
import pytest

from imagekin import errors
from imagekin_api.http.idempotency import Idempotency

PARTS = [("collection", None, "1" * 64), ("images", "a.png", "2" * 64), ("images", "b.png", "3" * 64)]


def asked(path: str = "/v1/jobs/embed", key: str | None = "k") -> flask.ctx.RequestContext:
    headers = {"Idempotency-Key": key} if key is not None else {}
    return flask.Flask(__name__).test_request_context(path, method="POST", headers=headers)


def digest(body: Any, contents: dict[str, str] | None = None, path: str = "/v1/jobs/embed") -> str | None:
    with asked(path):
        return Idempotency.of_json(body, contents).digest


def test_the_order_of_fields_does_not_count_and_that_of_lists_does() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1})
    assert digest({"b": [1, 2]}) != digest({"b": [2, 1]})
    assert digest({"a": 1}) != digest({"a": "1"})


def test_an_upload_counts_by_its_content() -> None:
    def body(upload_id: str) -> dict[str, Any]:
        return {"collection": "c", "source": {"type": "upload", "upload_id": upload_id}}

    same = digest(body("one"), {"one": "f" * 64})
    assert same == digest(body("two"), {"two": "f" * 64})
    assert same != digest(body("two"), {"two": "0" * 64})


def test_an_address_counts() -> None:
    assert digest({"a": 1}, path="/v1/jobs/search") != digest({"a": 1}, path="/v1/jobs/cluster")


@pytest.mark.parametrize(
    "other",
    [
        PARTS[:2],
        [PARTS[0], PARTS[2], PARTS[1]],
        [*PARTS[:2], ("images", "c.png", "3" * 64)],
        [*PARTS[:2], ("images", "b.png", "4" * 64)],
        [*PARTS[:2], ("archive", "b.png", "3" * 64)],
        [("collection", "", "1" * 64), *PARTS[1:]],
    ],
)
def test_of_a_form_every_part_counts_in_its_place(other: list[tuple[str, str | None, str]]) -> None:
    with asked():
        first, again, different = (Idempotency.of_parts(parts).digest for parts in (PARTS, list(PARTS), other))
    assert first == again != different


def test_without_a_key_there_is_no_digest() -> None:
    with asked(key=None):
        assert Idempotency.of_json({}) == Idempotency(None, None)
        assert Idempotency.of_parts(PARTS) == Idempotency(None, None)


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there"])
def test_a_key_that_cannot_be_kept_is_refused(key: str) -> None:
    with asked(key=key), pytest.raises(errors.InvalidRequest):
        Idempotency.of_json({})
