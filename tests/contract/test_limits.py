"""How much and how fast an owner may ask."""

from __future__ import annotations

import gzip
import io
import socket
import tarfile
from collections.abc import Callable

import httpx2
import pytest

from imagekin import api_keys
from imagekin_api.wiring import rates
from kit.hand import picture
from kit.serving import NO_REDIS, Running
from kit.wire import ADMIN_KEY, check_problem


def test_an_owner_past_the_rate_waits_and_others_do_not(serve: Callable[..., Running]) -> None:
    server = serve(rate_limit_per_s=0.2)
    client = server.client(ADMIN_KEY)
    answers = [client.get("/v1/jobs") for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    check_problem(answers[2], 429, "rate_limited")
    assert 1 <= int(answers[2].headers["Retry-After"]) <= 5
    _, key = server.database.write(api_keys.create, "stranger")
    assert server.client(key).get("/v1/jobs").status_code == 200
    # orchestrators ask without a key, and are never refused
    assert all(server.client().get("/healthz").status_code == 200 for _ in range(10))


def test_two_keys_of_an_owner_share_the_rate(serve: Callable[..., Running]) -> None:
    server = serve(rate_limit_per_s=0.2)
    clients = [server.client(server.database.write(api_keys.create, "ada")[1]) for _ in range(3)]
    assert [client.get("/v1/jobs").status_code for client in clients] == [200, 200, 429]


def test_api_processes_share_the_rate(serve: Callable[..., Running]) -> None:
    clients = [serve(rate_limit_per_s=0.2).client(ADMIN_KEY) for _ in range(3)]
    assert [client.get("/v1/jobs").status_code for client in clients] == [200, 200, 429]
    assert 1 <= int(clients[0].get("/v1/jobs").headers["Retry-After"]) <= 5


@pytest.mark.parametrize("redis_url", [NO_REDIS, "unix:///nowhere/redis.sock"])
def test_the_rate_holds_in_each_process_without_redis(serve: Callable[..., Running], redis_url: str) -> None:
    for _ in range(2):
        client = serve(rate_limit_per_s=0.2, redis_url=redis_url).client(ADMIN_KEY)
        assert [client.get("/v1/jobs").status_code for _ in range(3)] == [200, 200, 429]


def test_a_redis_that_hangs_costs_one_request_a_moment(
    serve: Callable[..., Running], monkeypatch: pytest.MonkeyPatch
) -> None:
    # until then it is left alone, and not one of these requests comes as late on any machine
    monkeypatch.setattr(rates, "PAUSE_S", 3600)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        client = serve(rate_limit_per_s=100, redis_url=url).client(ADMIN_KEY)
        assert {client.get("/v1/jobs").status_code for _ in range(20)} == {200}
        silent.setblocking(False)
        silent.accept()[0].close()
        with pytest.raises(BlockingIOError):
            silent.accept()


def test_wrong_keys_do_not_use_up_anybodys_rate(serve: Callable[..., Running]) -> None:
    server = serve(rate_limit_per_s=0.2)
    for _ in range(10):
        check_problem(server.client("ik_wrong").get("/v1/jobs"), 401, "unauthorized")
    assert server.client(ADMIN_KEY).get("/v1/jobs").status_code == 200


@pytest.mark.parametrize("changes", [{"rate_limit_per_s": 0}, {"rate_limit_per_s": 0.2, "auth": "local"}])
def test_there_is_no_limit_where_none_is_set_and_on_ones_own_machine(
    serve: Callable[..., Running], changes: dict
) -> None:
    client = serve(**changes).client(ADMIN_KEY)
    assert {client.get("/v1/jobs").status_code for _ in range(20)} == {200}


def test_stored_uploads_have_a_quota_for_each_owner(serve: Callable[..., Running]) -> None:
    server = serve(max_stored_upload_bytes_per_owner=1000)
    client = server.client(ADMIN_KEY)
    first = client.post("/v1/uploads", content=b"a" * 600).json()["id"]
    problem = check_problem(client.post("/v1/uploads", content=b"b" * 600), 429, "quota_exceeded")
    assert "600 bytes of the 1,000" in problem["detail"]
    # of unknown length: seen only when it is there
    check_problem(client.post("/v1/uploads", content=iter([b"b" * 600])), 429, "quota_exceeded")
    files = list((server.settings.data_dir / "storage" / "uploads").iterdir())
    assert [file.name for file in files] == [first]
    _, key = server.database.write(api_keys.create, "stranger")
    assert server.client(key).post("/v1/uploads", content=b"c" * 600).status_code == 201
    assert client.delete(f"/v1/uploads/{first}").status_code == 204
    assert client.post("/v1/uploads", content=b"b" * 600).status_code == 201


def test_the_quota_counts_what_is_stored_not_what_was_sent(serve: Callable[..., Running]) -> None:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        member = tarfile.TarInfo("a.png")
        member.size = 200_000
        archive.addfile(member, io.BytesIO(bytes(200_000)))
    data = gzip.compress(file.getvalue())
    assert len(data) < 5_000
    server = serve(max_stored_upload_bytes_per_owner=50_000)
    check_problem(server.client(ADMIN_KEY).post("/v1/uploads", content=data), 429, "quota_exceeded")


def test_the_fields_of_a_form_have_a_limit_together(client: httpx2.Client) -> None:
    fields = dict.fromkeys("abc", "x" * 400000)
    for path, file in (("/v1/jobs/embed", "images"), ("/v1/jobs/search", "image"), ("/v1/collections/a/import", "f")):
        answer = client.post(path, data=fields, files={file: ("a.png", picture())})
        check_problem(answer, 413, "too_large")


def test_pictures_in_a_form_count_too(serve: Callable[..., Running]) -> None:
    server = serve(max_stored_upload_bytes_per_owner=3_000)
    client = server.client(ADMIN_KEY)
    client.post("/v1/collections", json={"name": "archive", "backbone": "fake"})
    sent = {"data": {"collection": "archive"}, "files": {"image": ("a.png", picture(size=(20, 20)))}}
    assert client.post("/v1/jobs/search", **sent).status_code == 202
    check_problem(client.post("/v1/jobs/search", **{**sent, "files": {"image": picture(1)}}), 429, "quota_exceeded")


def test_every_answer_has_the_security_headers(server: Running, serve: Callable[..., Running]) -> None:
    client = server.client(ADMIN_KEY)
    answers = [
        client.get(path)
        for path in ("/v1/backbones", "/v1/jobs/none", "/nothing", "/healthz", "/docs", "/openapi.json", "/metrics")
    ]
    answers += [server.client().get("/v1/jobs"), client.post("/v1/collections", content=b"{"), client.put("/v1/jobs")]
    answers += [client.options("/v1/jobs"), client.head("/v1/jobs"), client.get("/docs/static/docs.css")]
    with pytest.MonkeyPatch.context() as broken:
        broken.setattr("imagekin.store.collections.page", None)
        answers.append(client.get("/v1/collections"))
    answers.append(serve(auth="local").client().get("/v1/jobs", headers={"Host": "example.org"}))
    assert {answer.status_code for answer in answers} == {200, 401, 403, 404, 405, 415, 500}
    for answer in answers:
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["Referrer-Policy"] == "no-referrer"
        assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")
        assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
        assert answer.headers["Cache-Control"] == ("no-cache" if answer.url.path.endswith(".css") else "no-store")
