"""The content of the documentation page: the OpenAPI document in a form that a template can walk through."""

from __future__ import annotations

import json
import re
from collections.abc import Container
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from imagekin_api.documents import openapi

_CODE = re.compile(r"`([^`]+)`")
_NAME = re.compile(r"\b[A-Z][a-z]\w+")
_PAGE = re.compile(r"\bPage_(\w+)_")


@dataclass(frozen=True, slots=True)
class Field:
    """A field or parameter: its name, its type in words, and its description."""

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
    bodies: list[tuple[str, str]]
    answers: list[tuple[str, str]]


def page(document: dict[str, Any]) -> dict[str, Any]:
    """Return the groups with their calls, the types with their fields, the words of other types, and the errors."""
    calls: dict[str, list[Call]] = {tag["name"]: [] for tag in document["tags"]}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            calls[operation["tags"][0]].append(_call(path, method, operation))
    schemas = {name: each for name, each in document["components"]["schemas"].items() if not _PAGE.match(name)}
    types = {name: _fields(schema) for name, schema in sorted(schemas.items())}
    return {
        "info": document["info"],
        "titles": {tag["name"]: tag["description"] for tag in document["tags"]},
        "calls": calls,
        "types": {name: fields for name, fields in types.items() if fields},
        "words": {name: each["enum"] for name, each in sorted(schemas.items()) if "enum" in each},
        "errors": [(each.code, each.http_status, each().detail) for each in openapi.all_errors()],
    }


def html(text: str, types: Container[str] = ()) -> Markup:
    """Return a text for the page: text between backticks becomes code, and names of `types` become links."""
    page = _PAGE.sub(r"a page of \1", str(escape(text)))
    linked = _NAME.sub(lambda name: f'<a href="#type-{name[0]}">{name[0]}</a>' if name[0] in types else name[0], page)
    # escaped above
    return Markup(_CODE.sub(r"<code>\1</code>", linked))


def _call(path: str, method: str, operation: dict[str, Any]) -> Call:
    parameters = [
        Field(each["name"], f"{each['in']}, {_type(each['schema'])}", each.get("description", ""), "required" in each)
        for each in operation["parameters"]
    ]
    bodies = [
        (media_type, words(content["schema"]))
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
        Field(name, _type(each), each.get("description", ""), name in required)
        for name, each in schema.get("properties", {}).items()
    ]


def words(schema: dict[str, Any]) -> str:
    """Return in a few words what a schema accepts."""
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


def _type(schema: dict[str, Any]) -> str:
    """Return what a schema accepts, its bounds, and its default."""
    member = next((each for each in schema.get("anyOf", ()) if each.get("type") != "null"), schema)
    notes = [words(schema), *_bounds(member)]
    if schema.get("default") not in (None, {}):
        notes.append(f"default {json.dumps(schema['default'])}".replace('"', ""))
    return ", ".join(notes)


def _bounds(schema: dict[str, Any]) -> list[str]:
    kinds = (
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " of them"),
    )
    notes = []
    for least, most, unit in kinds:
        if most in schema:
            notes.append(f"{f'{schema[least]:,} to' if least in schema else 'at most'} {schema[most]:,}{unit}")
        elif schema.get(least, 0) > 0:
            notes.append(f"at least {schema[least]:,}{unit}")
    if "exclusiveMaximum" in schema:
        notes.append(f"below {schema['exclusiveMaximum']:,}")
    return notes
