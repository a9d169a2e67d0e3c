"""Who gets in: keys, the local mode, and what operators alone may see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpx2
import pytest
import sqlalchemy as sa

from imagekin import api_keys
from imagekin.database import sql, tables
from imagekin.enums import Lane
from kit.hand import Hand
from kit.serving import BOTH_ENGINES, NO_REDIS, Running
from kit.wire import ADMIN_KEY, check_problem

# --- keys ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": ""},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {ADMIN_KEY}"},
        {"Authorization": ADMIN_KEY},
        {"Authorization": "Bearer k\xe4se"},
    ],
)
def test_without_a_valid_key_nothing_is_open(server: Running, headers: dict[str, str]) -> None:
    client = server.client()
    encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
    for method, path in [
        ("GET", "/v1/backbones"), ("POST", "/v1/collections"), ("GET", "/v1/jobs"), ("POST", "/v1/uploads"),
        ("GET", "/v1/nothing"), ("OPTIONS", "/v1/jobs"),
    ]:  # fmt: skip
        answer = client.request(method, path, headers=encoded)
        check_problem(answer, 401, "unauthorized")
        assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_without_any_key_configured_nothing_is_open(serve: Callable[..., Running]) -> None:
    server = serve(first_key="")
    for given in ("Bearer", f"Bearer {ADMIN_KEY}", "Bearer admin"):
        answer = server.client().get("/v1/backbones", headers={"Authorization": given})
        check_problem(answer, 401, "unauthorized")


def test_every_address_below_v1_wants_a_key(server: Running) -> None:
    rules = [rule for rule in server.app.url_map.iter_rules() if rule.rule.startswith("/v1/")]
    assert len(rules) > 20
    with server.app.test_client() as client:
        for rule in rules:
            path = rule.rule.replace("<", "").replace(">", "")
            for method in rule.methods or ():
                assert client.open(path, method=method).status_code == 401


def test_a_key_is_its_owners_until_it_is_revoked(server: Running) -> None:
    row, key = server.database.write(api_keys.create, "ada")
    client = server.client(key)
    assert client.get("/v1/jobs").status_code == 200
    assert server.client().get("/v1/jobs", headers={"Authorization": f"bearer {key}"}).status_code == 200
    server.database.write(api_keys.revoke, row.id)
    check_problem(client.get("/v1/jobs"), 401, "unauthorized")


def test_a_key_is_kept_as_a_digest_only(server: Running) -> None:
    _, key = server.database.write(api_keys.create, "ada")
    with server.database.engine.connect() as connection:
        rows = connection.execute(sa.text("SELECT * FROM api_keys")).all()
    assert len(rows) == 1
    assert key not in str(rows)


def test_the_use_of_a_key_is_noted_once_an_hour(server: Running) -> None:
    row, key = server.database.write(api_keys.create, "ada")
    client = server.client(key)

    def last_used() -> float | None:
        return server.database.read(lambda session: session.get_one(tables.ApiKey, row.id).last_used_at)

    assert last_used() is None
    client.get("/v1/jobs")
    first = last_used()
    assert first is not None
    client.get("/v1/jobs")
    assert last_used() == first


# --- local -----------------------------------------------------------------------------------------------------


@pytest.fixture
def local(serve: Callable[..., Running]) -> Running:
    return serve(auth="local", first_key="")


def test_this_machine_needs_no_key_in_local_mode(local: Running) -> None:
    Hand(local.database, local.settings, owner="local").collection()
    assert [each["name"] for each in local.client().get("/v1/collections").json()["items"]] == ["archive"]
    own = {"Origin": local.url, "Sec-Fetch-Site": "same-origin"}
    assert local.client().get("/v1/collections", headers=own).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "example.org"},
        {"Host": "localhost.example.org:PORT"},
        {"Host": "127.0.0.1"},
        {"Host": "localhost:1"},
        {"Host": "localhost:PORT@example.org"},
        {"Host": "somebody@localhost:PORT"},
        {"Host": "0.0.0.0:PORT"},
        {"Origin": "https://example.org"},
        {"Origin": "null"},
        {"Origin": "http://localhost:1"},
        {"Sec-Fetch-Site": "cross-site"},
        {"X-Forwarded-For": "127.0.0.1"},
        {"X-Forwarded-Host": "localhost"},
        {"Forwarded": "for=127.0.0.1"},
        {"X-Real-IP": "127.0.0.1"},
    ],
)
def test_others_are_refused_in_local_mode(local: Running, headers: dict[str, str]) -> None:
    port = local.url.rsplit(":", 1)[1]
    client = local.client()
    client.headers.update({name: value.replace("PORT", port) for name, value in headers.items()})
    for path in ("/v1/collections", "/healthz", "/docs", "/openapi.json", "/metrics", "/nothing"):
        check_problem(client.get(path), 403, "forbidden")


@pytest.mark.parametrize(
    ("address", "status"), [("127.0.0.1", 200), ("::1", 200), ("10.0.0.7", 403), ("elsewhere", 403)]
)
def test_another_machine_is_refused_in_local_mode(local: Running, address: str, status: int) -> None:
    # a socket that listens beyond loopback is refused before; this holds where a proxy or a container forwards
    host = f"localhost:{local.url.rsplit(':', 1)[1]}"
    given = {"REMOTE_ADDR": address, "HTTP_HOST": host, "SERVER_PORT": host.split(":")[1]}
    assert local.app.test_client().get("/v1/jobs", environ_overrides=given).status_code == status


def test_a_page_of_another_site_cannot_post_in_local_mode(local: Running) -> None:
    headers = {"Origin": "https://example.org", "Content-Type": "text/plain", "Sec-Fetch-Mode": "navigate"}
    check_problem(local.client().post("/v1/collections", content=b"{}", headers=headers), 403, "forbidden")
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    check_problem(local.client().post("/v1/collections", content=b"{}", headers=headers), 403, "forbidden")
    assert local.client().get("/docs", headers=headers).status_code == 200


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]"])
def test_every_name_of_this_machine_will_do(local: Running, host: str) -> None:
    port = local.url.rsplit(":", 1)[1]
    assert local.client().get("/v1/jobs", headers={"Host": f"{host}:{port}"}).status_code == 200


# --- health ----------------------------------------------------------------------------------------------------


def beat(server: Running, lane: Lane, ago_s: float = 0) -> None:
    server.database.write(
        lambda session: session.merge(
            tables.Worker(name=lane.value, lane=lane.value, device="cpu", seen_at=sql.clock() - ago_s)
        )
    )


def test_a_live_process_says_so_to_everybody(serve: Callable[..., Running]) -> None:
    server = serve(redis_url=NO_REDIS)
    assert server.client().get("/healthz").json() == {"status": "ok"}


def test_a_service_is_ready_with_a_live_worker_in_each_lane(server: Running) -> None:
    for lane in Lane:
        beat(server, lane)
    answer = server.client().get("/readyz")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body["ready"] is True
    assert body["checks"].keys() == {
        "database", "redis", "storage", "blobs", "migrations", "worker_interactive", "worker_bulk", "indexes",
    }  # fmt: skip
    assert all(check["ready"] for check in body["checks"].values())


def test_what_is_not_ready_is_named(serve: Callable[..., Running]) -> None:
    server = serve(redis_url=NO_REDIS)
    beat(server, Lane.BULK)
    beat(server, Lane.INTERACTIVE, ago_s=31)
    answer = server.client().get("/readyz")
    problem = check_problem(answer, 503, "not_ready")
    assert [name for name, check in problem["checks"].items() if not check["ready"]] == ["redis", "worker_interactive"]
    assert "redis, worker_interactive" in problem["detail"]


def test_missing_migrations_are_named(server: Running) -> None:
    with server.database.engine.connect() as connection:
        connection.execute(sa.text("UPDATE alembic_version SET version_num = '0000'"))
        connection.commit()
    checks = check_problem(server.client().get("/readyz"), 503, "not_ready")["checks"]
    assert checks["database"]["ready"]
    assert "0000" in checks["migrations"]["detail"]
    assert "imagekin db upgrade" in checks["migrations"]["detail"]
    assert checks["worker_bulk"]["detail"] == "Not known until `migrations` is ready."


def test_a_database_that_is_away_is_named_and_the_process_lives(serve: Callable[..., Running]) -> None:
    server = serve(database_url="postgresql://imagekin:secret-word@127.0.0.1:1/imagekin")
    answer = server.client().get("/readyz")
    checks = check_problem(answer, 503, "not_ready")["checks"]
    assert "IMAGEKIN_DATABASE_URL" in checks["database"]["detail"]
    assert "database" in checks["migrations"]["detail"]
    assert (checks["redis"]["ready"], checks["storage"]["ready"]) == (True, True)
    assert "secret-word" not in answer.text
    assert server.client().get("/healthz").status_code == 200


def test_a_storage_that_takes_nothing_is_named(serve: Callable[..., Running], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    server = serve(storage_url=(tmp_path / "taken").as_uri())
    checks = check_problem(server.client().get("/readyz"), 503, "not_ready")["checks"]
    assert not checks["storage"]["ready"]
    assert "IMAGEKIN_STORAGE_URL" in checks["storage"]["detail"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_storage_of_blobs_that_takes_nothing_is_named_if_it_is_written(
    serve: Callable[..., Running], tmp_path: Path, read_only: bool
) -> None:
    (tmp_path / "taken").write_text("a file where the folder should be")
    server = serve(blob_url=str(tmp_path / "taken"), blob_read_only=read_only)
    checks = check_problem(server.client().get("/readyz"), 503, "not_ready")["checks"]
    assert checks["blobs"]["ready"] is read_only
    assert read_only or "Vectors and thumbnails cannot be written" in checks["blobs"]["detail"]


def test_asking_leaves_nothing_in_the_storages(serve: Callable[..., Running], tmp_path: Path) -> None:
    server = serve(blob_url=str(tmp_path / "blobs"))
    checks = check_problem(server.client().get("/readyz"), 503, "not_ready")["checks"]
    assert (checks["storage"]["ready"], checks["blobs"]["ready"]) == (True, True)
    left = [path for folder in ("storage", "blobs") for path in (tmp_path / folder).rglob("*") if path.is_file()]
    assert left == []


def test_operators_alone_see_details(server: Running) -> None:
    proxied = {"X-Forwarded-For": "203.0.113.7"}
    problem = check_problem(server.client().get("/readyz", headers=proxied), 503, "not_ready")
    assert "checks" not in problem
    assert "worker" not in problem["detail"]
    problem = check_problem(server.client(ADMIN_KEY).get("/readyz", headers=proxied), 503, "not_ready")
    assert "checks" in problem
    check_problem(server.client().get("/metrics", headers=proxied), 401, "unauthorized")
    check_problem(server.client().get("/metrics", headers={"Host": "example.org"}), 401, "unauthorized")
    assert server.client().get("/metrics").status_code == 200
    # as a proxy beside the server sends it that adds no header; docs/security.md says so
    assert server.client().get("/metrics", headers={"Host": "127.0.0.1"}).status_code == 200
    assert server.client(ADMIN_KEY).get("/metrics", headers=proxied).status_code == 200


@BOTH_ENGINES
def test_metrics_count_requests_jobs_and_the_queue(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg")
    for _ in range(2):
        client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1})
    client.get("/v1/jobs/none")
    text = client.get("/metrics").text
    for line in [
        'imagekin_requests_total{method="POST",route="/v1/jobs/cluster",status="202"} 2.0',
        'imagekin_requests_total{method="GET",route="/v1/jobs/<job_id>",status="404"} 1.0',
        'imagekin_request_seconds_count{method="POST",route="/v1/jobs/cluster"} 2.0',
        'imagekin_jobs{status="queued"} 2.0',
        'imagekin_jobs{status="failed"} 0.0',
        'imagekin_queue_chunks{lane="bulk",status="ready"} 2.0',
        'imagekin_queue_chunks{lane="interactive",status="ready"} 0.0',
        'imagekin_queue_age_seconds{lane="interactive"} 0.0',
        'imagekin_workers{lane="bulk"} 0.0',
        "imagekin_queue_images 0.0",
    ]:
        assert line in text.splitlines()


@BOTH_ENGINES
def test_metrics_tell_how_long_work_waits_and_how_it_ended(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    hand.images("a.jpg")
    ids = [
        client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1}).json()["id"] for _ in range(2)
    ]
    older = sa.update(tables.Job).where(tables.Job.id == ids[0]).values(created_at=tables.Job.created_at - 1000)
    hand.database.write(lambda session: session.execute(older))
    age = 'imagekin_queue_age_seconds{lane="bulk"}'
    cancelled = 'imagekin_jobs_ended_total{kind="cluster",status="cancelled"}'
    before = scrape(client)
    assert before[age] >= 1000
    client.post(f"/v1/jobs/{ids[0]}/cancel")
    after = scrape(client)
    assert after[age] < 1000
    assert after[cancelled] == before[cancelled] + 1
    claimed = hand.claim(Lane.BULK)
    assert claimed.job_id == ids[1]
    now = scrape(client)
    assert [now[f'imagekin_queue_chunks{{lane="bulk",status="{status}"}}'] for status in ("ready", "claimed")] == [0, 1]
    assert now[age] == 0
    assert now["process_resident_memory_bytes"] > 1e6


def scrape(client: httpx2.Client) -> dict[str, float]:
    lines = [line for line in client.get("/metrics").text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}
