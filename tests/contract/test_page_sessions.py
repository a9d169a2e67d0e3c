"""Signing in to the page over HTTP: what the cookie opens, for how long, and who gets nowhere with what."""

from __future__ import annotations

import http.cookies
import re
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from imagekin import api_keys, page_sessions
from imagekin.database import sql, tables
from imagekin.database.engine import Database
from imagekin.maintenance import sweep
from imagekin.settings import Settings
from kit.hand import Hand, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import ADMIN_KEY, check_problem

TOKEN = "X-Page-Token"
ARGUMENT = re.compile(r"{\w+}")


def sign_in(server: Running, key: str = ADMIN_KEY, **headers: str) -> httpx2.Client:
    """Return a client as a page that has signed in: it has the cookie, and sends the token by itself."""
    page = server.client()
    answer = page.post("/session", json={"key": key}, headers=headers)
    assert answer.status_code == 200, answer.text
    page.headers[TOKEN] = answer.json()["token"]
    return page


def cookie_of(page: httpx2.Client) -> str:
    [cookie] = page.cookies.jar
    return f"{cookie.name}={cookie.value}"


def thief(server: Running, page: httpx2.Client) -> httpx2.Client:
    """Return a client that has the page's cookie and its token."""
    stolen = server.client()
    stolen.headers.update({"Cookie": cookie_of(page), TOKEN: page.headers[TOKEN]})
    return stolen


def set_cookies(answer: httpx2.Response) -> dict[str, http.cookies.Morsel[str]]:
    return {
        name: morsel
        for line in answer.headers.get_list("Set-Cookie")
        for name, morsel in http.cookies.SimpleCookie(line).items()
    }


# --- signing in and out ----------------------------------------------------------------------------------------


@BOTH_ENGINES
def test_a_key_becomes_a_cookie_that_opens_the_api_until_one_signs_out(server: Running) -> None:
    _, key = server.database.write(api_keys.create, "ada")
    page = server.client()
    assert page.get("/session").json() == {"auth": "keys", "owner": None, "token": None}
    signed_in = page.post("/session", json={"key": key})
    assert signed_in.json() == {"auth": "keys", "owner": "ada", "token": page.get("/session").json()["token"]}
    assert signed_in.headers["Cache-Control"] == "no-store"
    page.headers[TOKEN] = signed_in.json()["token"]
    assert page.post("/v1/collections", json={"name": "archive"}).status_code == 201
    assert [each["name"] for each in page.get("/v1/collections").json()["items"]] == ["archive"]
    assert server.client(ADMIN_KEY).get("/v1/collections").json()["items"] == []
    stolen = thief(server, page)
    assert stolen.get("/v1/jobs").status_code == 200
    signed_out = page.delete("/session")
    assert signed_out.status_code == 204
    assert {morsel["max-age"] for morsel in set_cookies(signed_out).values()} == {"0"}
    assert signed_out.headers["Clear-Site-Data"] == '"cache"'
    assert list(page.cookies.jar) == []
    check_problem(stolen.get("/v1/jobs"), 401, "unauthorized")
    check_problem(stolen.post("/v1/uploads", content=b"x"), 401, "unauthorized")
    assert stolen.get("/session").json()["owner"] is None


@pytest.mark.parametrize(
    ("headers", "name", "secure"),
    [
        ({}, "imagekin", False),
        ({"Origin": "http://HOST"}, "imagekin", False),
        ({"Origin": "https://HOST"}, "__Host-imagekin", True),
        ({"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.7"}, "__Host-imagekin", True),
        ({"X-Forwarded-Proto": "http"}, "imagekin", False),
    ],
)
def test_the_cookie_is_for_this_site_alone_and_expires(
    serve: Callable[..., Running], headers: dict[str, str], name: str, secure: bool
) -> None:
    server = serve(session_ttl_s=3600)
    given = {key: value.replace("HOST", server.url.removeprefix("http://")) for key, value in headers.items()}
    answer = server.client().post("/session", json={"key": ADMIN_KEY}, headers=given)
    [(found, morsel)] = set_cookies(answer).items()
    assert found == name
    assert (morsel["httponly"], morsel["samesite"], morsel["path"]) == (True, "Strict", "/")
    assert (bool(morsel["secure"]), morsel["domain"], morsel["max-age"]) == (secure, "", "3600")
    # a browser that came by https sends it back
    again = server.client().get("/v1/jobs", headers={"Cookie": f"{name}={morsel.value}"})
    assert again.status_code == 200


def test_what_does_not_sign_in_is_answered_alike(server: Running) -> None:
    row, revoked = server.database.write(api_keys.create, "ada")
    row_of_cookie, key_of_cookie = server.database.write(api_keys.create, "bob")
    server.database.write(api_keys.revoke, row.id)
    digest = row_of_cookie.digest
    answers = [
        server.client().post("/session", json={"key": key})
        for key in (revoked, "ik_" + "A" * 43, "x", f" {key_of_cookie}", digest, "\u202e", "%00", ADMIN_KEY[:-1], "é")
    ]
    for answer in answers:
        check_problem(answer, 401, "unauthorized")
        assert "Set-Cookie" not in answer.headers
    assert len({answer.text for answer in answers}) == 1
    assert rows(server) == 0


@pytest.mark.parametrize(
    ("body", "pointer"),
    [({}, "/key"), ({"key": ""}, "/key"), ({"key": None}, "/key"), ({"key": "k" * 1025}, "/key"), ([], "")],
)
def test_a_body_that_is_no_sign_in_is_refused_without_an_echo(server: Running, body: Any, pointer: str) -> None:
    answer = server.client().post("/session", json=body)
    problem = check_problem(answer, 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]
    assert "kkkk" not in answer.text


def test_local_mode_needs_no_sign_in_and_keeps_its_checks(serve: Callable[..., Running]) -> None:
    local = serve(auth="local", first_key="")
    client = local.client()
    assert client.get("/session").json() == {"auth": "local", "owner": "local", "token": None}
    check_problem(client.post("/session", json={"key": "x"}), 422, "invalid_request")
    assert client.delete("/session").status_code == 204
    own = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
    assert client.post("/v1/collections", json={"name": "archive"}, headers=own).status_code == 201
    for headers in ({"Origin": "https://example.org"}, {"Host": "example.org"}, {"Sec-Fetch-Site": "same-site"}):
        check_problem(client.get("/session", headers=headers), 403, "forbidden")
        check_problem(client.post("/v1/collections", json={"name": "b"}, headers=headers), 403, "forbidden")


def test_every_call_takes_the_cookie_and_those_that_change_something_want_the_token(server: Running) -> None:
    page, bare = sign_in(server), server.client()
    bare.headers["Cookie"] = cookie_of(page)
    changing = 0
    for path, methods in server.client().get("/openapi.json").json()["paths"].items():
        if not path.startswith("/v1/"):
            continue
        for method in methods:
            address = ARGUMENT.sub("none", path)
            assert page.request(method, address).status_code not in (401, 403), f"{method} {path}"
            without = bare.request(method, address)
            if method == "get":
                assert without.status_code not in (401, 403), path
            else:
                check_problem(without, 403, "forbidden")
                changing += 1
    assert changing > 20
    assert server.client(ADMIN_KEY).post("/v1/collections", json={"name": "by-key"}).status_code == 201


# --- a page of another site ------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["", "x", "é", "OTHER"])
def test_without_the_pages_own_token_nothing_changes(server: Running, given: str) -> None:
    page, other = sign_in(server), sign_in(server)
    token = other.headers[TOKEN] if given == "OTHER" else given
    hostile = server.client()
    hostile.headers.update([(b"Cookie", cookie_of(page).encode()), (TOKEN.encode(), token.encode("latin-1"))])
    check_problem(hostile.post("/v1/collections", json={"name": "a"}), 403, "forbidden")
    check_problem(hostile.delete("/session"), 403, "forbidden")
    assert page.get("/v1/jobs").status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://["},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://localhost:3000"},
        {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    ],
)
def test_a_foreign_page_gets_nothing_even_with_cookie_and_token(server: Running, headers: dict[str, str]) -> None:
    page = sign_in(server)
    for method, path in (("GET", "/v1/jobs"), ("POST", "/v1/collections"), ("GET", "/session"), ("DELETE", "/session")):
        check_problem(page.request(method, path, headers=headers), 403, "forbidden")
    # nor does it sign its visitor in with a key of its own
    check_problem(server.client().post("/session", json={"key": ADMIN_KEY}, headers=headers), 403, "forbidden")
    assert page.get("/session").json()["owner"] == "admin"


def test_a_form_of_a_foreign_page_does_nothing(server: Running) -> None:
    page = sign_in(server)
    forms: list[dict[str, Any]] = [
        {"data": {"key": ADMIN_KEY, "name": "a"}},
        {"files": {"images": ("a.png", picture())}, "data": {"collection": "archive", "key": ADMIN_KEY}},
        {"content": b'{"key": "%s", "name": "a"}' % ADMIN_KEY.encode(), "headers": {"Content-Type": "text/plain"}},
    ]
    for form in forms:
        # as an old browser sends it, which tells of no origin, and with a cookie that is not Strict
        sent = server.client()
        sent.headers["Cookie"] = cookie_of(page)
        for path in ("/v1/collections", "/v1/uploads", "/v1/jobs/embed"):
            check_problem(sent.post(path, **form), 403, "forbidden")
        answer = sent.post("/session", **form)
        check_problem(answer, 415, "unsupported_media_type")
        assert "Set-Cookie" not in answer.headers
    assert page.get("/v1/collections").json()["items"] == []


def test_no_other_origin_is_ever_let_in(server: Running) -> None:
    asked = {
        "Origin": "https://evil.example", "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "x-page-token, content-type, authorization",
    }  # fmt: skip
    for path in ("/", "/session", "/v1/collections", "/app/app.js", "/openapi.json"):
        for answer in (server.client().options(path, headers=asked), server.client().get(path, headers=asked)):
            assert not [name for name in answer.headers if name.lower().startswith("access-control-")]
            assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"


def test_a_page_behind_a_proxy_is_no_foreign_one(server: Running) -> None:
    # nginx's $host leaves out the port
    proxied = {"Host": "images.example", "X-Forwarded-For": "203.0.113.7", "X-Forwarded-Proto": "https"}
    ours = {**proxied, "Origin": "https://images.example:8443"}
    answer = server.client().post("/session", json={"key": ADMIN_KEY}, headers=ours)
    [(name, morsel)] = set_cookies(answer).items()
    call = {**ours, "Cookie": f"{name}={morsel.value}", TOKEN: answer.json()["token"]}
    assert server.client().post("/v1/collections", json={"name": "a"}, headers=call).status_code == 201
    theirs = {**call, "Origin": "https://images.example.evil.example"}
    check_problem(server.client().post("/v1/collections", json={"name": "b"}, headers=theirs), 403, "forbidden")
    # a password of the proxy's own, which browsers send along
    basic = {**call, "Authorization": "Basic YWRhOnNlY3JldA=="}
    assert server.client().get("/v1/jobs", headers=basic).status_code == 200
    check_problem(server.client().get("/v1/jobs", headers={**call, "Authorization": "Bearer x"}), 401, "unauthorized")


# --- a cookie that was stolen, and keys where they do not belong -----------------------------------------------


def rows(server: Running) -> int:
    query = sa.select(sa.func.count()).select_from(tables.PageSession)
    return server.database.read(lambda session: session.scalars(query).one())


@BOTH_ENGINES
def test_a_stolen_cookie_ends_with_its_key(server: Running) -> None:
    row, key = server.database.write(api_keys.create, "ada")
    _, second = server.database.write(api_keys.create, "ada")
    page, kept = sign_in(server, key), sign_in(server, second)
    stolen = thief(server, page)
    assert stolen.get("/v1/jobs").status_code == 200
    server.database.write(api_keys.revoke, row.id)
    problem = check_problem(stolen.get("/v1/jobs"), 401, "unauthorized")
    assert "Sign in again" in problem["detail"]
    check_problem(stolen.post("/v1/collections", json={"name": "a"}), 401, "unauthorized")
    assert stolen.get("/session").json() == {"auth": "keys", "owner": None, "token": None}
    assert kept.get("/v1/jobs").status_code == 200


@BOTH_ENGINES
def test_an_expired_cookie_opens_nothing_and_is_swept(server: Running) -> None:
    page, kept = sign_in(server), sign_in(server)
    digest = api_keys.digest(cookie_of(page).partition("=")[2])
    past = sa.update(tables.PageSession).filter_by(digest=digest).values(expires_at=sql.clock() - 0.001)
    server.database.write(lambda session: session.execute(past))
    check_problem(page.get("/v1/jobs"), 401, "unauthorized")
    check_problem(page.post("/v1/collections", json={"name": "a"}), 401, "unauthorized")
    assert page.delete("/session").status_code == 204
    assert rows(server) == 2
    server.database.write(sweep.sweep, server.settings)
    assert rows(server) == 1
    assert kept.get("/v1/jobs").status_code == 200


def test_sessions_of_the_first_key_end_with_it(serve: Callable[..., Running]) -> None:
    before = serve()
    stolen = thief(before, sign_in(before))
    for changed in ("another-first-key", ""):
        after = serve(first_key=changed)
        there = after.client()
        there.headers.update(stolen.headers)
        check_problem(there.get("/v1/jobs"), 401, "unauthorized")


def test_signing_in_again_ends_the_session_before(server: Running) -> None:
    page = sign_in(server)
    stolen = thief(server, page)
    again = page.post("/session", json={"key": ADMIN_KEY})
    assert again.json()["token"] != stolen.headers[TOKEN]
    check_problem(stolen.get("/v1/jobs"), 401, "unauthorized")
    assert rows(server) == 1


def test_a_key_has_a_bounded_number_of_sessions_and_the_oldest_end(
    server: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_sessions, "MOST_SESSIONS", 3)
    pages = [sign_in(server) for _ in range(5)]
    assert [page.get("/v1/jobs").status_code for page in pages] == [401, 401, 200, 200, 200]
    assert rows(server) == 3


def test_nothing_that_opens_anything_is_stored(server: Running) -> None:
    page = sign_in(server)
    with server.database.engine.connect() as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM page_sessions")).all())
    cookie = cookie_of(page).partition("=")[2]
    assert api_keys.digest(cookie) in stored
    assert not [secret for secret in (cookie, page.headers[TOKEN], ADMIN_KEY) if secret in stored]
    assert cookie not in page.get("/session").text


def test_a_key_in_an_address_or_a_cookie_is_no_key(server: Running) -> None:
    for query in ("key", "api_key", "apikey", "token", "access_token", "Authorization", "authorization", "imagekin"):
        for value in (ADMIN_KEY, f"Bearer {ADMIN_KEY}"):
            check_problem(server.client().get("/v1/jobs", params={query: value}), 401, "unauthorized")
            answer = server.client().post("/session", params={query: value}, json={})
            check_problem(answer, 422, "invalid_request")
            assert server.client().get("/session", params={query: value}).json()["owner"] is None
    with_user = httpx2.Client(base_url=server.url.replace("://", f"://{ADMIN_KEY}:{ADMIN_KEY}@"), verify=False)
    with with_user:
        check_problem(with_user.get("/v1/jobs"), 401, "unauthorized")
    for name in ("imagekin", "__Host-imagekin", "key", "Authorization"):
        check_problem(server.client().get("/v1/jobs", headers={"Cookie": f"{name}={ADMIN_KEY}"}), 401, "unauthorized")
    for header in ("X-API-Key", "X-Page-Token", "Proxy-Authorization", "Api-Key"):
        check_problem(server.client().get("/v1/jobs", headers={header: ADMIN_KEY}), 401, "unauthorized")


def test_what_a_session_does_is_the_owners_and_counts_as_the_keys_use(serve: Callable[..., Running]) -> None:
    server = serve(rate_limit_per_s=0.2)
    row, key = server.database.write(api_keys.create, "ada")
    page = sign_in(server, key)
    assert server.database.read(lambda session: session.get_one(tables.ApiKey, row.id).last_used_at) is not None
    answers = [page.get("/v1/jobs").status_code for _ in range(3)]
    assert answers == [200, 429, 429]


# --- names that are not what they look like --------------------------------------------------------------------

HOSTILE = [
    "<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "<!doctype html><html><body>x</body></html>",
    "\u202egnp.exe", "{{7*7}}${7*7}", "javascript:alert(1)", "x" * 1000, "a\u2028b<b>", "&lt;script&gt;", "]]>",
]  # fmt: skip


def test_hostile_names_never_come_back_as_html(server: Running, hand: Hand) -> None:
    page = sign_in(server)
    hand.collection()
    keys = [name.replace("/", "∕") for name in HOSTILE]
    ids = hand.images(*keys)
    for id, name in zip(ids, HOSTILE, strict=True):
        path = f"/v1/collections/archive/images/{id}"
        changed = page.patch(path, json={"metadata": {"label": name, name: [name]}})
        assert changed.status_code == 200, changed.text
    job = page.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()
    rows = [{"id": id, "key": key, "label": 0, "distance": 0.0} for id, key in zip(ids, keys, strict=True)]
    medoid = {"id": ids[0], "key": keys[0]}
    clusters = [{"label": 0, "size": len(ids), "medoid": medoid, "cohesion": 1.0}]
    about = {"metric": "euclidean", "algorithm": "kmeans", "seed": 100, "inertia": 0.0, "iterations": 1}
    hand.finish_cluster({"n_clusters": 1, **about, "clusters": clusters}, rows)
    at = f"/v1/jobs/{job['id']}"
    addresses = [
        "/v1/collections", "/v1/collections/archive", "/v1/collections/archive/images",
        "/v1/collections/archive/labels", "/v1/collections/archive/verdicts",
        "/v1/collections/archive/columns?names=id,key,metadata.label",
        *(f"/v1/collections/archive/export?format={format}" for format in ("jsonl", "csv", "labelstudio", "coco")),
        at, f"{at}/items", f"{at}/result", f"{at}/sheet?label=0", "/v1/jobs",
        *(f"/v1/collections/archive/images/{id}{end}" for id in ids for end in ("", "/embedding", "/thumbnail")),
    ]  # fmt: skip
    seen = ""
    for address in addresses:
        for accept in ("text/html,application/xhtml+xml,*/*;q=0.8", "text/csv", "application/x-ndjson"):
            answer = page.get(address, headers={"Accept": accept})
            assert answer.status_code == 200, (address, answer.text)
            assert not re.search("html|xml|javascript", answer.headers["Content-Type"]), address
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
            assert answer.headers["X-Frame-Options"] == "DENY"
            assert answer.headers["Content-Security-Policy"] == "default-src 'none'; frame-ancestors 'none'"
            seen += answer.text if "image/" not in answer.headers["Content-Type"] else ""
    # they did come back, as they are
    assert all(name in seen for name in ("<script>alert(1)</script>", "\u202egnp.exe", "x" * 1000))


def test_hostile_names_in_requests_come_back_in_problems_alone(server: Running) -> None:
    page = sign_in(server)
    for name in HOSTILE:
        requests = [
            ("GET", f"/v1/collections/{httpx2.QueryParams({'n': name})}".replace("n=", ""), {}),
            ("GET", "/v1/collections/archive/labels", {"params": {"field": name}}),
            ("GET", "/v1/collections", {"params": {"cursor": name}}),
            ("POST", "/v1/collections", {"json": {"name": name, name: name}}),
            ("POST", "/v1/jobs/embed", {"files": {"images": (name, picture())}, "data": {"collection": name}}),
            ("POST", "/session", {"json": {"key": name}}),
        ]
        for method, path, call in requests:
            answer = page.request(method, path, headers={"Accept": "text/html"}, **call)
            assert 400 <= answer.status_code < 500, (path, answer.text)
            assert answer.headers["Content-Type"] == "application/problem+json"
            assert answer.headers["X-Content-Type-Options"] == "nosniff"
    for name in HOSTILE:
        assert name not in server.client().get("/").text


# --- the rows themselves ---------------------------------------------------------------------------------------


@BOTH_ENGINES
def test_a_session_is_found_by_its_cookie_and_by_nothing_else(database: Database, settings: Settings) -> None:
    _, key = database.write(api_keys.create, "ada")
    text = database.write(page_sessions.begin, key, 60)
    found = database.read(page_sessions.find, text, "")
    assert found is not None
    assert (found.owner, found.unnoted_key is not None) == ("ada", True)
    for other in (api_keys.digest(text), api_keys.digest(key), key, text[:-1], "", "\ud800", page_sessions.token(text)):
        assert database.read(page_sessions.find, other, "") is None
    database.write(page_sessions.end, text)
    assert database.read(page_sessions.find, text, "") is None
