"""Servers with the manners of real ones: what browsers show is embedded, what is not whole fails."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler

import pytest

from imagekin import Client
from kit import picture_files as files
from kit import web
from kit.web import Answer, Web

PNG = files.encoded(files.scene(), "PNG")


def deflated() -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(PNG) + packer.flush()


def coded(coding: str, data: bytes = PNG) -> Answer:
    return web.body(data, Content_Encoding=coding)


def once(first: Answer) -> Answer:
    """Answer so the first time, and with the picture after that."""
    answers = [first]

    def answer(request: BaseHTTPRequestHandler) -> None:
        (answers.pop() if answers else web.body(PNG))(request)

    return answer


def reset(request: BaseHTTPRequestHandler) -> None:
    request.close_connection = True


def head(*lines: bytes) -> bytes:
    return b"\r\n".join([b"HTTP/1.1 200 OK", *lines, b"Connection: close", b"", b""])


def moved(to: bytes) -> Answer:
    """Redirect to an address in bytes that a header may not have."""
    return web.raw(head(b"Location: " + to, b"Content-Length: 0").replace(b"200 OK", b"302 Found"))


LENGTH = b"Content-Length: %d"
CHUNKED = head(b"Transfer-Encoding: chunked") + b"%x;ext=1\r\n" % len(PNG) + PNG + b"\r\n0\r\nTrailer: x\r\n\r\n"
TWO = gzip.compress(PNG[:500]) + gzip.compress(PNG[500:])

# What a server does at an address, and the code of the item's error.
MANNERS: dict[str, tuple[Answer, str | None]] = {
    "/plain.png": (web.body(PNG), None),
    "/coded/utf8": (coded("UTF-8"), None),
    "/coded/none": (coded("none"), None),
    "/coded/aws": (coded("aws-chunked"), None),
    "/coded/blank": (coded(""), None),
    "/coded/binary": (coded("binary"), None),
    "/coded/gzip": (coded("gzip", gzip.compress(PNG)), None),
    "/coded/gzip-and-is-not": (coded("gzip"), None),
    "/coded/gzip-in-two": (coded("gzip", TWO), None),
    "/coded/identity-gzip": (coded("identity, gzip", gzip.compress(PNG)), None),
    "/coded/deflate-raw": (coded("deflate", deflated()), None),
    "/coded/deflate": (coded("deflate", zlib.compress(PNG)), None),
    "/to/utf8": (moved("/é.png".encode()), None),
    "/to/latin1": (moved(b"/caf\xe9.png"), None),
    "/to/space": (web.redirect("/a b.png"), None),
    "/to/relative": (web.redirect("../plain.png"), None),
    "/to/permanent": (web.redirect("/plain.png", 308), None),
    "/to/cookie": (web.redirect("/needs-a-cookie"), "fetch_failed"),
    "/busy": (once(web.body(b"busy", 503, Retry_After="1")), None),
    "/slow-down": (once(web.body(b"slow", 429, Retry_After="1")), None),
    "/reset": (once(reset), None),
    "/203": (web.body(PNG, 203), None),
    "/206": (web.body(PNG, 206), "fetch_failed"),
    "/sign-in": (web.body(b"<!doctype html><title>sign in</title>"), "unsupported_format"),
    "/no-length": (web.raw(head() + PNG), None),
    "/chunked": (web.raw(CHUNKED), None),
    "/http10": (web.raw(head(LENGTH % len(PNG)).replace(b"/1.1", b"/1.0") + PNG), None),
    "/more-than-comes": (web.raw(head(LENGTH % (len(PNG) + 50)) + PNG), "fetch_failed"),
    "/less-than-comes": (web.raw(head(LENGTH % (len(PNG) - 50)) + PNG), "decode_error"),
}  # fmt: skip
# As they are asked for, and as they come in.
SPELLINGS = {
    "/caf%C3%A9.png": "/caf%C3%A9.png",
    "/caf%E9.png": "/caf%E9.png",
    "/é.png": "/%C3%A9.png",
    "/a%20b.png": "/a%20b.png",
    "/q?a=1&b=%2F%20x;c": "/q?a=1&b=%2F%20x;c",
    "/pct%2Fslash.png": "/pct%2Fslash.png",
    "/100%25.png": "/100%25.png",
    "/%7Euser/a.png": "/%7Euser/a.png",
    "/a%23b.png": "/a%23b.png",
    "/[x].png": "/[x].png",
    "/%5Bx%5D.png": "/%5Bx%5D.png",
    "/a|b.png": "/a|b.png",
    "/a+b.png": "/a+b.png",
}


@pytest.fixture
def site() -> Iterator[Web]:
    with web.serve() as site:
        site.pages |= {path: answer for path, (answer, _) in MANNERS.items()}
        site.pages |= dict.fromkeys(SPELLINGS.values(), web.body(PNG))
        site.pages["/to/protocol-relative"] = web.redirect(f"//127.0.0.1:{site.port}/plain.png")
        yield site


def test_servers_have_their_manners(client: Client, site: Web) -> None:
    expected = {site.url(path): code for path, (_, code) in MANNERS.items()}
    expected |= dict.fromkeys(map(site.url, (*SPELLINGS, "/to/protocol-relative")))
    job = client.embed([{"url": url} for url in expected], collection="odd-servers", backbone="fake").wait()
    details = {item.key: item.error and item.error.detail for item in job.items()}
    found = {item.key: item.error and item.error.code for item in job.items()}
    assert found == expected, details
    assert "206 Partial Content" in str(details[site.url("/206")])
    assert set(SPELLINGS.values()) <= set(site.paths)
