"""Fetching images from addresses that clients name: over http(s), from the public internet, within limits."""

from __future__ import annotations

import http
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from urllib.parse import quote

import httpcore2
import httpx2

from imagekin import errors
from imagekin.net import content_coding, retry_after
from imagekin.net.public_addresses import Backend, Policy, Resolve, resolve
from imagekin.settings import Settings

MAX_REDIRECTS = 5
MAX_URL_CHARS = 4096
LONGEST_RETRY_AFTER_S = 5.0
"""How long a server may ask to be left alone, once, before it is asked again."""

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# 203: a proxy on the way has changed the answer, as those that make pictures smaller do.
_GOOD = frozenset({http.HTTPStatus.OK, http.HTTPStatus.NON_AUTHORITATIVE_INFORMATION})
_BUSY = frozenset({http.HTTPStatus.TOO_MANY_REQUESTS, http.HTTPStatus.SERVICE_UNAVAILABLE})
_ASCII = bytes(range(0x21, 0x7F)).decode()
_LINE_BREAKS = {ord(character): None for character in "\t\r\n"}
_PORTS = {"http": 80, "https": 443}
# Below are services that have nothing to do with the web and everything to lose.
_FIRST_FREE_PORT = 1024
_KEPT_CONNECTIONS = 16
_KEPT_S = 5.0


class Fetcher:
    """Fetches addresses; several threads may at once. Connections are kept and used again, cookies are not."""

    def __init__(self, settings: Settings, resolve: Resolve = resolve) -> None:
        self._max_bytes = settings.max_image_bytes
        self._timeout_s = timeout_s(settings)
        self._stall_s = settings.fetch_stall_s
        self._backend = Backend(Policy(settings.fetch_allow, resolve))
        # what the pool has open was checked when it was opened
        self._pool = httpcore2.ConnectionPool(
            network_backend=self._backend,
            max_connections=None,
            max_keepalive_connections=_KEPT_CONNECTIONS,
            keepalive_expiry=_KEPT_S,
        )
        self._headers = {
            "User-Agent": f"imagekin/{version('imagekin')}",
            "Accept": "*/*",
            # images don't get smaller, and what is not compressed cannot explode
            "Accept-Encoding": "identity",
        }

    def fetch(self, url: str, timeout_s: float | None = None) -> bytes:
        """Return the bytes at an http or https address, after at most 5 redirects.

        A busy server that asks for a short pause is asked again. Raises FetchRefused for another address, one with a
        user or a password in it, or one whose host or port is refused; FetchFailed with the status or the reason;
        ItemTimeout; ImageTooLarge, EmptyFile.
        """
        allowed_s = min(timeout_s or self._timeout_s, self._timeout_s)
        with self._backend.within(allowed_s) as deadline, _failures():
            target, redirects, patient = parse(url), 0, True
            while True:
                with self._open(target) as response:
                    pause_s = _pause_s(response) if patient else None
                    location = _location(response)
                    if location is None and (pause_s is None or pause_s >= deadline.cut(None)):
                        return self._body(response)
                if location is None:
                    patient = False
                    time.sleep(pause_s or 0)
                    continue
                redirects += 1
                if redirects > MAX_REDIRECTS:
                    raise errors.FetchFailed(f"The address redirects more than {MAX_REDIRECTS} times.")
                target = _next(target, location)

    def close(self) -> None:
        """Close the connections that were kept."""
        self._pool.close()

    @contextmanager
    def _open(self, url: httpx2.URL) -> Iterator[httpcore2.Response]:
        response = self._request(url)
        try:
            yield response
        finally:
            response.close()

    def _request(self, url: httpx2.URL) -> httpcore2.Response:
        limits = dict.fromkeys(("connect", "read", "write"), self._stall_s)
        request = httpcore2.Request(
            "GET",
            httpcore2.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
            headers={"Host": url.netloc.decode("ascii"), **self._headers},
            extensions={"timeout": limits},
        )
        # a connection that was kept may have been closed at the other end just now
        with suppress(httpcore2.RemoteProtocolError, httpcore2.ReadError, httpcore2.WriteError):
            return self._pool.handle_request(request)
        return self._pool.handle_request(request)

    def _body(self, response: httpcore2.Response) -> bytes:
        if response.status not in _GOOD:
            raise errors.FetchFailed(f"The server answered {_status(response.status)}.")
        length = _header(response, b"content-length")
        if length is not None and length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        pieces, size = [], 0
        encoding = _header(response, b"content-encoding") or ""
        for piece in content_coding.decoded(response.iter_stream(), encoding):
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large()
            pieces.append(piece)
        if not size:
            raise errors.EmptyFile("The server answered with nothing.")
        return b"".join(pieces)

    def _too_large(self) -> errors.ImageTooLarge:
        return errors.ImageTooLarge(f"The file has more than the {self._max_bytes:,} bytes that are accepted.")


def timeout_s(settings: Settings) -> float:
    """Return the seconds that one fetch may take: short enough for several of them in one task."""
    return min(settings.fetch_timeout_s, settings.soft_time_limit_s / 4)


def parse(url: str) -> httpx2.URL:
    """Parse an address; raises FetchRefused if it may not be fetched, before its host is resolved."""
    if len(url) > MAX_URL_CHARS:
        raise errors.FetchRefused(f"The address has {len(url):,} characters; at most {MAX_URL_CHARS:,} are accepted.")
    try:
        return _checked(httpx2.URL(url))
    except (httpx2.InvalidURL, UnicodeError):
        raise errors.FetchRefused("This is not a valid address.") from None


def _checked(url: httpx2.URL) -> httpx2.URL:
    if url.scheme not in _PORTS:
        raise errors.FetchRefused("The address must begin with http:// or https://.")
    if url.userinfo:
        raise errors.FetchRefused("The address has a user or a password in it.")
    if not url.host or "%" in url.host or len(url.raw_host) > 253:
        raise errors.FetchRefused("The address has no valid host.")
    port = url.port if url.port is not None else _PORTS[url.scheme]
    if port not in _PORTS.values() and not _FIRST_FREE_PORT <= port <= 0xFFFF:
        raise errors.FetchRefused(f"The port {port} is refused; 80, 443 and those from {_FIRST_FREE_PORT} on are not.")
    return url


def _next(url: httpx2.URL, location: str) -> httpx2.URL:
    try:
        return parse(str(url.join(location)))
    except (httpx2.InvalidURL, UnicodeError):
        raise errors.FetchFailed("The server redirects to an invalid address.") from None
    except errors.FetchRefused as error:
        raise errors.FetchRefused(f"The server redirects to an address that is refused: {error.detail}") from None


def _location(response: httpcore2.Response) -> str | None:
    """Return where a response redirects to, as browsers read it (WHATWG URL): UTF-8, and a backslash is a slash."""
    raw = _raw_header(response, b"location") if response.status in _REDIRECTS else None
    if raw is None:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = quote(raw, safe=_ASCII)
    text = text.strip().translate(_LINE_BREAKS)
    path = re.match(r"[^?#]*", text)
    assert path is not None
    return path[0].replace("\\", "/") + text[path.end() :]


def _pause_s(response: httpcore2.Response) -> float | None:
    """Return how soon a busy server wants to be asked again, or None if that is not soon."""
    value = _header(response, b"retry-after") if response.status in _BUSY else None
    wanted_s = None if value is None else retry_after.seconds(value)
    return None if wanted_s is None or wanted_s > LONGEST_RETRY_AFTER_S else wanted_s


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    raw = _raw_header(response, name)
    return None if raw is None else raw.decode("latin-1")


def _raw_header(response: httpcore2.Response, name: bytes) -> bytes | None:
    values = [value for key, value in response.headers if key.lower() == name]
    # the same header twice is one list (RFC 9110, 5.3)
    return b", ".join(values) if name == b"content-encoding" and values else next(iter(values), None)


def _status(status: int) -> str:
    try:
        return f"{status} {http.HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


@contextmanager
def _failures() -> Iterator[None]:
    """Make item errors of what goes wrong on the network."""
    try:
        yield
    except httpcore2.TimeoutException:
        raise errors.ItemTimeout("The server took too long to answer.") from None
    except httpcore2.ConnectError as error:
        raise errors.FetchFailed(f"The server cannot be reached: {_reason(error)}.") from error
    except (httpcore2.NetworkError, httpcore2.ProtocolError) as error:
        raise errors.FetchFailed(f"The connection broke: {_reason(error)}.") from error


def _reason(error: Exception) -> str:
    cause = error.__cause__ or error
    text = cause.strerror if isinstance(cause, OSError) and cause.strerror else str(cause)
    return (text or type(cause).__name__).rstrip(".")[:200]
