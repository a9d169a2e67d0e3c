"""How jobs are taken in: within quotas, with a ring for their lane, without Redis as well."""

from __future__ import annotations

from collections.abc import Callable

import httpx2
import redis

from imagekin import api_keys
from imagekin.enums import Lane
from kit.calls import accepted, cluster, search
from kit.hand import Hand
from kit.patience import until
from kit.serving import BOTH_ENGINES, NO_REDIS, Running
from kit.wire import ADMIN_KEY, check_problem

pytestmark = BOTH_ENGINES


def test_past_quota_and_backlog_a_client_is_told_when_to_come_again(serve: Callable[..., Running]) -> None:
    server = serve(max_jobs_per_owner=1, max_backlog=2)
    hand = Hand(server.database, server.settings)

    def owner(name: str) -> httpx2.Client:
        hand.of(name).collection()
        hand.of(name).images("a.jpg")
        return server.client(server.database.write(api_keys.create, name)[1])

    def post(client: httpx2.Client) -> httpx2.Response:
        return client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 1})

    first, second, third = owner("first"), owner("second"), owner("third")
    accepted(post(first))
    answer = post(first)
    check_problem(answer, 429, "quota_exceeded")
    assert int(answer.headers["Retry-After"]) >= 1
    accepted(post(second))
    answer = post(third)
    check_problem(answer, 503, "backlog")
    assert int(answer.headers["Retry-After"]) >= 1


def test_a_job_is_taken_in_while_redis_is_down(serve: Callable[..., Running]) -> None:
    server = serve(redis_url=NO_REDIS)
    hand = Hand(server.database, server.settings)
    hand.collection()
    hand.images("a.jpg")
    job = cluster(server.client(ADMIN_KEY))
    assert hand.claim(Lane.BULK).job_id == job["id"]


def test_the_lane_of_a_new_job_is_rung_and_no_other(client: httpx2.Client, one_image: Hand, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as connection:
        connection.flushall()
        accepted(search(client, query={"image_key": "a.jpg"}))
        until(lambda: connection.llen("interactive") == 1)
        assert connection.llen("bulk") == 0
