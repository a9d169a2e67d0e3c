"""The gallery over HTTP: its addresses, its headers, what browsers may keep of it, and what its files are."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import re
from collections.abc import Callable
from email.message import Message

import httpx2
import pytest

from imagekin_api.routes import page
from kit.production import Production
from kit.serving import Running
from kit.wire import PROBLEM, check_problem

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
ADDRESSES = [
    "/", "/jobs", "/jobs/0190-of-no-job", "/c/archive", "/c/archive/search", "/c/archive/groups/0190",
    "/c/archive/duplicates/0190", "/c/archive/map/0190", "/c/archive/train", "/c/archive/a/b/c", "/?order=key",
    "/jobs/", "/c/archive/", "/c/%3Cscript%3Ealert(1)%3C%2Fscript%3E", "/c/a%2Fb", "/c/%E2%80%AEgnp.exe",
]  # fmt: skip


@pytest.mark.parametrize("address", ADDRESSES)
def test_every_address_of_the_page_gives_the_same_page(server: Running, address: str) -> None:
    answer = server.client().get(address)
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/html; charset=utf-8"
    # a name in the address is never a part of it
    assert answer.content == page.files()["index.html"].content


def test_a_browser_at_an_address_of_nothing_gets_the_page_which_says_so(server: Running) -> None:
    client = server.client()
    client.headers["Accept"] = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
    for address in ("/nothing", "/jobs/a/b", "/%3Cscript%3E"):
        answer = client.get(address)
        assert answer.status_code == 404
        assert answer.content == page.files()["index.html"].content
        assert answer.headers["Content-Security-Policy"] == POLICY
    # below /v1 and for programs an error stays an error
    check_problem(client.get("/v1/nothing"), 401, "unauthorized")
    check_problem(client.post("/nothing"), 404, "not_found")
    check_problem(client.get("/nothing", headers={"Accept": "*/*"}), 404, "not_found")
    check_problem(client.get("/nothing", headers={"Accept": "application/json, text/html;q=0.9"}), 404, "not_found")


def test_the_page_has_the_headers_that_keep_it_safe(server: Running) -> None:
    headers = server.client().get("/c/archive").headers
    assert headers["Content-Security-Policy"] == POLICY
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["X-Frame-Options"] == "DENY"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Cross-Origin-Opener-Policy"] == "same-origin"
    assert headers["Cross-Origin-Embedder-Policy"] == "require-corp"
    assert headers["Cross-Origin-Resource-Policy"] == "same-origin"


def linked(client: httpx2.Client) -> list[str]:
    return re.findall(r'(?:href|src)="(/app/[^"]+)"', client.get("/").text)


def test_the_page_needs_its_own_files_alone_and_browsers_keep_them_for_good(server: Running) -> None:
    client = server.client()
    assert not re.search(r'(?:href|src)="(?!/)', client.get("/").text)
    addresses = linked(client)
    assert {address.partition("?")[0] for address in addresses} == {"/app/app.js", "/app/style.css", "/app/icon.svg"}
    for address in addresses:
        answer = client.get(address)
        name, _, version = address.removeprefix("/app/").partition("?v=")
        assert answer.status_code == 200
        assert answer.headers["Content-Type"].partition(";")[0] == page.TYPES["." + name.partition(".")[2]]
        if version:
            assert version == hashlib.sha256(answer.content).hexdigest()[:16]
            assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert {"app.js", "style.css"} == {address[5:].partition("?")[0] for address in addresses if "?v=" in address}


@pytest.mark.parametrize("query", ["", "?v=", "?v=0000000000000000", "?w=1"])
def test_a_file_is_not_kept_for_good_under_a_version_that_it_has_not(server: Running, query: str) -> None:
    client = server.client()
    answer = client.get(f"/app/app.js{query}")
    assert answer.headers["Cache-Control"] == "no-cache"
    again = client.get(f"/app/app.js{query}", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


def test_files_go_packed_where_the_browser_unpacks_them(server: Running) -> None:
    client = server.client()
    plain = client.get("/app/app.js", headers={"Accept-Encoding": "identity"})
    assert "Content-Encoding" not in plain.headers
    with client.stream("GET", "/app/app.js", headers={"Accept-Encoding": "gzip"}) as answer:
        packed = b"".join(answer.iter_raw())
    assert answer.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed) == plain.content
    assert answer.headers["ETag"] != plain.headers["ETag"]
    assert answer.headers["Vary"] == "Accept-Encoding"


def test_the_page_is_below_its_size(server: Running) -> None:
    packed = {name: len(file.packed) for name, file in page.files().items()}
    assert sum(packed.values()) <= 200_000, packed


@pytest.mark.parametrize(
    "path",
    [
        "/app/", "/app", "/app/index.html", "/app/none.js", "/app/..", "/app/%2e%2e", "/app/../app.py",
        "/app/..%2fapp.py", "/app/..%2f..%2f..%2fapp.py", "/app/%2e%2e/%2e%2e/templates/docs.html",
        "/app/..%5capp.py", "/app//etc/passwd", "/app/%2fetc%2fpasswd", "/app/app.js/", "/app/app.js%00.svg",
        "/app/.%2e/docs/docs.css", "/app/app.js;.html", "/app/App.js", "/app//app.js",
        "/c//%3Cscript%3E", "//evil.example/c/a", "/%5cevil.example", "/docs/static/..%2fapp%2fapp.js",
    ],
)  # fmt: skip
def test_no_path_leads_out_of_the_pages_files(api: Production, path: str) -> None:
    status, headers, body = as_it_stands(api, path)
    assert (status, json.loads(body)["code"]) == (404, "not_found")
    assert headers["Content-Type"] == PROBLEM


def as_it_stands(api: Production, path: str) -> tuple[int, Message, bytes]:
    """Get a path that other clients would tidy up first."""
    connection = http.client.HTTPConnection("127.0.0.1", api.client.base_url.port, timeout=30)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.headers, answer.read()
    finally:
        connection.close()


def test_only_reading_reaches_the_page(server: Running) -> None:
    for path in ("/", "/jobs", "/c/archive", "/app/app.js"):
        check_problem(server.client().post(path, content=b"x"), 405, "method_not_allowed")
        assert server.client().head(path).status_code == 200


def test_in_local_mode_the_page_is_this_machines_alone(serve: Callable[..., Running]) -> None:
    local = serve(auth="local", first_key="")
    client = local.client()
    assert client.get("/c/archive").status_code == 200
    for path in ("/", "/c/archive", "/app/app.js"):
        check_problem(client.get(path, headers={"Host": "example.org"}), 403, "forbidden")
        check_problem(client.get(path, headers={"X-Forwarded-For": "203.0.113.7"}), 403, "forbidden")
    framed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"}
    check_problem(client.get("/app/app.js", headers=framed), 403, "forbidden")
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    assert client.get("/c/archive", headers=followed).status_code == 200
