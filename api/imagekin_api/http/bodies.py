"""Request bodies: JSON within limits, validated by the schemas."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import flask
from pydantic import BaseModel, ValidationError

from imagekin import errors
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
        return model.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        raise problems.invalid(error, data) from None


def parse_form(model: type[T], fields: dict[str, Any]) -> T:
    """Return a form's fields as a model, with texts parsed as numbers where needed; raises InvalidRequest."""
    try:
        return model.model_validate(fields)
    except ValidationError as error:
        raise problems.invalid(error, fields) from None


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


def _checked(value: Any, pointer: str) -> Any:
    if (fault := json_values.fault(value)) is not None:
        raise _invalid(pointer, fault)
    match value:
        case float() if value.is_integer() and abs(value) < 2**53:
            return int(value)
        case dict():
            for name in value:
                _checked(name, pointer)
            return {name: _checked(each, f"{pointer}/{name}") for name, each in value.items()}
        case list():
            return [_checked(each, f"{pointer}/{at}") for at, each in enumerate(value)]
    return value


def _invalid(pointer: str, detail: str) -> errors.InvalidRequest:
    return errors.InvalidRequest(detail, errors=[{"pointer": pointer, "detail": detail}])
