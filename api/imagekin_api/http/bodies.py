"""Request bodies: JSON within limits, validated by the schemas."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import flask
from pydantic import BaseModel, ValidationError

from imagekin import errors, schemas
from imagekin.schemas import json_values
from imagekin_api.http import problems
from imagekin_api.http.operations import JsonBound, Operation
from imagekin_api.wiring import service

T = TypeVar("T", bound=BaseModel)

_PIECE_BYTES = 1 << 20


def is_json() -> bool:
    """Return whether the request says that its body is JSON."""
    return flask.request.mimetype == "application/json" or flask.request.mimetype.endswith("+json")


def read_json() -> Any:
    """Return the request's JSON; raises UnsupportedMediaType, TooLarge, BadRequest and InvalidRequest.

    Whole numbers are integers, so that 1.0 is 1. What a database cannot store is refused: NUL, halves of surrogate
    pairs, and numbers too large for a double.
    """
    if not is_json():
        raise problems.UnsupportedMediaType("Send this as `Content-Type: application/json`.")
    bound = _bound()
    data = read_bytes(bound.max_bytes(service.current().settings))
    # each value stands after a comma or a bracket, and costs far more than the byte that it is written in
    if data.count(b",") + data.count(b"[") + data.count(b"{") > bound.values:
        raise errors.TooLarge(f"The JSON has more than {bound.values:,} values.")
    try:
        return load(data.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise errors.BadRequest(f"The body is not UTF-8: {error.reason} at byte {error.start}.") from None


def load(text: str, pointer: str = "") -> Any:
    """Return the JSON in `text`, checked as in `read_json`; `pointer` is its place in the request.

    Raises BadRequest.
    """
    try:
        return _checked(json.loads(text, parse_constant=_refuse_constant), pointer)
    except RecursionError:
        raise errors.BadRequest("The JSON is nested too deeply.") from None
    except ValueError as error:
        raise errors.BadRequest(f"This is not valid JSON: {error}.") from None


def parse(model: type[T], data: Any) -> T:
    """Return `data`, parsed JSON, as a model; raises InvalidRequest with a pointer to each field that is wrong."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        raise problems.invalid(error, data) from None


def parse_form(model: type[T], fields: dict[str, Any]) -> T:
    """Return a form's fields as a model, with texts parsed as numbers where needed; raises InvalidRequest."""
    try:
        return model.model_validate(fields, strict=False)
    except ValidationError as error:
        raise problems.invalid(error, fields) from None


def query_filter() -> dict[str, Any] | None:
    """Return the filter in the request's query, None without one; raises InvalidRequest."""
    text = flask.request.args.get("filter")
    if text is None:
        return None
    try:
        value = load(text, "/filter")
    except errors.BadRequest as error:
        place = {"pointer": "/filter", "in": "query", "detail": error.detail}
        raise errors.InvalidRequest(error.detail, errors=[place]) from None
    return parse(schemas.ImagesBody, {"filter": value}).filter


def read_bytes(max_bytes: int) -> bytes:
    """Return the request's body; raises TooLarge past `max_bytes`."""
    too_large = errors.TooLarge(f"The body is larger than {max_bytes:,} bytes.")
    if (flask.request.content_length or 0) > max_bytes:
        raise too_large
    pieces, size = [], 0
    while piece := flask.request.stream.read(_PIECE_BYTES):
        pieces.append(piece)
        size += len(piece)
        if size > max_bytes:
            raise too_large
    return b"".join(pieces)


def _bound() -> JsonBound:
    view = flask.current_app.view_functions[flask.request.endpoint or ""]
    operation: Operation = view.operation  # pyright: ignore[reportFunctionMemberAccess] - each that takes JSON has one
    return operation.json


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


class _Unkept(Exception):
    """A value that is not kept: why, and the way to it from the inside out."""

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail
        self.way: list[str | int] = []


def _checked(value: Any, pointer: str) -> Any:
    try:
        return _kept(value)
    except _Unkept as fault:
        at = pointer + "".join(f"/{step}" for step in reversed(fault.way))
        raise errors.InvalidRequest(fault.detail, errors=[{"pointer": at, "detail": fault.detail}]) from None


def _kept(value: Any) -> Any:
    """Return a value with whole numbers as integers; raises _Unkept."""
    kind: type = type(value)
    if kind is dict:
        for name in value:
            _kept(name)
        return {name: _inside(name, each) for name, each in value.items()}
    if kind is list:
        return [_inside(at, each) for at, each in enumerate(value)]
    if (reason := json_values.fault(value)) is not None:
        raise _Unkept(reason)
    return int(value) if kind is float and value.is_integer() and abs(value) < 2**53 else value


def _inside(step: str | int, value: Any) -> Any:
    try:
        return _kept(value)
    except _Unkept as fault:
        fault.way.append(step)
        raise
