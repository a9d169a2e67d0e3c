"""What no well-behaved client sends, against the production process: a 4xx, at once, and nothing accepted."""

from __future__ import annotations

import json
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import httpx2
import pytest

from imagekin.settings import Settings
from imagekin_api.server import HEAD_S
from kit.production import Peak, Production, fill, produced
from kit.wire import ADMIN_KEY, check_problem

# Sooner than a slow one is given up.
AT_ONCE_S = HEAD_S - 3
HEAD = f"Host: localhost\r\nAuthorization: Bearer {ADMIN_KEY}\r\n".encode()
UPLOAD = b"POST /v1/uploads HTTP/1.1\r\n" + HEAD
CHUNKED = UPLOAD + b"Transfer-Encoding: chunked\r\n\r\n"
MEGABYTE = 1 << 20

# What is malformed on the wire, and whether the client then says no more.
MALFORMED: dict[str, tuple[bytes, bool]] = {
    "a chunk's size that is no number": (CHUNKED + b"5\r\nhello\r\nZZ\r\n", False),
    "a first chunk's size that is no number": (CHUNKED + b"hello", False),
    "a negative chunk": (CHUNKED + b"-5\r\nhello\r\n0\r\n\r\n", False),
    "a chunk larger than it says": (CHUNKED + b"3\r\nhello\r\n0\r\n\r\n", False),
    "a chunk too large for any machine": (CHUNKED + b"F" * 20 + b"\r\nhello", False),
    "a malformed chunk after a megabyte": (
        CHUNKED + b"100000\r\n" + bytes(MEGABYTE) + b"\r\n!\r\n",
        False,
    ),
    "chunks that break off": (CHUNKED + b"5\r\nhello\r\n", True),
    "chunks that break off after a megabyte": (CHUNKED + b"100000\r\n" + bytes(MEGABYTE) + b"\r\n", True),
    "a chunk that breaks off": (CHUNKED + b"100\r\nhello", True),
    "a body that breaks off": (UPLOAD + b"Content-Length: 100\r\n\r\nhello", True),
    "a body that breaks off after a megabyte": (UPLOAD + b"Content-Length: 9999999\r\n\r\n" + bytes(MEGABYTE), True),
    "a body that never begins": (UPLOAD + b"Content-Length: 100\r\n\r\n", True),
    "a length with a sign": (UPLOAD + b"Content-Length: +5\r\n\r\nhello", False),
    "a length that is no number": (UPLOAD + b"Content-Length: five\r\n\r\nhello", False),
    "two lengths": (UPLOAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!", False),
    "a coding that nobody knows": (UPLOAD + b"Transfer-Encoding: magic\r\n\r\nhello", False),
    "two hosts": (UPLOAD + b"Host: elsewhere\r\nContent-Length: 5\r\n\r\nhello", False),
    "two keys": (UPLOAD + b"Authorization: Bearer x\r\nContent-Length: 5\r\n\r\nhello", False),
    "two headers of cookies": (UPLOAD + b"Cookie: a=b\r\nCookie: c=d\r\nContent-Length: 5\r\n\r\nhello", False),
    "a header without a colon": (UPLOAD + b"Nothing\r\nContent-Length: 5\r\n\r\nhello", False),
    "a header with a space in its name": (UPLOAD + b"A b: c\r\nContent-Length: 5\r\n\r\nhello", False),
    "a header over two lines": (UPLOAD + b"A: b\r\n c\r\nContent-Length: 5\r\n\r\nhello", False),
    "a megabyte of one header": (UPLOAD + b"A: " + b"a" * MEGABYTE + b"\r\n\r\n", False),
    "a thousand headers": (UPLOAD + b"A: a\r\n" * 1000 + b"Content-Length: 5\r\n\r\nhello", False),
    "a megabyte of an address": (b"POST /v1/uploads?" + b"a" * MEGABYTE + b" HTTP/1.1\r\n" + HEAD + b"\r\n", False),
    "a word that is no method": (b"\x00\x01 /v1/uploads HTTP/1.1\r\n" + HEAD + b"\r\n", False),
    "a version that nobody knows": (b"POST /v1/uploads HTTP/9.9\r\n" + HEAD + b"\r\n", False),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(64), False),
}


def exchange(client: httpx2.Client, data: bytes, ends: bool) -> tuple[int, bytes]:
    """Send bytes as they are, and return the status and the body of the answer."""
    with connection(client) as wire:
        try:
            wire.sendall(data)
        except OSError:  # refused before the end
            pass
        if ends:
            wire.shutdown(socket.SHUT_WR)
        answer = b""
        try:
            while piece := wire.recv(65536):
                answer += piece
                head, found, body = answer.partition(b"\r\n\r\n")
                if found and len(body) >= length(head):
                    break
        except ConnectionResetError:
            pass
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split(maxsplit=2)[1]) if head else 0, body


def length(head: bytes) -> int:
    lines = head.lower().split(b"\r\n")
    return next((int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:")), 0)


@contextmanager
def connection(client: httpx2.Client, data: bytes = b"", window: int | None = None) -> Iterator[socket.socket]:
    """Connect to the client's server, with a small window where one is given, and send the first bytes."""
    with socket.socket() as wire:
        if window is not None:
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, window)
        wire.settimeout(AT_ONCE_S)
        wire.connect(("127.0.0.1", client.base_url.port or 80))
        wire.sendall(data)
        yield wire


def test_what_is_malformed_or_not_whole_is_refused_at_once(api: Production) -> None:
    before = api.files()
    for name, (data, ends) in MALFORMED.items():
        status, body = exchange(api.client, data, ends)
        assert status in (400, 401, 431) or (status, ends) == (0, True), f"{name}: {status}"
        if body:
            assert json.loads(body)["code"] in ("bad_request", "unauthorized"), name
    assert api.files() == before
    assert api.client.post("/v1/uploads", content=b"hello").status_code == 201
    assert len(api.files() - before) == 1
    # RFC 9112, 6.3: the chunks count, and what comes behind them is no request
    chunks, behind = b"5\r\nhello\r\n0\r\n\r\n", b"GET /healthz HTTP/1.1\r\n" + HEAD + b"\r\n"
    for both in (
        b"Content-Length: 1\r\nTransfer-Encoding: chunked",
        b"Transfer-Encoding: chunked\r\nContent-Length: 99",
    ):
        with connection(api.client, UPLOAD + both + b"\r\n\r\n" + chunks + behind) as wire:
            answers = b"".join(iter(lambda: wire.recv(65536), b""))
        assert answers.startswith(b"HTTP/1.1 201 ")
        assert answers.count(b"HTTP/1.1 ") == 1
        assert b'"size":5' in answers.replace(b" ", b"")


@pytest.mark.skipif(sys.platform != "linux", reason="/proc tells a process's peak")
def test_a_large_body_is_refused_before_it_is_taken(api: Production) -> None:
    client = api.client
    peak = Peak(api.process.pid)
    peak.begin()
    content = bytes(60 * MEGABYTE)
    client.post("/session", json={"key": ADMIN_KEY})
    # of the page, but from elsewhere: the token is missing
    page = {"Authorization": "", "Cookie": f"imagekin={client.cookies['imagekin']}"}
    client.cookies.clear()
    for method, path, headers, status, code in (
        ("POST", "/v1/uploads", {"Authorization": "Bearer ik_wrong"}, 401, "unauthorized"),
        ("POST", "/v1/uploads", page, 403, "forbidden"),
        ("POST", "/v1/uploads", {**page, "Cookie": "imagekin=wrong"}, 401, "unauthorized"),
        ("POST", "/v1/nothing", {}, 404, "not_found"),
        ("PUT", "/v1/collections", {}, 405, "method_not_allowed"),
        ("POST", "/v1/collections", {"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ("POST", "/v1/collections", {"Content-Type": "application/json"}, 413, "too_large"),
        ("DELETE", "/v1/collections/archive", {}, 413, "too_large"),
        ("GET", "/v1/jobs", {}, 413, "too_large"),
    ):
        sent = client.request(method, path, content=content, headers=headers)
        check_problem(sent, status, code)
        pieces = iter([content[:MEGABYTE]] * 60)
        check_problem(client.request(method, path, content=pieces, headers=headers), status, code)
    announced = UPLOAD + b"Content-Length: 2000000000\r\n\r\n" + bytes(MEGABYTE)
    status, body = exchange(client, announced, False)
    assert (status, json.loads(body)["code"]) == (429, "quota_exceeded")
    assert peak.growth() < 24 * MEGABYTE
    assert not list((api.settings.data_dir / "spool").glob("*"))


def test_a_client_that_waits_for_a_word_sends_no_refused_body(api: Production) -> None:
    head = b"Expect: 100-continue\r\nContent-Length: 200000\r\n\r\n"
    with connection(api.client, UPLOAD + head) as wire:
        assert wire.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n")
        wire.sendall(bytes(200_000))
        assert wire.recv(100).startswith(b"HTTP/1.1 201 ")


def test_who_does_not_read_holds_up_nobody(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings(api_threads=4)
    fill(settings, "many", 6000)
    request = b"GET /v1/collections/many/export HTTP/1.1\r\n" + HEAD + b"\r\n"
    with produced(settings, API_THREADS=4) as api, ExitStack() as readers:
        client = api.client
        said = []
        for _ in range(12):
            reader = readers.enter_context(connection(client, request, window=4096))
            said.append(reader.recv(12))
        # each holds a connection to the database, so there are as many as there is room for
        assert said == [b"HTTP/1.1 200"] * 2 + [b"HTTP/1.1 503"] * 10
        for _ in range(5):
            assert client.get("/healthz", timeout=AT_ONCE_S).status_code == 200
            assert client.get("/v1/collections/many", timeout=AT_ONCE_S).json()["image_count"] == 6000


def test_many_tiny_chunks_hold_up_nobody(api: Production) -> None:
    client = api.client
    with ExitStack() as senders:
        for _ in range(20):
            sender = senders.enter_context(connection(client, CHUNKED))
            sender.setblocking(False)
            try:
                sender.send(b"1\r\na\r\n" * 20_000)
            except BlockingIOError:
                pass
        assert client.get("/healthz", timeout=AT_ONCE_S).status_code == 200


def test_a_stalled_body_does_not_hold_up_the_stop(make_settings: Callable[..., Settings]) -> None:
    with (
        produced(make_settings()) as api,
        connection(api.client, UPLOAD + b"Content-Length: 100000000\r\n\r\n" + bytes(MEGABYTE)),
    ):
        api.process.terminate()
        assert api.process.wait(30) == 0
