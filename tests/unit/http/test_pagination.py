from __future__ import annotations

import flask
import pytest

from imagekin import errors
from imagekin_api.http import pagination


def asked(**query: str) -> flask.ctx.RequestContext:
    return flask.Flask(__name__).test_request_context(query_string=query)


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        ("1", 1),
        ("50", 50),
        ("1000", 1000),
        ("1001", 1000),
        ("0", 1),
        ("-5", 1),
        ("9" * 5000, 1000),
        ("-" + "9" * 99, 1),
    ],
)
def test_a_limit_is_clamped(text: str, limit: int) -> None:
    with asked(limit=text):
        assert pagination.limit() == limit


def test_without_a_limit_there_are_fifty() -> None:
    with asked():
        assert pagination.limit() == 50


@pytest.mark.parametrize("text", ["", "ten", "1.5", "--1", "²", "1e3"])
def test_a_limit_that_is_no_number_is_refused(text: str) -> None:
    with asked(limit=text), pytest.raises(errors.InvalidRequest):
        pagination.limit()


def test_a_cursor_comes_back_as_the_position_it_was_made_of() -> None:
    text = pagination.encode("jobs", "018f")
    assert text is not None
    with asked(cursor=text):
        assert pagination.cursor("jobs") == "018f"
    text = pagination.encode("items:1", (-1, 7))
    assert text is not None
    with asked(cursor=text):
        assert pagination.item_cursor("items:1") == (-1, 7)


def test_the_first_and_the_last_page_have_none() -> None:
    with asked():
        assert pagination.cursor("jobs") is None
        assert pagination.item_cursor("items:1") is None
    assert pagination.encode("jobs", None) is None


def test_a_cursor_of_another_listing_is_refused() -> None:
    one, pair = pagination.encode("jobs", "018f"), pagination.encode("jobs", (1, 2))
    assert one is not None and pair is not None
    with asked(cursor=one), pytest.raises(errors.InvalidRequest):
        pagination.cursor("collections")
    with asked(cursor=one), pytest.raises(errors.InvalidRequest):
        pagination.item_cursor("jobs")
    with asked(cursor=pair), pytest.raises(errors.InvalidRequest):
        pagination.cursor("jobs")


@pytest.mark.parametrize(
    "position", [[1], [1, 2, 3], ["a", "b"], [True, 1.5], [2**62, 0], {"a": 1}, 7, "a\0b", None, [None, None]]
)
def test_a_forged_position_is_refused(position: object) -> None:
    text = pagination.encode("x", position)  # type: ignore[arg-type]
    if text is None:
        return
    with asked(cursor=text), pytest.raises(errors.InvalidRequest):
        pagination.item_cursor("x")
    if position != "a\0b" and isinstance(position, str):
        return
    with asked(cursor=text), pytest.raises(errors.InvalidRequest):
        pagination.cursor("x")
