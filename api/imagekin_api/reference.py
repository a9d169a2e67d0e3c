"""The documentation page's content: the OpenAPI document, put the way that a template can walk it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from imagekin_api import openapi


@dataclass(frozen=True, slots=True)
class Field:
    """A field or parameter: its name, its type in words, and what is said of it."""

    name: str
    type: str
    description: str
    required: bool


@dataclass(frozen=True, slots=True)
class Call:
    """One method of one address."""

    id: str
    method: str
    path: str
    summary: str
    description: str
    parameters: list[Field]
    bodies: list[tuple[str, str, str | None]]
    answers: list[tuple[str, str]]


def page(document: dict[str, Any]) -> dict[str, Any]:
    """Return calls by tag, the types, and the errors."""
    calls: dict[str, list[Call]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            calls.setdefault(operation["tags"][0], []).append(_call(path, method, operation))
    types = {name: _fields(schema) for name, schema in sorted(document["components"]["schemas"].items())}
    return {
        "info": document["info"],
        "calls": calls,
        "types": {name: fields for name, fields in types.items() if fields},
        "errors": [(each.code, each.http_status, each().detail) for each in openapi.all_errors()],
    }


def _call(path: str, method: str, operation: dict[str, Any]) -> Call:
    parameters = [
        Field(each["name"], f"{each['in']}, {words(each['schema'])}", each.get("description", ""), "required" in each)
        for each in operation["parameters"]
    ]
    bodies = [
        (media_type, words(content["schema"]), _link(content["schema"]))
        for media_type, content in operation.get("requestBody", {}).get("content", {}).items()
    ]
    answers = [(status, _answer(answer)) for status, answer in operation["responses"].items() if status != "default"]
    return Call(
        operation["operationId"], method.upper(), path, operation["summary"], operation["description"],
        parameters, bodies, answers,
    )  # fmt: skip


def _answer(answer: dict[str, Any]) -> str:
    if "application/problem+json" in answer.get("content", {}):
        return answer["description"].replace("`", "")
    contents = answer.get("content", {}).items()
    return "; ".join(f"{media_type}: {words(content['schema'])}" for media_type, content in contents) or "no body"


def _fields(schema: dict[str, Any]) -> list[Field]:
    required = schema.get("required", [])
    return [
        Field(name, words(each), each.get("description", ""), name in required)
        for name, each in schema.get("properties", {}).items()
    ]


def words(schema: dict[str, Any]) -> str:
    """Say in a few words what a schema takes."""
    if "$ref" in schema:
        return schema["$ref"].rsplit("/", 1)[-1]
    for union in ("anyOf", "oneOf"):
        if union in schema:
            return " or ".join(dict.fromkeys(words(each) for each in schema[union]))
    if "enum" in schema:
        return " | ".join(map(str, schema["enum"]))
    if "const" in schema:
        return repr(schema["const"])
    if schema.get("type") == "array":
        return f"list of {words(schema.get('items', {}))}"
    if schema.get("format") == "binary":
        return "bytes"
    if schema.get("type") == "object" and "properties" in schema:
        return ", ".join(f"{name} ({words(each)})" for name, each in schema["properties"].items())
    return str(schema.get("format") or schema.get("type") or "anything")


def _link(schema: dict[str, Any]) -> str | None:
    return schema["$ref"].rsplit("/", 1)[-1] if "$ref" in schema else None
