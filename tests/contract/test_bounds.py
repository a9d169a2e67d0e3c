"""What is too much to be kept, and what only looks like something harmless: refused at once, with a pointer."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from kit import effort
from kit.hand import Hand, picture
from kit.serving import Running
from kit.wire import check_problem

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/v1/collections", "POST", '{"name": "a", "backbone": "' + "x" * 100_000 + '"}'),
        ("/v1/collections", "POST", "[" + "[]," * 20_000 + "[]]"),
        ("/v1/collections", "POST", "{" + ",".join(f'"a{number}":1' for number in range(11_000)) + "}"),
        ("/v1/jobs/cluster", "POST", '{"collection": "archive", "n_clusters": [' + "1," * 30_000 + "1]}"),
        ("/v1/jobs/embed", "POST", "[" + "{}," * 1_100_000 + "{}]"),
        ("/v1/jobs/embed", "POST", '{"source": {"type": "urls", "urls": [' + "[]," * 1_100_000 + "[]]}}"),
        ("/v1/jobs/search", "POST", '{"query": {"embedding": [' + "0," * 400_000 + "0]}}"),
        ("/v1/jobs/search", "POST", '{"filter": {"a": "' + "x" * 9_000_000 + '"}}'),
        ("/v1/jobs/assign", "POST", '{"image_ids": [' + "1," * 1_000_000 + "1]}"),
        ("/v1/collections/archive/images", "PATCH", '{"image_ids": [' + "1," * 1_000_000 + "1]}"),
        ("/v1/collections/archive/images", "DELETE", '{"image_keys": [' + "[]," * 1_000_000 + "[]]}"),
        ("/v1/collections/archive/images/known", "POST", '{"images": [' + "{}," * 1_000_000 + "{}]}"),
    ],
)
def test_json_of_too_many_bytes_or_values_costs_little(
    client: httpx2.Client, path: str, method: str, body: str
) -> None:
    with effort.at_most(cpu_s=5):
        check_problem(client.request(method, path, content=body.encode(), headers=JSON), 413, "too_large")


def test_many_faults_are_counted_not_listed(client: httpx2.Client) -> None:
    body = {"source": {"type": "urls", "urls": [{"url": 1, "a": 1} for _ in range(10_000)]}}
    with effort.at_most(cpu_s=5):
        problem = check_problem(client.post("/v1/jobs/embed", json=body), 422, "invalid_request")
    assert "faults" in problem["detail"]
    assert "errors" not in problem


def test_metadata_and_filters_have_a_size(client: httpx2.Client, one_image: Hand) -> None:
    [image] = client.get("/v1/collections/archive/images").json()["items"]
    path = f"/v1/collections/archive/images/{image['id']}"
    assert client.patch(path, json={"metadata": {"a": "x" * 60_000}}).status_code == 200
    for large in ({"a": "x" * 66_000}, {"a": ["ß" * 33_000]}):
        problem = check_problem(client.patch(path, json={"metadata": large}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/metadata"
    search: dict[str, Any] = {"collection": "archive", "query": {"image_id": image["id"]}}
    assert client.post("/v1/jobs/search", json={**search, "filter": {"a": "x" * 16_000}}).status_code == 202
    for large in ({"a": "x" * 17_000}, {str(number): 1 for number in range(3000)}):
        problem = check_problem(
            client.post("/v1/jobs/search", json={**search, "filter": large}), 422, "invalid_request"
        )
        assert problem["errors"][0]["pointer"] == "/filter"
    form = {"collection": "archive", "filter": json.dumps({"a": "x" * 17_000})}
    answer = client.post("/v1/jobs/search", data=form, files={"image": ("a.png", picture())})
    assert check_problem(answer, 422, "invalid_request")["errors"][0]["pointer"] == "/filter"


@pytest.mark.parametrize(
    ("path", "field"), [("/v1/jobs/search", "image"), ("/v1/jobs/embed", "archive"), ("/v1/jobs/embed", "images")]
)
def test_a_file_name_that_is_no_name_is_refused(client: httpx2.Client, one_image: Hand, path: str, field: str) -> None:
    for name in ("x" * 1_000_000, "a" + "\u0301" * 200_000):
        with effort.at_most(cpu_s=5):
            answer = client.post(path, data={"collection": "archive"}, files={field: (name, picture())})
        problem = check_problem(answer, 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == f"/{field}"
        assert len(answer.content) < 10_000
    answer = client.post(path, data={"collection": "archive"}, files={"f" * 1_000_000: ("a.png", picture())})
    check_problem(answer, 400, "bad_request")
    assert len(answer.content) < 10_000


@pytest.mark.parametrize(
    "position",
    [True, [True, False], [True, 1], [1, False], [1.0, 2], [1, None], ["1", "2"], [1], [1, 2, 3], {}, 1, [2**70, 1]],
)
def test_a_cursor_of_other_types_is_refused(client: httpx2.Client, one_image: Hand, position: Any) -> None:
    job = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()["id"]
    for path, listing in ((f"/v1/jobs/{job}/items", "items"), ("/v1/jobs", "jobs"), ("/v1/collections", "collections")):
        for name in (listing, f"{listing}:{job}", job):
            text = base64.urlsafe_b64encode(json.dumps([name, position]).encode()).decode().rstrip("=")
            check_problem(client.get(path, params={"cursor": text}), 422, "invalid_request")


@pytest.mark.parametrize(
    "header",
    [
        *("Via", "X-Client-IP", "CF-Connecting-IP", "CF-Ray", "X-Forwarded", "X-Forwarded-By", "X-Forwarded-Ssl"),
        *("Forwarded", "X-Real-IP", "True-Client-IP", "X-Cluster-Client-IP", "Fastly-Client-IP", "Fly-Client-IP"),
        *("X-Original-Forwarded-For", "X-Original-Host", "X-Original-URL", "X-ProxyUser-Ip", "Proxy-Connection"),
        *("X-Envoy-External-Address", "X-Azure-ClientIP", "X-Amzn-Trace-Id", "CloudFront-Viewer-Address", "CDN-Loop"),
        *("X-Appengine-User-IP", "Akamai-Origin-Hop", "X-Host", "X-Scheme", "Client-IP", "Front-End-Https"),
    ],
)
def test_the_local_mode_knows_a_proxy_by_its_headers(serve: Callable[..., Running], header: str) -> None:
    client = serve(auth="local").client()
    assert client.get("/v1/collections").status_code == 200
    check_problem(client.get("/v1/collections", headers={header.lower(): "1"}), 403, "forbidden")


def test_the_local_mode_reads_its_host_to_the_letter(serve: Callable[..., Running]) -> None:
    client = serve(auth="local").client()
    port = client.base_url.port
    for host in (f"127.0.0.1:{port}", f"LocalHost:{port}", f"[::1]:{port}"):
        assert client.get("/v1/collections", headers={"Host": host}).status_code == 200
    for host in (
        *(f"127.0.0.1:{port}{end}" for end in ("#", "?", "/", "#@evil.example", ".", ";x", "\\", "%00", ",a")),
        *(f"{name}:{port}" for name in ("127.0.0.1.", "127.1", "2130706433", "0x7f000001", "localhost.", "::1")),
        *(f"{name}:{port}" for name in ("[::ffff:127.0.0.1]", "[::1%25lo]", "a@localhost", "localhost.evil.example")),
        *("", ":", f":{port}", "localhost:", f"localhost:+{port}", f"localhost: {port}", f"localhost:{port}0000"),
    ):
        check_problem(client.get("/v1/collections", headers={"Host": host}), 403, "forbidden")
