"""The gallery: one page for all addresses that a person may open, and the files that it is made of."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from functools import cache
from importlib import resources

import flask
from werkzeug.exceptions import NotFound

from imagekin import errors
from imagekin_api.http import auth, problems

blueprint = flask.Blueprint("page", __name__)

PAGE = "index.html"
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript", ".svg": "image/svg+xml"}
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    # no other page keeps a hold on this one, and nothing of another origin gets into its process
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
}
# As many hexadecimal digits of a file's SHA-256 are its version; web/build.mjs writes them into the page.
VERSION_DIGITS = 16
FOR_GOOD = "public, max-age=31536000, immutable"
ASKED_AGAIN = "no-cache"


@dataclass(frozen=True, slots=True)
class File:
    """A built file: as it is and packed, its type, and its version, which stands for its content."""

    content: bytes
    packed: bytes
    media_type: str
    version: str


@cache
def files() -> dict[str, File]:
    """Return the built files by name, as they are in this package; read once in a process."""
    found = {}
    for path in resources.files("imagekin_api").joinpath("web", "static", "app").iterdir():
        media_type = TYPES.get(f".{path.name.rpartition('.')[2]}")
        if media_type is not None:
            content = path.read_bytes()
            version = hashlib.sha256(content).hexdigest()[:VERSION_DIGITS]
            found[path.name] = File(content, gzip.compress(content, mtime=0), media_type, version)
    return found


@blueprint.get("/")
@blueprint.get("/jobs")
@blueprint.get("/jobs/")
@blueprint.get("/jobs/<job_id>")
@blueprint.get("/c/<name>")
@blueprint.get("/c/<name>/")
@blueprint.get("/c/<name>/<path:screen>")
@auth.public
def page(**_place: str) -> flask.Response:
    """Answer with the page; it finds out by itself which screen its address means."""
    answer = _file(PAGE)
    answer.headers.update(HEADERS)
    answer.headers["Cache-Control"] = ASKED_AGAIN
    return answer


@blueprint.app_errorhandler(404)
def elsewhere(error: NotFound) -> flask.Response:
    """Answer an address that is not there: a person's browser with the page, which says so, others with a problem."""
    accepted = flask.request.accept_mimetypes
    programs = max(accepted["application/json"], accepted[problems.MEDIA_TYPE])
    visits = flask.request.method == "GET" and accepted["text/html"] > programs
    if not visits or flask.request.path.startswith("/v1/"):
        return problems.of_error(errors.NotFound())
    answer = flask.Response(files()[PAGE].content, 404, mimetype="text/html")
    answer.headers.update(HEADERS)
    return answer


@blueprint.get("/app/<name>")
@auth.public
def file(name: str) -> flask.Response:
    """Answer with a file of the page, or raise NotFound: kept for good under its version, else asked for each time."""
    # a name among those that were read, so that no path is ever made of it
    if name == PAGE or name not in files():
        raise errors.NotFound()
    answer = _file(name)
    # a server that is older or newer than the page has another content under this name
    kept = flask.request.args.get("v") == files()[name].version
    answer.headers["Cache-Control"] = FOR_GOOD if kept else ASKED_AGAIN
    return answer


def _file(name: str) -> flask.Response:
    found = files()[name]
    packed = flask.request.accept_encodings["gzip"] > 0
    answer = flask.Response(found.packed if packed else found.content, mimetype=found.media_type)
    answer.headers["Vary"] = "Accept-Encoding"
    if packed:
        answer.headers["Content-Encoding"] = "gzip"
    # two encodings of a file are two contents
    answer.set_etag(f"{found.version}-gzip" if packed else found.version)
    answer.make_conditional(flask.request)
    return answer
