"""Signing in to the web page: a key becomes a cookie that no script can read, and a token for the page."""

from __future__ import annotations

import flask
from sqlalchemy.orm import Session

from imagekin import api_keys, errors, page_sessions, schemas
from imagekin_api.http import answers, auth, bodies, cookies
from imagekin_api.http.operations import operation
from imagekin_api.wiring import service

blueprint = flask.Blueprint("session", __name__)


@blueprint.get("/session")
@auth.public
@operation("Show the page's session", returns=schemas.PageSession)
def show() -> flask.Response:
    """`owner` is null for a page that is not signed in.

    `token` goes into the header `X-Page-Token` of calls by cookie that change something; calls with a key and those in
    local mode need none.
    """
    if service.current().settings.auth == "local":
        return answers.of(schemas.PageSession(auth="local", owner=api_keys.LOCAL))
    found = cookies.signed_in()
    return _of(found) if found is not None else answers.of(schemas.PageSession(auth="keys"))


@blueprint.post("/session")
@auth.public
@operation("Sign in to the page", body=schemas.SignInBody, returns=schemas.PageSession)
def sign_in() -> flask.Response:
    """A valid key begins a session: its cookie is HttpOnly, SameSite=Strict, behind https Secure, and expires.

    It stands for the key in all calls until then, and no longer than the key is valid.
    """
    here = service.current()
    if here.settings.auth == "local":
        raise errors.InvalidRequest("This server runs in local mode, which has no keys: nothing has to sign in.")
    cookies.refuse_foreign_pages()
    key = bodies.parse(schemas.SignInBody, bodies.read_json()).key
    owner = auth.owner_of(key)
    auth.count(owner)
    flask.g.owner = owner
    text = here.database.write(_begin, key, here.settings.session_ttl_s, cookies.text())
    answer = _of(cookies.SignedIn(owner, page_sessions.token(text)))
    cookies.keep(answer, text)
    return answer


def _begin(session: Session, key: str, ttl_s: float, before: str | None) -> str:
    if before is not None:
        page_sessions.end(session, before)
    return page_sessions.begin(session, key, ttl_s)


@blueprint.delete("/session")
@auth.public
@operation("Sign out of the page", status=204)
def sign_out() -> flask.Response:
    """The session ends, and no copy of its cookie opens anything from then on."""
    answer = answers.nothing()
    if service.current().settings.auth == "local":
        return answer
    found, text = cookies.signed_in(), cookies.text()
    if found is not None and text is not None:
        cookies.check_token(found)
        service.current().database.write(page_sessions.end, text)
    cookies.clear(answer)
    return answer


def _of(found: cookies.SignedIn) -> flask.Response:
    return answers.of(schemas.PageSession(auth="keys", owner=found.owner, token=found.token))
