"""What holds for every address: errors, headers, media types, the document, the page."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa
import structlog

from imagekin.schemas.kinds import JobKind
from imagekin_api.documents import openapi
from imagekin_api.http.operations import Operation
from kit.hand import Hand
from kit.serving import BOTH_ENGINES, Running
from kit.wire import ADMIN_KEY, PROBLEM, check_problem

JSON = {"Content-Type": "application/json"}


def test_an_unknown_address_is_a_problem(client: httpx2.Client, server: Running) -> None:
    check_problem(client.get("/v1/nothing"), 404, "not_found")
    check_problem(client.get("/nothing"), 404, "not_found")
    check_problem(server.client().get("/nothing"), 404, "not_found")
    check_problem(client.get("/v1/collections/"), 404, "not_found")
    check_problem(client.get("/v1/collections/a%00b"), 404, "not_found")


def test_an_unknown_method_is_a_problem_that_says_which_are_known(client: httpx2.Client) -> None:
    answer = client.put("/v1/collections", json={})
    check_problem(answer, 405, "method_not_allowed")
    assert allowed(answer) == {"GET", "HEAD", "OPTIONS", "POST"}


def allowed(answer: httpx2.Response) -> set[str]:
    return set(re.split(", *", answer.headers["Allow"]))


@pytest.mark.parametrize("word", [kind.value for kind in JobKind if kind not in (JobKind.IMPORT, JobKind.INDEX)])
def test_what_jobs_are_posted_to_is_no_job(client: httpx2.Client, word: str) -> None:
    for method in ("GET", "DELETE"):
        answer = client.request(method, f"/v1/jobs/{word}")
        check_problem(answer, 405, "method_not_allowed")
        assert allowed(answer) == {"OPTIONS", "POST"}
    check_problem(client.get(f"/v1/jobs/{word}s"), 404, "job_not_found")


def test_options_names_the_methods_of_the_document(client: httpx2.Client, document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        # a word of its own, where an id stands
        answer = client.options(path.replace("{", "a-").replace("}", ""))
        assert answer.status_code == 200
        assert allowed(answer) - {"HEAD", "OPTIONS"} == {method.upper() for method in methods}, path


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"name": NaN}',
        b'"\xff"',
        b"[" * 9_000,
        b'{"name": ' + b"1" * 5000 + b"}",
        b"\xfe\xff",
    ],
)
def test_malformed_json_is_a_bad_request(client: httpx2.Client, body: bytes) -> None:
    check_problem(client.post("/v1/collections", content=body, headers=JSON), 400, "bad_request")


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        (b"[]", ""),
        (b"null", ""),
        (b'"name"', ""),
        (b'{"name": "a\\u0000b"}', "/name"),
        (b'{"name": "\\ud800"}', "/name"),
        (b'{"name": 1e999}', "/name"),
        (b'{"a/b": 1, "name": "x"}', "/a~1b"),
    ],
)
def test_json_that_is_not_the_body_is_invalid(client: httpx2.Client, body: bytes, pointer: str) -> None:
    problem = check_problem(client.post("/v1/collections", content=body, headers=JSON), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == pointer


def test_what_no_database_keeps_is_refused_in_metadata(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    [image] = hand.images("a.jpg")
    for body in (
        b'{"metadata": {"a": ["\\ud800"]}}',
        b'{"metadata": {"a": [1e999]}}',
        b'{"metadata": {"a": ["\\u0000"]}}',
    ):
        answer = client.patch(f"/v1/collections/archive/images/{image}", content=body, headers=JSON)
        assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "/metadata/a/0"


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "", "multipart/form-data"])
def test_a_body_of_another_type_is_unsupported(client: httpx2.Client, content_type: str) -> None:
    headers = {"Content-Type": content_type} if content_type else {}
    check_problem(
        client.post("/v1/collections", content=b'{"name": "a"}', headers=headers), 415, "unsupported_media_type"
    )


def test_json_past_the_limit_is_too_large(serve: Callable[..., Running]) -> None:
    client = serve(max_json_bytes=1000).client(ADMIN_KEY)
    body = json.dumps({"name": "a" * 1000}).encode()
    check_problem(client.post("/v1/collections", content=body, headers=JSON), 413, "too_large")
    check_problem(client.post("/v1/collections", content=iter([body]), headers=JSON), 413, "too_large")


def test_an_error_of_ours_tells_nothing(
    server: Running, client: httpx2.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise RuntimeError("the secret")

    monkeypatch.setattr("imagekin.store.collections.get", broken)
    problem = check_problem(client.get("/v1/collections/archive"), 500, "internal_error")
    assert "secret" not in json.dumps(problem)


@BOTH_ENGINES
def test_a_database_that_is_away_is_unavailable(server: Running, client: httpx2.Client) -> None:
    with server.database.engine.connect() as connection:
        connection.execute(sa.text("ALTER TABLE collections RENAME TO elsewhere"))
        connection.commit()
    answer = client.get("/v1/collections")
    check_problem(answer, 503, "unavailable")
    assert int(answer.headers["Retry-After"]) >= 1


def test_every_answer_has_the_headers_that_keep_it_safe(client: httpx2.Client, server: Running) -> None:
    for path in ("/v1/backbones", "/v1/nothing", "/healthz", "/openapi.json", "/docs"):
        headers = client.get(path).headers
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
        assert headers["Cache-Control"] == "no-store"


def test_an_answer_can_be_read_while_the_body_is_still_being_sent(client: httpx2.Client) -> None:
    # refused at its first byte; a server that hangs up breaks the client's pipe instead
    check_problem(client.post("/v1/nothing", content=b"x" * 20_000_000), 404, "not_found")


def test_a_request_is_logged_with_its_job(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg")
    with structlog.testing.capture_logs() as lines:
        job = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()
        client.get("/healthz")
    [line] = [line for line in lines if line["event"] == "request"]
    assert (line["job_id"], line["status"], line["path"]) == (job["id"], 202, "/v1/jobs/cluster")
    assert line["owner"] == "admin"


# --- the document and the page ---------------------------------------------------------------------------------


@pytest.fixture
def document(server: Running) -> dict[str, Any]:
    return server.client().get("/openapi.json").json()


def test_the_document_describes_every_address(server: Running, document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    routes = {
        (re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule), method.lower())
        for rule in server.app.url_map.iter_rules()
        if rule.rule.startswith("/v1/") or rule.rule == "/session"
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    described = {(path, method) for path, methods in document["paths"].items() for method in methods}
    assert described == routes
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(operations)
    for operation in operations:
        assert operation["summary"]
        assert operation["description"]
        assert PROBLEM in operation["responses"]["default"]["content"]


def test_every_reference_in_the_document_leads_somewhere(document: dict[str, Any]) -> None:
    text = json.dumps(document)
    names = set(re.findall(r'"#/components/schemas/([^"]+)"', text))
    assert names
    assert names <= document["components"]["schemas"].keys()
    assert "$defs" not in text


def test_every_path_parameter_is_declared(document: dict[str, Any]) -> None:
    for path, methods in document["paths"].items():
        for operation in methods.values():
            declared = [each["name"] for each in operation["parameters"] if each["in"] == "path"]
            assert declared == re.findall(r"{(\w+)}", path)


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    validator = pytest.importorskip("openapi_spec_validator", reason="openapi-spec-validator is not installed")
    validator.validate(document)


def test_forms_and_json_stand_side_by_side(document: dict[str, Any]) -> None:
    content = document["paths"]["/v1/jobs/embed"]["post"]["requestBody"]["content"]
    assert content.keys() == {"application/json", "multipart/form-data"}
    form = content["multipart/form-data"]["schema"]["properties"]
    assert {"images", "archive", "collection", "on_conflict"} <= form.keys()


def test_the_one_body_that_may_be_left_out_is_said_so(document: dict[str, Any]) -> None:
    optional = [
        (path, method)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
        if "requestBody" in operation and not operation["requestBody"]["required"]
    ]
    assert optional == [("/v1/jobs/{job_id}/retry", "post")]


def test_an_operation_names_the_errors_it_raises(server: Running) -> None:
    views = server.app.view_functions.values()
    described = [getattr(view, "operation") for view in views if hasattr(view, "operation")]  # noqa: B009 - set on functions
    named = {error for operation in described if isinstance(operation, Operation) for error in operation.errors}
    assert named <= set(openapi.all_errors())


def test_the_page_needs_nothing_from_elsewhere(server: Running) -> None:
    client = server.client()
    page = client.get("/docs")
    assert page.headers["Content-Type"].startswith("text/html")
    assert page.headers["Content-Security-Policy"] == "default-src 'none'; style-src 'self'; frame-ancestors 'none'"
    links = re.findall(r'(?:href|src)="([^"]+)"', page.text)
    assert links
    assert all(link.startswith(("/", "#")) for link in links)
    for link in links:
        if link.startswith("/"):
            assert client.get(link).status_code == 200
        else:
            assert f'id="{link[1:]}"' in page.text
    for path in ("/v1/jobs/embed", "/v1/collections/{name}/images/{image_id}/embedding"):
        assert path in page.text


def test_a_problems_type_leads_to_its_place_on_the_page(client: httpx2.Client) -> None:
    path, _, anchor = client.get("/v1/jobs/none").json()["type"].partition("#")
    assert f'id="{anchor}"' in client.get(path).text


# --- the process -----------------------------------------------------------------------------------------------


def test_the_api_never_imports_torch() -> None:
    program = (
        "import sys, imagekin_api.command, imagekin_api.server;"
        "from imagekin.settings import Settings;"
        "app = imagekin_api.server.create_app(Settings());"
        "sys.exit(bool({'torch', 'torchvision', 'imagekin_worker'} & sys.modules.keys()))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
