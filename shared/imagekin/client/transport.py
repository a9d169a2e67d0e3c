"""Requests: built for every attempt, repeated if that is safe, and answered by values or exceptions."""

from __future__ import annotations

import ipaddress
import logging
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from typing import Any, BinaryIO, TypeVar

import httpx2
from pydantic import BaseModel, ValidationError

from imagekin import errors, schemas
from imagekin.client import bodies, problems
from imagekin.client.bodies import Body

CONNECT_TIMEOUT_S = 10.0
BACKOFF_S = 0.5
MAX_BACKOFF_S = 20.0
# A server that asks for a longer pause than this is told to the caller instead.
MAX_RETRY_AFTER_S = 120
PAGE_ITEMS = 500
# What a proxy says when it lost the server half way: the request may have been done.
GATEWAY = (502, 504)

# Called with the bytes received so far, from 0 again when an attempt broke, and with their total where it is known.
Received = Callable[[int, int | None], None]

T = TypeVar("T")
M = TypeVar("M", bound=BaseModel)

_NEVER_SENT = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)
_ERRNO = re.compile(r"^\[Errno -?\d+\] ")
_log = logging.getLogger("imagekin")


class Transport:
    """Send requests to one server; `retries` attempts more after 429, 503 and broken connections."""

    def __init__(self, url: str, api_key: str | None, *, timeout_s: float, retries: int) -> None:
        self.url = _checked(url)
        self.retries = retries
        self._timeout_s = timeout_s
        headers = {"user-agent": f"imagekin/{metadata.version('imagekin')}", "accept": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._http = httpx2.Client(
            base_url=f"{self.url}/",
            headers=headers,
            timeout=self._timeout(timeout_s),
            # Proxies from the environment are for other machines.
            trust_env=not self.local,
            # Loading the certificates takes a tenth of a second that a plain connection has no use for.
            verify=httpx2.URL(self.url).scheme != "http",
        )

    @property
    def local(self) -> bool:
        """Whether the server's address is this machine."""
        host = httpx2.URL(self.url).host
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    def close(self) -> None:
        self._http.close()

    def get(self, path: str, model: type[M], **params: Any) -> M:
        return self.send("GET", path, lambda response: parse(model, response), params=params)

    def pages(self, path: str, model: type[M], **params: Any) -> Iterator[M]:
        """Iterate over a list, a page at a time."""
        cursor = None
        while True:
            page = self.get(path, schemas.Page[model], limit=PAGE_ITEMS, cursor=cursor, **params)
            yield from page.items
            if not (cursor := page.next_cursor):
                return

    def post(self, path: str, model: type[M], body: Body, **options: Any) -> M:
        return self.send("POST", path, lambda response: parse(model, response), body=body, **options)

    def read(self, path: str, *, accept: str, **params: Any) -> bytes:
        return self.send("GET", path, lambda response: response.read(), params=params, headers={"accept": accept})

    def download(self, path: str, file: BinaryIO, received: Received | None = None, **params: Any) -> None:
        """Write an answer to a file, from its start again when the connection breaks.

        `received` is called with the bytes so far and their total, None if that is not known.
        """

        def write(response: httpx2.Response) -> None:
            file.seek(0)
            file.truncate()
            length = response.headers.get("content-length")
            total, count = int(length) if length else None, 0
            for chunk in response.iter_bytes():
                file.write(chunk)
                count += len(chunk)
                if received:
                    received(count, total)

        self.send("GET", path, write, params=params, headers={"accept": "application/octet-stream"})

    def send(
        self,
        method: str,
        path: str,
        read: Callable[[httpx2.Response], T],
        *,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Body | None = None,
        extra_s: float = 0,
        safe: bool = True,
        retries: int | None = None,
    ) -> T:
        """Send a request until it is answered, and return what `read` makes of the answer.

        `safe`: sending it twice has the effect of sending it once, so it may be repeated after a connection broke
        half way. `extra_s`: how much longer than usual the server may take.
        Raises the class of `imagekin.errors` that the answer's `code` names, `BadRequest` for a request that cannot be
        sent, `Unreachable`, `UnreadableAnswer`.
        """
        attempts = 1 + (self.retries if retries is None else retries)
        for attempt in range(1, attempts + 1):
            try:
                return self._attempt(method, path, read, params, headers, body, extra_s)
            except httpx2.LocalProtocolError as error:
                raise errors.BadRequest(f"The request could not be sent: {_reason(error)}.") from error
            except httpx2.TransportError as error:
                failure: errors.ImagekinError = problems.Unreachable(f"{self.url} cannot be reached: {_reason(error)}.")
                failure.__cause__ = error
                final = not safe and not isinstance(error, _NEVER_SENT)
            except httpx2.RequestError as error:
                raise problems.UnreadableAnswer(f"{self.url}: {_reason(error)}.") from error
            except errors.ImagekinError as error:
                failure = error
                too_long = (error.retry_after_s or 0) > MAX_RETRY_AFTER_S
                final = not error.retryable or too_long or (not safe and error.http_status in GATEWAY)
            if final or attempt == attempts:
                raise failure
            pause_s = _pause_s(attempt, failure.retry_after_s)
            _log.debug("%s %s: %s; again in %.1f s", method, path, failure, pause_s)
            time.sleep(pause_s)
        raise AssertionError("unreachable")

    def _attempt(
        self,
        method: str,
        path: str,
        read: Callable[[httpx2.Response], T],
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        body: Body | None,
        extra_s: float,
    ) -> T:
        given = {name: value for name, value in (params or {}).items() if value is not None}
        with (body or bodies.empty)() as parts:
            request = self._request(
                method,
                path.lstrip("/"),
                params=given,
                headers={**(headers or {}), **parts.get("headers", {})},
                timeout=self._timeout(self._timeout_s + extra_s),
                **{name: part for name, part in parts.items() if name != "headers"},
            )
            response = self._http.send(request, stream=True)
            try:
                if not response.is_success:
                    response.read()
                    raise problems.from_response(response)
                return read(response)
            finally:
                response.close()

    def _request(self, *parts: Any, **options: Any) -> httpx2.Request:
        try:
            return self._http.build_request(*parts, **options)
        except UnicodeEncodeError as error:
            shown = ascii(error.object[max(0, error.start - 20) : error.end + 20])
            raise errors.InvalidRequest(f"This text cannot be sent, as it is not valid Unicode: {shown}.") from error

    @staticmethod
    def _timeout(timeout_s: float) -> httpx2.Timeout:
        return httpx2.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))


def parse(model: type[M], response: httpx2.Response) -> M:
    """Read an answer as a model of the wire, or raise `UnreadableAnswer`."""
    try:
        return model.model_validate_json(response.read())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = "/".join(str(part) for part in first["loc"])
        request = f"{response.request.method} {response.request.url}"
        raise problems.UnreadableAnswer(f"{request}: {first['msg']}{f' ({where})' if where else ''}.") from error


def ignore(response: httpx2.Response) -> None:
    """Read an answer that says nothing more than its status."""
    response.read()


def _checked(url: str) -> str:
    try:
        parsed = httpx2.URL(url)
    except httpx2.InvalidURL as error:
        raise errors.InvalidRequest(f"{url!r} is not an address: {error}.") from error
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise errors.InvalidRequest(f"{url!r} is not an address; one looks like http://127.0.0.1:8000.")
    return url.rstrip("/").removesuffix("/v1")


def _reason(error: Exception) -> str:
    return _ERRNO.sub("", str(error) or type(error).__name__).rstrip(".")


def _pause_s(attempt: int, retry_after_s: int | None) -> float:
    """Say how long to pause: what the server asked for and a little, else between half and all of 2^n steps."""
    if retry_after_s is not None:
        return retry_after_s + random.uniform(0, BACKOFF_S)
    step_s = min(MAX_BACKOFF_S, BACKOFF_S * 2 ** (attempt - 1))
    return random.uniform(step_s / 2, step_s)
