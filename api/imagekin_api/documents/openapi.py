"""The OpenAPI 3.1 document, made from the routes and their descriptions."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Iterator
from typing import Any

import flask
from pydantic import TypeAdapter
from pydantic.json_schema import JsonSchemaMode
from werkzeug.routing import Rule

from imagekin import errors, schemas
from imagekin_api.http import cookies, problems
from imagekin_api.http.operations import BINARY, Operation

VERSION = "3.1.1"
_REFERENCE = "#/components/schemas/{model}"
_ARGUMENT = re.compile(r"<(?:\w+:)?(\w+)>")
_ANY_BODY = "application/octet-stream"
# The groups of calls, in the order in which one comes to need them.
TAGS = {
    "collections": "Collections",
    "uploads": "Uploads",
    "submissions": "Asking for work",
    "jobs": "Jobs",
    "results": "Results",
    "images": "Images",
    "columns": "Columns of all images",
    "verdicts": "Verdicts on pairs of images",
    "vectors": "Exporting and importing vectors",
    "backbones": "Backbones",
    "session": "Signing in to the web page",
}
# What any address may answer.
_ALWAYS = (errors.Unauthorized, errors.Forbidden, errors.InvalidRequest, errors.RateLimited, errors.Unavailable)


def document(app: flask.Flask) -> dict[str, Any]:
    """Return the document for the addresses under /v1, and the page's own."""
    operations = sorted(_operations(app), key=lambda each: (each[0].rule, each[1]))
    by_type, definitions = _schemas(operation for _, _, operation, _ in operations)
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, operation, view in operations:
        path = _ARGUMENT.sub(r"{\1}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule, operation, view, by_type, definitions)
    return {
        "openapi": VERSION,
        "info": {
            "title": "imagekin",
            "version": "1",
            "summary": "Find an image's kin: embed, search and cluster images as jobs.",
        },
        "security": [{"key": []}, {"cookie": []}],
        "tags": [{"name": name, "description": description} for name, description in TAGS.items()],
        "paths": paths,
        "components": {
            "schemas": definitions,
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer"},
                "cookie": {
                    "type": "apiKey",
                    "in": "cookie",
                    "name": cookies.PLAIN_NAME,
                    "description": "The web page's: `POST /session` sets it, "
                    f"behind https as `{cookies.SECURE_NAME}`. "
                    f"With calls that change something, `{cookies.TOKEN_HEADER}` has the token of `GET /session`.",
                },
            },
        },
    }


def all_errors() -> list[type[errors.ImagekinError]]:
    """Return the errors that an answer may contain, by their codes."""
    found: dict[str, type[errors.ImagekinError]] = {}
    open_classes = [errors.ImagekinError]
    while open_classes:
        each = open_classes.pop()
        if not issubclass(each, errors.JobError | errors.ItemError | errors.LeaseLost):
            found.setdefault(each.code, each)
            open_classes.extend(each.__subclasses__())
    return [found[code] for code in sorted(found)]


def _operations(app: flask.Flask) -> Iterator[tuple[Rule, str, Operation, Any]]:
    for rule in app.url_map.iter_rules():
        view = app.view_functions[rule.endpoint]
        operation = getattr(view, "operation", None)
        if isinstance(operation, Operation):
            for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
                yield rule, method, operation, view


def _schemas(operations: Iterable[Operation]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the schema of each type in the document, and the definitions that they refer to.

    Request types are described as they are validated, answer types as they are written.
    """
    types: dict[str, tuple[str, JsonSchemaMode, TypeAdapter[Any]]] = {}

    def add(model: Any, mode: JsonSchemaMode) -> None:
        if model is not None:
            types[_key(model)] = (_key(model), mode, TypeAdapter(model))

    add(schemas.Problem, "serialization")
    for operation in operations:
        add(operation.body, "validation")
        add(operation.form_model, "validation")
        add(operation.returns, "serialization")
    refs, document = TypeAdapter.json_schemas(types.values(), ref_template=_REFERENCE)
    return {key: schema for (key, _), schema in refs.items()}, document["$defs"]


def _key(model: Any) -> str:
    return str(model)


def _operation(
    rule: Rule, operation: Operation, view: Any, by_type: dict[str, Any], definitions: dict[str, Any]
) -> dict[str, Any]:
    tag, _, name = rule.endpoint.partition(".")
    described: dict[str, Any] = {
        "operationId": f"{tag}_{name}",
        "tags": [tag],
        "summary": operation.summary,
        "description": inspect.getdoc(view) or "",
        "parameters": [*_path_parameters(rule), *_parameters(operation)],
        "responses": {str(operation.status): _answer(operation, by_type), **_failures(operation, by_type)},
    }
    body = _body(operation, by_type, definitions)
    if body is not None:
        described["requestBody"] = {"content": body, "required": operation.body_required}
    if getattr(view, "is_public", False):
        described["security"] = []
    return described


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in _ARGUMENT.findall(rule.rule)
    ]


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    return [
        {"name": each.name, "in": each.place, "description": each.description, "schema": dict(each.schema)}
        for each in operation.parameters
    ]


def _answer(operation: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    content = {media_type: {"schema": dict(schema)} for media_type, schema in operation.media.items()}
    if operation.returns is not None:
        content = {"application/json": {"schema": by_type[_key(operation.returns)]}, **content}
    answer: dict[str, Any] = {"description": operation.summary}
    if content:
        answer["content"] = content
    if operation.status in (201, 202) and operation.returns is not schemas.Upload:
        answer["headers"] = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}
    if operation.status == 202:
        answer["headers"]["Retry-After"] = {
            "description": "Seconds until the next poll.",
            "schema": {"type": "integer"},
        }
    return answer


def _failures(operation: Operation, by_type: dict[str, Any]) -> dict[str, Any]:
    content = {problems.MEDIA_TYPE: {"schema": by_type[_key(schemas.Problem)]}}
    by_status: dict[int, list[str]] = {}
    known = [*_ALWAYS, *operation.errors]
    if operation.body is not None or operation.raw:
        known += [errors.BadRequest, errors.TooLarge, problems.UnsupportedMediaType]
    for error in dict.fromkeys(known):
        by_status.setdefault(error.http_status, []).append(f"`{error.code}`")
    answers = {
        str(status): {"description": ", ".join(codes), "content": content}
        for status, codes in sorted(by_status.items())
    }
    return {**answers, "default": {"description": "Any other error.", "content": content}}


def _body(operation: Operation, by_type: dict[str, Any], definitions: dict[str, Any]) -> dict[str, Any] | None:
    content: dict[str, Any] = {}
    if operation.body is not None:
        content["application/json"] = {"schema": by_type[_key(operation.body)]}
    if operation.form is not None:
        form = definitions[operation.form_model.__name__]
        fields = {name: _sayable(schema) for name, schema in form["properties"].items()}
        files = {name: dict(schema) for name, schema in operation.form.items()}
        content["multipart/form-data"] = {"schema": {**form, "properties": {**fields, **files}}}
    if operation.raw:
        content[_ANY_BODY] = {"schema": dict(BINARY)}
    return content or None


def _sayable(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a field's schema without null, which a form cannot express; leaving the field out means null."""
    members = [each for each in schema.get("anyOf", ()) if each.get("type") != "null"]
    if len(members) != 1:
        return schema
    rest = {name: value for name, value in schema.items() if name != "anyOf" and (name, value) != ("default", None)}
    return {**members[0], **rest}
