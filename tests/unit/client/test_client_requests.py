"""Where the client's requests go, and which of them it sends again."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from imagekin import errors
from imagekin.client import Client, Unreachable
from kit.fake_server import BREAK, PNG, Answer, FakeServer, problem


def test_url_and_key_come_from_the_environment(server: FakeServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMAGEKIN_URL", server.url + "/")
    monkeypatch.setenv("IMAGEKIN_API_KEY", "secret")
    with Client() as client:
        assert list(client.collections()) == []
        assert client.url == server.url
    assert server.requests[-1].headers["authorization"] == "Bearer secret"


def test_default_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMAGEKIN_URL", raising=False)
    with Client() as client:
        assert client.url == "http://127.0.0.1:8000"


@pytest.mark.parametrize("url", ["localhost:8000", "ftp://host", "http://", "http://[::1"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(errors.InvalidRequest):
        Client(url)


def test_proxies_of_the_environment_are_not_for_this_machine(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with Client(server.url, retries=0) as client:
        assert list(client.collections()) == []


def test_a_job_is_sent_again_with_the_same_key_and_body(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.faults += [BREAK, problem(503, "backlog", Retry_After="0"), problem(429, "quota_exceeded", Retry_After="0")]
    job = client.cluster("c", 3, seed=7)
    posts = server.posts("/v1/jobs/cluster")
    assert job.kind == "cluster"
    assert len(posts) == 4
    assert len({post.headers["idempotency-key"] for post in posts}) == 1
    assert [post.json for post in posts] == [{"collection": "c", "n_clusters": 3, "seed": 7}] * 4


def test_every_job_has_a_key_of_its_own(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.cluster("c", 3)
    client.cluster("c", 3)
    client.cluster("c", 3, idempotency_key="mine")
    keys = [post.headers["idempotency-key"] for post in server.posts("/v1/jobs/cluster")]
    assert len(set(keys)) == 3
    assert keys[2] == "mine"


def test_retry_after_is_honored(server: FakeServer, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("imagekin.client.transport.time.sleep", pauses.append)
    server.faults += [problem(503, "backlog", Retry_After="7"), problem(503, "backlog")]
    assert list(client.collections()) == []
    assert 7 <= pauses[0] <= 7.01
    assert 0.01 <= pauses[1] <= 0.02


def test_a_retry_after_too_far_away_is_the_callers_business(server: FakeServer, client: Client) -> None:
    server.faults += [problem(429, "quota_exceeded", Retry_After="3600")]
    with pytest.raises(errors.QuotaExceeded) as caught:
        list(client.collections())
    assert caught.value.retry_after_s == 3600
    assert len(server.requests) == 1


def test_retry_after_may_be_a_date(server: FakeServer, client: Client) -> None:
    server.faults += [problem(503, "backlog", Retry_After="Wed, 21 Oct 2099 07:28:00 GMT")]
    with pytest.raises(errors.Backlog) as caught:
        list(client.collections())
    assert (caught.value.retry_after_s or 0) > 10**9


def test_retries_end(server: FakeServer) -> None:
    server.faults += [problem(503, "backlog")] * 9
    with Client(server.url, retries=2) as client, pytest.raises(errors.Backlog, match="went wrong"):
        list(client.collections())
    assert len(server.requests) == 3


def test_a_broken_connection_does_not_repeat_what_is_not_safe(server: FakeServer, client: Client) -> None:
    server.faults += [BREAK]
    with pytest.raises(Unreachable):
        client.create_collection("c")
    server.faults += [Answer(502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})]
    with pytest.raises(errors.ImagekinError) as caught:
        client.create_collection("c")
    assert caught.value.http_status == 502
    assert len(server.posts("/v1/collections")) == 2


def test_a_server_that_is_away(tmp_path: Path) -> None:
    with FakeServer() as gone:
        url = gone.url
    with Client(url, retries=0) as client, pytest.raises(Unreachable, match=url):
        client.ping()


def test_uploads_are_read_again_from_their_start(server: FakeServer, client: Client) -> None:
    server.faults += [BREAK, problem(503, "unavailable", Retry_After="0")]
    file = io.BytesIO(b"skipped" + b"x" * 600_000)
    file.seek(7)
    sent: list[int] = []
    assert client.upload(file, sent=sent.append).size == 600_000
    posts = server.posts("/v1/uploads")
    assert [len(post.body) for post in posts] == [600_000] * 3
    assert posts[-1].headers["content-length"] == "600000"
    assert sent[-1] == 600_000


def test_a_form_is_sent_again_whole(server: FakeServer, client: Client, tmp_path: Path) -> None:
    server.add_collection("c")
    server.results["search"] = {"query": {}, "top_k": 3, "neighbors": []}
    server.faults += [BREAK]
    picture = tmp_path / "query.png"
    picture.write_bytes(PNG)
    client.search(picture, collection="c", top_k=3, filter={"who": "me"})
    first, second = server.posts("/v1/jobs/search")
    for post in (first, second):
        assert PNG in post.body
        assert b'filename="query.png"' in post.body
        assert b'{"who": "me"}' in post.body
        assert b'name="top_k"\r\n\r\n3\r\n' in post.body
        assert b'name="exclude_query"\r\n\r\ntrue\r\n' in post.body
    assert first.headers["idempotency-key"] == second.headers["idempotency-key"]
