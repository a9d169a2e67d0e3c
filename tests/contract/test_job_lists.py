"""Lists of jobs and of a job's items, in pages and filtered."""

from __future__ import annotations

import httpx2

from kit.calls import SUMMARY, accepted, cluster, embed, finish_three, search, upload
from kit.hand import Hand
from kit.serving import BOTH_ENGINES
from kit.wire import check_problem

pytestmark = BOTH_ENGINES


def test_jobs_are_listed_newest_first_and_filtered(
    client: httpx2.Client, stranger: httpx2.Client, one_image: Hand
) -> None:
    one_image.collection("other")
    ended = cluster(client)
    one_image.finish_cluster(SUMMARY, [])
    queued = cluster(client)
    found = accepted(search(client, query={"image_key": "a.jpg"}))
    elsewhere = accepted(embed(client, upload(client), collection="other"))

    def listed(**params: str) -> list[str]:
        return [job["id"] for job in client.get("/v1/jobs", params=params).json()["items"]]

    assert listed() == [elsewhere["id"], found["id"], queued["id"], ended["id"]]
    assert listed(status="succeeded") == [ended["id"]]
    assert listed(kind="search") == [found["id"]]
    assert listed(collection="other") == [elsewhere["id"]]
    assert listed(collection="none") == []
    assert listed(kind="cluster", status="queued", collection="archive") == [queued["id"]]
    assert stranger.get("/v1/jobs").json() == {"items": [], "next_cursor": None}
    for name in ("status", "kind"):
        problem = check_problem(client.get("/v1/jobs", params={name: "odd"}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == f"/{name}"


def test_pages_of_jobs_are_stable_under_new_ones(client: httpx2.Client, one_image: Hand) -> None:
    ids = [cluster(client)["id"] for _ in range(5)]
    first = client.get("/v1/jobs", params={"limit": 2}).json()
    cluster(client)
    second = client.get("/v1/jobs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    third = client.get("/v1/jobs", params={"limit": 2, "cursor": second["next_cursor"]}).json()
    assert [job["id"] for page in (first, second, third) for job in page["items"]] == ids[::-1]
    assert third["next_cursor"] is None
    # clamped, not refused
    assert len(client.get("/v1/jobs", params={"limit": 0}).json()["items"]) == 1
    assert len(client.get("/v1/jobs", params={"limit": 10**30}).json()["items"]) == 6


def test_a_cursor_that_the_list_never_gave_is_refused(client: httpx2.Client, one_image: Hand) -> None:
    for _ in range(2):
        cluster(client)
    cursor = client.get("/v1/jobs", params={"limit": 1}).json()["next_cursor"]
    check_problem(client.get("/v1/collections", params={"cursor": cursor}), 422, "invalid_request")
    for odd in ("x", "!!", "bnVsbA", cursor[:-2], "WyJqb2JzIixbMSwyXV0"):
        problem = check_problem(client.get("/v1/jobs", params={"cursor": odd}), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == "/cursor"
    check_problem(client.get("/v1/jobs", params={"limit": "ten"}), 422, "invalid_request")


def test_the_items_of_a_job_are_paged_and_filtered(client: httpx2.Client, hand: Hand) -> None:
    job_id = finish_three(client, hand)
    job = client.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "partial"
    progress = job["progress"]
    assert (progress["total"], progress["done"], progress["embedded"], progress["failed"]) == (3, 3, 2, 1)
    assert progress["ignored"] == 1
    first = client.get(f"/v1/jobs/{job_id}/items", params={"limit": 2}).json()
    assert [item["key"] for item in first["items"]] == ["a.jpg", "b.jpg"]
    assert first["items"][0].keys() == {"key", "status", "image_id", "error"}
    image_id = first["items"][0]["image_id"]
    assert client.get(f"/v1/collections/archive/images/{image_id}").json()["key"] == "a.jpg"
    last = client.get(f"/v1/jobs/{job_id}/items", params={"cursor": first["next_cursor"]}).json()
    assert last["next_cursor"] is None
    assert last["items"] == [
        {"key": "c.jpg", "status": "failed", "image_id": None,
         "error": {"code": "decode_error", "detail": "The image is truncated."}}
    ]  # fmt: skip
    failed = client.get(f"/v1/jobs/{job_id}/items", params={"status": "failed"}).json()
    assert failed["items"] == last["items"]
    check_problem(client.get(f"/v1/jobs/{job_id}/items", params={"status": "odd"}), 422, "invalid_request")
    check_problem(client.get(f"/v1/jobs/{job_id}/items", params={"cursor": "odd"}), 422, "invalid_request")
