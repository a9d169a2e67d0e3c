"""Jobs that are cancelled, tried again and deleted, by their owners alone."""

from __future__ import annotations

import httpx2

from kit.calls import SUMMARY, accepted, cluster, embed, finish_three, upload
from kit.hand import Hand
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


def test_a_cancelled_job_stays_cancelled(client: httpx2.Client, one_image: Hand) -> None:
    job = cluster(client)
    assert accepted(client.post(f"/v1/jobs/{job['id']}/cancel"))["status"] == "cancelled"
    assert accepted(client.post(f"/v1/jobs/{job['id']}/cancel"))["status"] == "cancelled"
    problem = check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "conflict")
    assert "cancelled" in problem["detail"]
    other = cluster(client)
    one_image.finish_cluster(SUMMARY, [])
    check_problem(client.post(f"/v1/jobs/{other['id']}/cancel"), 409, "job_finished")


def test_a_retry_is_a_new_job_that_names_its_parent(client: httpx2.Client, hand: Hand, server: Running) -> None:
    parent = finish_three(client, hand)
    headers = {"Idempotency-Key": "again"}
    job = accepted(client.post(f"/v1/jobs/{parent}/retry", json={"items": "failed"}, headers=headers))
    assert (job["parent_id"], job["kind"], job["status"]) == (parent, "embed", "queued")
    repeated = client.post(f"/v1/jobs/{parent}/retry", json={"items": "failed"}, headers=headers)
    assert accepted(repeated)["id"] == job["id"]
    mismatch = client.post(f"/v1/jobs/{parent}/retry", json={"items": "all"}, headers=headers)
    check_problem(mismatch, 422, "idempotency_mismatch")
    assert accepted(client.post(f"/v1/jobs/{parent}/retry"))["id"] != job["id"]
    problem = check_problem(client.post(f"/v1/jobs/{parent}/retry", json={"items": "some"}), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/items"
    check_problem(client.post(f"/v1/jobs/{job['id']}/retry", json={}), 409, "job_not_finished")


def test_a_retry_needs_its_source(client: httpx2.Client, hand: Hand) -> None:
    parent = finish_three(client, hand)
    upload_id = client.get(f"/v1/jobs/{parent}").json()["params"]["source"]["upload_id"]
    assert client.delete(f"/v1/uploads/{upload_id}").status_code == 204
    check_problem(client.post(f"/v1/jobs/{parent}/retry", json={}), 409, "source_expired")


def test_a_finished_job_can_be_deleted_and_its_images_stay(client: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    unfinished = accepted(embed(client, upload(client)))["id"]
    check_problem(client.delete(f"/v1/jobs/{unfinished}"), 409, "job_not_finished")
    assert client.delete(f"/v1/jobs/{job_id}").status_code == 204
    check_problem(client.get(f"/v1/jobs/{job_id}"), 404, "job_not_found")
    assert client.get("/v1/collections/archive").json()["image_count"] == 2


def test_another_owners_job_is_not_there(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    for method, path in [
        ("GET", ""), ("DELETE", ""), ("GET", "/items"), ("GET", "/result"), ("GET", "/sheet"), ("POST", "/cancel"),
        ("POST", "/retry"),
    ]:  # fmt: skip
        check_problem(stranger.request(method, f"/v1/jobs/{job_id}{path}"), 404, "job_not_found")
        check_problem(client.request(method, f"/v1/jobs/{'0' * 32}{path}"), 404, "job_not_found")
    assert client.get(f"/v1/jobs/{job_id}").status_code == 200
