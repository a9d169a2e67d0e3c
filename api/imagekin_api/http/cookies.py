"""The web page's cookie: how it is set, read and cleared, and what a call by it has to show."""

from __future__ import annotations

import hmac
from dataclasses import dataclass
from urllib.parse import urlsplit

import flask

from imagekin import api_keys, errors, page_sessions
from imagekin_api.wiring import service

# Behind https browsers take it from this host alone, and neither from its neighbors nor over http.
SECURE_NAME = "__Host-imagekin"
PLAIN_NAME = "imagekin"
TOKEN_HEADER = "X-Page-Token"
READING = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A valid session: its owner, and the token that the page sends with calls that change something."""

    owner: str
    token: str


def text() -> str | None:
    """Return the text of the request's cookie, None without one."""
    return flask.request.cookies.get(SECURE_NAME) or flask.request.cookies.get(PLAIN_NAME)


def signed_in() -> SignedIn | None:
    """Return the session of the request's cookie, None without a valid one; raises Forbidden for a foreign page."""
    given, here = text(), service.current()
    if given is None:
        return None
    refuse_foreign_pages()
    found = here.database.read(page_sessions.find, given, here.settings.first_key)
    if found is None:
        return None
    if found.unnoted_key is not None:
        here.database.write(api_keys.note_use, found.unnoted_key)
    return SignedIn(found.owner, page_sessions.token(given))


def check_token(session: SignedIn) -> None:
    """Raise Forbidden for a call that may change something and does not bring the page's token."""
    request = flask.request
    given = request.headers.get(TOKEN_HEADER, "")
    if request.method not in READING and not hmac.compare_digest(given.encode(), session.token.encode()):
        raise errors.Forbidden(
            f"A call by cookie that changes something needs the page's token in {TOKEN_HEADER}; reload the page."
        )


def is_foreign() -> bool:
    """Return whether a page of another origin makes the request; following a link from one is fine."""
    request = flask.request
    site = request.headers.get("Sec-Fetch-Site")
    visit = request.method == "GET" and request.headers.get("Sec-Fetch-Mode") == "navigate"
    return site in ("cross-site", "same-site") and not visit


def refuse_foreign_pages() -> None:
    """Raise Forbidden if the browser says that a page of another origin sends the request."""
    origin = flask.request.headers.get("Origin")
    if is_foreign() or (origin is not None and not _is_own(origin)):
        raise errors.Forbidden("Pages of other sites get nothing here.")


def _is_own(origin: str) -> bool:
    # a browser that tells of the site has compared more than can be compared behind a proxy
    if flask.request.headers.get("Sec-Fetch-Site") == "same-origin":
        return True
    try:
        theirs, ours = urlsplit(origin), urlsplit(f"//{flask.request.headers.get('Host', '')}")
        # proxies tend to leave out the port
        return theirs.hostname == ours.hostname is not None and (ours.port is None or theirs.port == ours.port)
    except ValueError:
        return False


def is_behind_https() -> bool:
    """Return whether the browser came by https: a proxy says so, or the origin of the page itself."""
    request = flask.request
    forwarded = request.headers.get("X-Forwarded-Proto", "").partition(",")[0].strip().lower()
    return forwarded == "https" or request.headers.get("Origin", "").lower().startswith("https://")


def keep(answer: flask.Response, given: str) -> None:
    """Let the browser keep the cookie, for as long as the session lasts."""
    secure = is_behind_https()
    answer.set_cookie(
        SECURE_NAME if secure else PLAIN_NAME,
        given,
        max_age=service.current().settings.session_ttl_s,
        secure=secure,
        httponly=True,
        samesite="Strict",
        path="/",
    )


def clear(answer: flask.Response) -> None:
    """Let the browser drop the cookie, and what it kept of private pictures."""
    answer.delete_cookie(SECURE_NAME, secure=True, httponly=True, samesite="Strict", path="/")
    answer.delete_cookie(PLAIN_NAME, httponly=True, samesite="Strict", path="/")
    answer.headers["Clear-Site-Data"] = '"cache"'
