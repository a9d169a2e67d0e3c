"""Fetching images from addresses that clients name: over http(s), from the public internet, within limits."""

from __future__ import annotations

import http
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version

import httpcore2
import httpx2

from imagekin import errors
from imagekin.net.public_addresses import Backend, Policy, Resolve, resolve
from imagekin.settings import Settings

MAX_REDIRECTS = 5
MAX_URL_CHARS = 4096
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PORTS = {"http": 80, "https": 443}
# Below are services that have nothing to do with the web and everything to lose.
_FIRST_FREE_PORT = 1024
_KEPT_CONNECTIONS = 16
_KEPT_S = 5.0
# zlib's own number for "gzip or zlib, see the header"
_ANY_WBITS = 47


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

        Raises FetchRefused for an address that is no such, has a user or a password in it, or leads to a host or a
        port where images do not come from; FetchFailed with the status or the reason; ItemTimeout; ImageTooLarge,
        EmptyFile.
        """
        with self._backend.within(min(timeout_s or self._timeout_s, self._timeout_s)), _failures():
            target = parse(url)
            for _ in range(MAX_REDIRECTS + 1):
                with self._open(target) as response:
                    location = _header(response, b"location") if response.status in _REDIRECTS else None
                    if location is None:
                        return self._body(response)
                target = _next(target, location)
            raise errors.FetchFailed(f"The address redirects more than {MAX_REDIRECTS} times.")

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
        if response.status != http.HTTPStatus.OK:
            raise errors.FetchFailed(f"The server answered {_status(response.status)}.")
        length = _header(response, b"content-length")
        if length is not None and length.isdigit() and int(length) > self._max_bytes:
            raise self._too_large()
        pieces, size = [], 0
        for piece in self._decoded(response):
            size += len(piece)
            if size > self._max_bytes:
                raise self._too_large()
            pieces.append(piece)
        if not size:
            raise errors.EmptyFile("The server answered with nothing.")
        return b"".join(pieces)

    def _decoded(self, response: httpcore2.Response) -> Iterator[bytes]:
        """Yield the body in bounded pieces, decompressed where a server compresses though asked not to."""
        encoding = (_header(response, b"content-encoding") or "identity").strip().lower()
        if encoding == "identity":
            yield from response.iter_stream()
            return
        if encoding not in ("gzip", "x-gzip", "deflate"):
            raise errors.FetchFailed("The server compresses its answer in a way that it was not asked for.")
        inflater = zlib.decompressobj(_ANY_WBITS)
        try:
            for piece in response.iter_stream():
                yield inflater.decompress(piece, self._max_bytes + 1)
                if inflater.unconsumed_tail:
                    raise self._too_large()
        except zlib.error:
            raise errors.FetchFailed("The server's answer cannot be decompressed.") from None
        if not inflater.eof:
            raise errors.FetchFailed("The server's answer is cut off.")

    def _too_large(self) -> errors.ImageTooLarge:
        return errors.ImageTooLarge(f"The file has more than the {self._max_bytes:,} bytes that are accepted.")


def timeout_s(settings: Settings) -> float:
    """Return the seconds that one fetch may take: so few that a worker's task outlives several of them."""
    return min(settings.fetch_timeout_s, settings.soft_time_limit_s / 4)


def parse(url: str) -> httpx2.URL:
    """Read an address; raises FetchRefused where it is none that anybody may fetch, whatever its host resolves to."""
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
        raise errors.FetchFailed("The server redirects to what is no address.") from None
    except errors.FetchRefused as error:
        raise errors.FetchRefused(f"The server redirects to where nothing is fetched from: {error.detail}") from None


def _header(response: httpcore2.Response, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in response.headers if key.lower() == name), None)


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
