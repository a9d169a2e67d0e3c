"""Fetching against a real web server that does what it should not."""

from __future__ import annotations

import gzip
import ssl
import threading
import time
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

from imagekin import errors
from imagekin.net import content_coding, fetch
from imagekin.net.fetch import Fetcher
from imagekin.settings import Settings
from kit import web
from kit.web import Web

Make = Callable[..., Fetcher]
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def server() -> Iterator[Web]:
    with web.serve() as server:
        yield server


@pytest.fixture
def make() -> Iterator[Make]:
    """Make fetchers that may go to loopback, unless told otherwise."""
    made: list[Fetcher] = []

    def fetcher(resolve: Any = None, **changes: Any) -> Fetcher:
        settings = Settings(**{"fetch_allow": ("127.0.0.1",), "max_image_bytes": 1000, **changes})
        made.append(Fetcher(settings, resolve) if resolve else Fetcher(settings))
        return made[-1]

    yield fetcher
    for each in made:
        each.close()


def test_bytes_come_as_they_are(server: Web, make: Make) -> None:
    server.pages["/a%20b.png?x=1"] = web.body(b"picture")
    assert make().fetch(server.url("/a b.png?x=1#part")) == b"picture"
    ((_, headers),) = server.seen
    assert headers["Host"] == f"127.0.0.1:{server.port}"
    assert headers["User-Agent"].startswith("imagekin/")
    assert headers["Accept-Encoding"] == "identity"
    assert "Cookie" not in headers
    assert "Referer" not in headers


@pytest.mark.parametrize(
    "url",
    [
        "", "a.png", "//example.org/a.png", "/etc/passwd", "file:///etc/passwd", "ftp://example.org/a", "data:,x",
        "s3://bucket/a", "gopher://example.org:70/_", "http://", "http:///a", "http://:80/", "http:example.org",
        "http://user@example.org/", "http://user:secret@example.org/", "http://:secret@example.org/",
        "http://example.org\\@127.0.0.1/", "http://example.org:0/", "http://example.org:22/", "http://example.org:25/",
        "http://example.org:65536/", "http://example.org:99999/", "http://example.org:-1/", "http://example.org:x/",
        "http://[::1", "http://[fe80::1%25eth0]/", "http://%31%32%37.0.0.1/", "http://exa mple.org/",
        "http://example.org/\r\nX: y", "http://example.org/\0", "http://１２７.０.０.１/", f"http://{'a' * 300}.org/",
        "http://example.org/" + "a" * 5000, "http://\ud800/",
    ],
)  # fmt: skip
def test_what_is_no_address_to_fetch_is_refused_before_anything_is_looked_up(url: str, make: Make) -> None:
    def resolve(host: str, port: int) -> list[str]:
        pytest.fail(f"{host} was looked up")

    with pytest.raises(errors.FetchRefused) as caught:
        make(resolve).fetch(url)
    assert "secret" not in caught.value.detail


@pytest.mark.parametrize("url", ["https://example.org/a", "http://example.org:8080/", "http://bücher.example/ü"])
def test_addresses_that_may_be(url: str) -> None:
    assert fetch.parse(url).scheme in ("http", "https")


def test_loopback_is_refused_unless_allowed(server: Web, make: Make) -> None:
    server.pages["/"] = web.body(b"secret")
    for host in ("127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::ffff:127.0.0.1]", "0.0.0.0", "[::]"):
        with pytest.raises((errors.FetchRefused, errors.FetchFailed)):
            make(fetch_allow=()).fetch(server.url(host=host))
    assert server.seen == []


def test_a_name_is_looked_up_once_and_kept_to(server: Web, make: Make) -> None:
    """DNS rebinding: checked is one address, and one that comes later is never used."""
    server.pages["/"] = web.body(b"picture")
    answers = [["127.0.0.1"], ["127.0.0.2"]]
    assert make(lambda host, port: answers.pop(0)).fetch(server.url(host="rebind.example")) == b"picture"
    assert len(answers) == 1
    assert server.seen[0][1]["Host"] == f"rebind.example:{server.port}"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed(server: Web, make: Make, status: int) -> None:
    server.pages["/a/b"] = web.redirect("../c#part", status)
    server.pages["/c"] = web.body(b"picture")
    assert make().fetch(server.url("/a/b")) == b"picture"


@pytest.mark.parametrize(
    "location",
    [
        "http://10.0.0.1/", "http://169.254.169.254/latest/meta-data/", "http://[::1]/", "//192.168.0.1/",
        "http://2130706434/", "http://127.0.0.2/", "file:///etc/passwd", "ftp://example.org/",
        "http://user:secret@127.0.0.1/", "http://127.0.0.1:22/",
    ],
)  # fmt: skip
def test_each_redirect_is_checked(server: Web, make: Make, location: str) -> None:
    server.pages["/"] = web.redirect(location)
    with pytest.raises(errors.FetchRefused):
        make().fetch(server.url())
    assert server.paths == ["/"]


def test_a_redirect_to_a_name_that_is_private_is_refused(server: Web, make: Make) -> None:
    server.pages["/"] = web.redirect("http://inside.example/")
    names = {"inside.example": ["10.1.2.3"], "outside.example": ["127.0.0.1"]}
    with pytest.raises(errors.FetchRefused, match=r"inside\.example"):
        make(lambda host, port: names[host]).fetch(server.url(host="outside.example"))


def test_five_redirects_and_no_more(server: Web, make: Make) -> None:
    for step in range(6):
        server.pages[f"/{step}"] = web.redirect(f"/{step + 1}")
    server.pages["/6"] = web.body(b"picture")
    assert make().fetch(server.url("/1")) == b"picture"
    with pytest.raises(errors.FetchFailed, match="5 times"):
        make().fetch(server.url("/0"))
    server.pages["/loop"] = web.redirect("/loop")
    with pytest.raises(errors.FetchFailed, match="5 times"):
        make().fetch(server.url("/loop"))
    assert server.paths.count("/loop") == 6


def test_redirects_to_nowhere(server: Web, make: Make) -> None:
    server.pages["/"] = web.redirect("http://[::1")
    with pytest.raises((errors.FetchFailed, errors.FetchRefused)):
        make().fetch(server.url())
    server.pages["/"] = web.body(b"", 302)
    with pytest.raises(errors.FetchFailed, match="302"):
        make().fetch(server.url())


@pytest.mark.parametrize("status", [204, 206, 304, 400, 401, 403, 404, 429, 500, 503, 599])
def test_other_answers_fail_with_their_status(server: Web, make: Make, status: int) -> None:
    server.pages["/"] = web.body(b"" if status in (204, 304) else b"words", status)
    with pytest.raises(errors.FetchFailed, match=str(status)):
        make().fetch(server.url())


def test_sizes(server: Web, make: Make) -> None:
    server.pages["/just"] = web.body(b"x" * 1000)
    server.pages["/more"] = web.body(b"x" * 1001)
    server.pages["/empty"] = web.body(b"")
    # said to be endless, so that only a client which looks at the length ends
    server.pages["/announced"] = web.raw(OK + b"Content-Length: 99999999999\r\n\r\n", until=server.stopping)
    endless = b"3e8\r\n" + b"x" * 1000 + b"\r\n"
    server.pages["/chunked"] = web.raw(
        OK + b"Transfer-Encoding: chunked\r\n\r\n" + endless + endless, until=server.stopping
    )
    server.pages["/unsized"] = web.raw(OK + b"\r\n" + b"x" * 5000, until=server.stopping)
    fetcher = make()
    assert len(fetcher.fetch(server.url("/just"))) == 1000
    for path in ("/more", "/announced", "/chunked", "/unsized"):
        with pytest.raises(errors.ImageTooLarge):
            fetcher.fetch(server.url(path))
    with pytest.raises(errors.EmptyFile):
        fetcher.fetch(server.url("/empty"))


def test_an_endless_answer_takes_no_memory(server: Web, make: Make) -> None:
    def pour(request: Any) -> None:
        request.wfile.write(OK + b"\r\n")
        while not server.stopping.is_set():
            request.wfile.write(bytes(1 << 16))

    server.pages["/"] = pour
    tracemalloc.start()
    with pytest.raises(errors.ImageTooLarge):
        make(max_image_bytes=1 << 20).fetch(server.url())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_compressed_answers(server: Web, make: Make) -> None:
    fetcher = make()
    packed = gzip.compress(b"picture")
    pages = {"gzip": packed, "x-gzip": packed, "deflate": zlib.compress(b"picture"), "Identity": b"picture"}
    for encoding, data in pages.items():
        server.pages[f"/{encoding}"] = web.body(data, Content_Encoding=encoding)
        assert fetcher.fetch(server.url(f"/{encoding}")) == b"picture", encoding
    for encoding in ("br", "zstd", "gzip, br"):
        server.pages["/"] = web.body(b"\x1b compressed", Content_Encoding=encoding)
        with pytest.raises(errors.FetchFailed, match="was not asked"):
            fetcher.fetch(server.url())
    server.pages["/"] = web.body(packed[:-9], Content_Encoding="gzip")
    with pytest.raises(errors.FetchFailed, match="cut off"):
        fetcher.fetch(server.url())
    server.pages["/"] = web.body(packed[:10] + b"\xff" * 50, Content_Encoding="gzip")
    with pytest.raises(errors.FetchFailed, match="decompressed"):
        fetcher.fetch(server.url())
    server.pages["/"] = web.body(packed, Content_Encoding=", ".join(["gzip"] * 5))
    with pytest.raises(errors.FetchFailed, match="over and over"):
        fetcher.fetch(server.url())


PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 3
RAW_DEFLATE = zlib.compress(PNG, wbits=-15)
TWO_MEMBERS = gzip.compress(PNG[:300]) + gzip.compress(PNG[300:])
CODED = [
    ("UTF-8", PNG), ("none", PNG), ("binary", PNG), ("aws-chunked", PNG), ("", PNG), ("identity", PNG), ("8bit", PNG),
    ("image/png", PNG), ("base64", PNG), ("identity, gzip", gzip.compress(PNG)), ("gzip, identity", gzip.compress(PNG)),
    ("aws-chunked,gzip", gzip.compress(PNG)), ("gzip,", gzip.compress(PNG)), ("GZIP", gzip.compress(PNG)),
    ("gzip", TWO_MEMBERS), ("gzip", TWO_MEMBERS + bytes(100)), ("gzip", gzip.compress(PNG) + b"behind"),
    ("gzip", PNG), ("deflate", PNG), ("br", PNG), ("zstd", PNG), ("gzip", zlib.compress(PNG)), ("deflate", RAW_DEFLATE),
    ("deflate", gzip.compress(PNG)), ("gzip, gzip", gzip.compress(gzip.compress(PNG))),
    ("deflate, gzip", gzip.compress(zlib.compress(PNG))), ("gzip, gzip", gzip.compress(PNG)),
    ("gzip", gzip.compress(PNG, 0)), ("gzip", b"".join(gzip.compress(PNG[at : at + 1]) for at in range(len(PNG)))),
]  # fmt: skip


@pytest.mark.parametrize(("encoding", "data"), CODED, ids=[f"{at}-{coding}" for at, (coding, _) in enumerate(CODED)])
def test_what_a_body_is_shows_its_start_and_not_its_header(server: Web, make: Make, encoding: str, data: bytes) -> None:
    server.pages["/"] = web.body(data, Content_Encoding=encoding)
    assert make(max_image_bytes=100_000).fetch(server.url()) == PNG


def test_pieces_of_any_size_are_decoded() -> None:
    for data, coding in ((TWO_MEMBERS, "gzip"), (RAW_DEFLATE, "deflate"), (PNG, "gzip"), (gzip.compress(PNG), "gzip")):
        for size in (1, 2, 63, 64, 65, len(data)):
            pieces = (data[at : at + size] for at in range(0, len(data), size))
            assert b"".join(content_coding.decoded(pieces, coding)) == PNG


def test_the_header_twice_is_one_list(server: Web, make: Make) -> None:
    data = gzip.compress(PNG)
    head = b"Content-Encoding: aws-chunked\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(data)
    server.pages["/"] = web.raw(OK + head, data)
    assert make().fetch(server.url()) == PNG


LOCATIONS = {
    "/café.png".encode(): "/caf%C3%A9.png",
    b"/caf\xe9.png": "/caf%E9.png",
    "/写真/猫.png?größe=1".encode(): "/%E5%86%99%E7%9C%9F/%E7%8C%AB.png?gr%C3%B6%C3%9Fe=1",
    b"/a b.png": "/a%20b.png",
    b"  /trimmed.png ": "/trimmed.png",
    b"\\sub\\c.png?a=\\": "/sub/c.png?a=\\",
    b"/100%.png": "/100%.png",
    b"?only=query": "/start?only=query",
    b"/a%2Fb.png": "/a%2Fb.png",
}


@pytest.mark.parametrize("location", LOCATIONS)
def test_redirects_go_where_browsers_go(server: Web, make: Make, location: bytes) -> None:
    answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    server.pages["/start"] = web.raw(answer)
    server.pages[LOCATIONS[location]] = server.pages[LOCATIONS[location].replace("\\", "%5C")] = web.body(PNG)
    assert make().fetch(server.url("/start")) == PNG


@pytest.mark.parametrize("location", [b"\\\\10.0.0.1\\a.png", b"http:\\\\127.0.0.2\\a.png", b"http://127.0.0.1:22\\"])
def test_a_backslash_leads_nowhere_that_a_slash_does_not(server: Web, make: Make, location: bytes) -> None:
    answer = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nLocation: " + location + b"\r\n\r\n"
    server.pages["/"] = web.raw(answer)
    with pytest.raises(errors.FetchRefused):
        make().fetch(server.url())


def test_what_a_proxy_has_changed_is_an_answer(server: Web, make: Make) -> None:
    server.pages["/"] = web.body(PNG, 203)
    assert make().fetch(server.url()) == PNG


def busy(times: int, status: int, **headers: str) -> web.Answer:
    """Answer that the server is busy so many times, and then with the picture."""
    left = [times]

    def answer(request: Any) -> None:
        left[0] -= 1
        (web.body(b"later", status, **headers) if left[0] >= 0 else web.body(PNG))(request)

    return answer


@pytest.mark.parametrize("status", [429, 503])
def test_a_short_retry_after_is_waited_for_once(server: Web, make: Make, status: int) -> None:
    in_a_second = formatdate(time.time() + 1, usegmt=True)
    for number, value in enumerate(("1", " 0 ", in_a_second, "Thu, 01 Jan 1970 00:00:00 GMT")):
        server.pages[f"/{number}"] = busy(1, status, Retry_After=value)
        assert make().fetch(server.url(f"/{number}")) == PNG
    server.pages["/again"] = busy(2, status, Retry_After="0")
    with pytest.raises(errors.FetchFailed, match=str(status)):
        make().fetch(server.url("/again"))
    assert server.paths.count("/again") == 2


@pytest.mark.parametrize("headers", [{}, {"Retry_After": "6"}, {"Retry_After": "soon"}, {"Retry_After": "9" * 400}])
def test_no_other_busy_server_is_waited_for(server: Web, make: Make, headers: dict[str, str]) -> None:
    server.pages["/"] = busy(1, 503, **headers)
    with pytest.raises(errors.FetchFailed, match="503"):
        make().fetch(server.url())
    assert len(server.paths) == 1


def test_a_pause_that_does_not_fit_into_the_time_is_not_made(server: Web, make: Make) -> None:
    server.pages["/"] = busy(1, 503, Retry_After="2")
    with pytest.raises(errors.FetchFailed, match="503"):
        make(fetch_timeout_s=1).fetch(server.url())
    assert len(server.paths) == 1


def test_a_busy_server_may_be_one_that_redirects(server: Web, make: Make) -> None:
    server.pages["/"] = web.redirect("/busy")
    server.pages["/busy"] = busy(1, 503, Retry_After="0")
    assert make().fetch(server.url()) == PNG


def test_a_gzip_bomb_is_too_large_and_takes_no_memory(server: Web, make: Make) -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    server.pages["/"] = web.body(bomb, Content_Encoding="gzip")
    tracemalloc.start()
    with pytest.raises(errors.ImageTooLarge):
        make(max_image_bytes=1 << 20).fetch(server.url())
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"Content-Length: 100\r\n\r\nhalf",
        OK + b"Transfer-Encoding: chunked\r\n\r\n64\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        OK + b"X: " + b"y" * 200_000 + b"\r\n\r\n",
        OK + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nhalf",
    ],
)
def test_broken_answers_fail(server: Web, make: Make, answer: bytes) -> None:
    server.pages["/"] = web.raw(answer)
    with pytest.raises(errors.FetchFailed):
        make().fetch(server.url())


def test_a_silent_server_times_out(server: Web, make: Make) -> None:
    server.pages["/"] = web.raw(b"", until=server.stopping)
    server.pages["/half"] = web.raw(OK + b"Content-Length: 9\r\n\r\nhalf", until=server.stopping)
    fetcher = make(fetch_stall_s=0.1)
    for path in ("/", "/half"):
        with pytest.raises(errors.ItemTimeout):
            fetcher.fetch(server.url(path))


@pytest.mark.parametrize("start", [b"", OK + b"\r\n"], ids=["headers", "body"])
def test_a_server_that_drips_is_cut_off(server: Web, make: Make, start: bytes) -> None:
    """Each byte comes in time, all of them never."""
    server.pages["/"] = web.raw(start or OK, *[b"X"] * 100_000, until=server.stopping, gap_s=0.05)
    with pytest.raises(errors.ItemTimeout):
        make(fetch_timeout_s=0.3).fetch(server.url())


def test_a_fetch_may_be_given_less_time_and_never_more(server: Web, make: Make) -> None:
    server.pages["/"] = web.raw(b"", until=server.stopping)
    for limit_s, given_s in ((60, 0.1), (0.1, 60)):
        with pytest.raises(errors.ItemTimeout):
            make(fetch_timeout_s=limit_s).fetch(server.url(), given_s)


def test_a_task_outlives_its_fetches() -> None:
    assert fetch.timeout_s(Settings(fetch_timeout_s=1000, soft_time_limit_s=60)) == 15


def test_nobody_is_there(server: Web, make: Make) -> None:
    with web.serve() as gone:
        url = gone.url()
    with pytest.raises(errors.FetchFailed, match="cannot be reached"):
        make().fetch(url)


def test_proxies_of_the_environment_are_not_used(server: Web, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    server.pages["/"] = web.body(b"picture")
    assert make().fetch(server.url()) == b"picture"


def test_a_connection_is_used_again_and_replaced_when_it_was_closed(server: Web, make: Make) -> None:
    peers: list[int] = []

    def answer(request: Any) -> None:
        peers.append(request.client_address[1])
        # closes without a word, as servers do with idle connections
        request.close_connection = len(peers) == 2
        web.body(b"picture")(request)

    server.pages["/"] = answer
    fetcher = make()
    for _ in range(3):
        assert fetcher.fetch(server.url()) == b"picture"
    assert peers[0] == peers[1] != peers[2]


def test_threads_fetch_at_once(server: Web, make: Make) -> None:
    together = threading.Barrier(8, timeout=30)

    def answer(request: Any) -> None:
        together.wait()
        web.body(request.path.encode())(request)

    server.pages |= {f"/{n}": answer for n in range(8)}
    fetcher = make()
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(fetcher.fetch, [server.url(f"/{n}") for n in range(8)])) == [b"/%d" % n for n in range(8)]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for images.example, signed by itself, with its key."""
    crypto = pytest.importorskip("cryptography.x509", reason="cryptography makes the test's certificate")
    import datetime

    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = crypto.Name([crypto.NameAttribute(crypto.NameOID.COMMON_NAME, "images.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        crypto.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(crypto.SubjectAlternativeName([crypto.DNSName("images.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "images.pem"
    pem = serialization.Encoding.PEM
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()) + made.public_bytes(pem)
    )
    return path


def test_certificates_are_checked_against_the_name(
    certificate: Path, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection goes to an address, but SNI and the certificate are the name's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    asked: list[str | None] = []
    context.sni_callback = lambda connection, name, context: asked.append(name)
    with web.serve(context) as server:
        server.pages["/"] = web.body(b"picture")
        loopback = lambda host, port: ["127.0.0.1"]  # noqa: E731
        with pytest.raises(errors.FetchFailed, match="certificate"):
            make(loopback).fetch(server.url(host="images.example", scheme="https"))
        monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
        assert make(loopback).fetch(server.url(host="images.example", scheme="https")) == b"picture"
        with pytest.raises(errors.FetchFailed, match="certificate"):
            make(loopback).fetch(server.url(host="other.example", scheme="https"))
        assert asked == ["images.example", "images.example", "other.example"]
