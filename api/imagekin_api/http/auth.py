"""Authentication: the owner of a key or of the page's cookie, or this machine only.

A view that is not marked as public is closed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeVar

import flask

from imagekin import api_keys, errors
from imagekin_api.http import cookies
from imagekin_api.wiring import service

# Where the environment of a request keeps whom it comes from; no header gets there.
IDENTIFIED = "imagekin.owner"
_OWN_HOST = re.compile(r"(?:localhost|127\.0\.0\.1|\[::1\])(?::([0-9]{1,5}))?", re.IGNORECASE | re.ASCII)
# What proxies, load balancers and content networks add; one that is missed makes everybody this machine's own user.
_FORWARDED = re.compile(
    r"forwarded|x-forwarded(?:-.*)?|via|client-ip|x-real-.*|(?:x-|true-|fastly-|fly-)?(?:cluster-)?client-ip"
    r"|x-original-.*|x-proxy.*|proxy-.*|x-envoy-.*|x-arr-.*|x-azure-.*|x-amzn-.*|x-amz-cf-.*|x-appengine-.*|x-cloud-.*"
    r"|cf-.*|cdn-.*|cloudfront-.*|fly-.*|x-vercel-.*|x-nf-.*|akamai-.*|x-akamai-.*|x-varnish|x-host|x-scheme"
    r"|x-remote-.*|x-proto|x-url-scheme|front-end-https|wl-proxy-.*|x-coming-from|x-proxyuser-ip|ali-cdn-.*"
)

View = TypeVar("View", bound=Callable[..., Any])


def public(view: View) -> View:
    """Mark a view as public; it may still ask `trusted` how much to show."""
    view.is_public = True  # pyright: ignore[reportFunctionMemberAccess] - read where the call comes in
    return view


def register(app: flask.Flask) -> None:
    """Make the app authenticate every request."""

    app.before_request(identify)


def identify() -> None:
    """Authenticate the request; raises Forbidden, Unauthorized and RateLimited. A second call does not count again."""
    request, settings = flask.request, service.current().settings
    if IDENTIFIED in request.environ:
        flask.g.owner = request.environ[IDENTIFIED]
        return
    local = settings.auth == "local"
    if local:
        refuse_strangers()
    endpoint = request.endpoint
    view = flask.current_app.view_functions.get(endpoint) if endpoint else None
    # there is nothing to guard at an address that does not exist, except its not existing below /v1
    if view is None and not request.path.startswith("/v1/"):
        return
    if getattr(view, "is_public", False) or endpoint == "docs.static":
        return
    owner = api_keys.LOCAL if local else _owner()
    count(owner)
    flask.g.owner = request.environ[IDENTIFIED] = owner


def count(owner: str) -> None:
    """Count a request of an owner; raises RateLimited."""
    # the one owner of the one machine takes nothing from anybody
    if owner != api_keys.LOCAL and (rates := service.current().rates) is not None:
        rates.take(owner)


def _owner() -> str:
    # a proxy in front may have a password of its own, which browsers send with every request
    if cookies.text() is None or _is_bearer():
        return owner_of_key()
    session = cookies.signed_in()
    if session is None:
        raise errors.Unauthorized("You are signed out: the session has ended, or its key was revoked. Sign in again.")
    cookies.check_token(session)
    return session.owner


def refuse_strangers() -> None:
    """Raise Forbidden for a request that a web page, another machine or a proxy sends to a server in local mode.

    A page must not get here through its own origin and name resolution (DNS rebinding), so the Host must be this
    machine's name and this server's port.
    """
    request = flask.request
    if not _is_loopback(request.remote_addr):
        raise errors.Forbidden()
    if is_forwarded():
        raise errors.Forbidden("This server runs in local mode and refuses proxies; run it with IMAGEKIN_AUTH=keys.")
    host = request.headers.get("Host", "")
    if not _is_own_host(host, request.environ.get("SERVER_PORT", "")):
        raise errors.Forbidden("This server runs in local mode and answers only to localhost and its own port.")
    origin = request.headers.get("Origin")
    # browsers tell of a foreign page even where they send no Origin
    if (origin is not None and origin.lower() != f"http://{host}".lower()) or cookies.is_foreign():
        raise errors.Forbidden("This server runs in local mode and refuses requests from other sites' pages.")


def is_forwarded() -> bool:
    """Return whether a proxy forwarded the request."""
    return any(_FORWARDED.fullmatch(name.lower()) for name in flask.request.headers.keys())  # noqa: SIM118 - pairs


def owner_of_key() -> str:
    """Return the owner of the request's key; raises Unauthorized."""
    text = flask.request.headers.get("Authorization", "").partition(" ")[2].strip()
    if not _is_bearer() or not text:
        raise errors.Unauthorized()
    return owner_of(text)


def _is_bearer() -> bool:
    return flask.request.headers.get("Authorization", "").partition(" ")[0].lower() == "bearer"


def owner_of(text: str) -> str:
    """Return the owner of a key; raises Unauthorized, in the same words for one that never was and one that was."""
    here = service.current()
    if api_keys.is_first_key(text, here.settings.first_key):
        return api_keys.ADMIN
    found = here.database.read(api_keys.find, text)
    if found is None:
        raise errors.Unauthorized("This API key is not valid.")
    key, unnoted = found
    if unnoted:
        here.database.write(api_keys.note_use, key.id)
    return key.owner


def trusted() -> bool:
    """Return whether the request may see what operators see: it has a valid key, or comes from this machine."""
    request = flask.request
    if not is_forwarded() and _is_loopback(request.remote_addr) and _is_own_host(request.headers.get("Host", ""), None):
        return True
    try:
        owner_of_key()
    except errors.Unauthorized:
        return False
    return True


def _is_loopback(address: str | None) -> bool:
    try:
        return address is None or ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def _is_own_host(host: str, port: str | None) -> bool:
    found = _OWN_HOST.fullmatch(host)
    return found is not None and (port is None or str(int(found[1] or 80)) == port)
