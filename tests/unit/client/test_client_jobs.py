"""Jobs: how they are waited for, their results, searches and assignments."""

from __future__ import annotations

import numpy as np
import pytest

from imagekin import errors
from imagekin.client import Client, WaitTimeout
from kit.fake_server import PNG, Answer, FakeServer, progress

STEPS = [
    {"status": "planning", "progress": progress()},
    {"status": "running", "progress": progress(total=10, done=4, embedded=3, failed=1, images_per_s=2.0, eta_s=3.0)},
    {"status": "partial", "progress": progress(total=10, done=10, embedded=9, failed=1)},
]


def test_wait_tells_how_far_the_job_is(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = STEPS
    seen: list[tuple[str, int]] = []
    job = client.embed("s3://x", "c").wait(lambda job: seen.append((job.status, job.progress.done)))
    assert seen == [("planning", 0), ("running", 4), ("partial", 10)]
    assert job.terminal
    assert all(request.headers["prefer"] == "wait=1" for request in server.requests if request.path == "/v1/jobs/j1")


def test_wait_holds_long_when_nobody_watches(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.cluster("c", 2).wait()
    assert server.requests[-1].headers["prefer"] == "wait=20"


def test_wait_shows_lines_where_there_is_no_terminal(
    server: FakeServer, client: Client, capsys: pytest.CaptureFixture[str]
) -> None:
    server.add_collection("c")
    server.steps = STEPS
    client.embed("s3://x", "c").wait(progress=True)
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "embed planning: 0 images",
        "embed running: 4 of 10 images, 1 failed, 2.0 images/s, 3 s left",
        "embed partial: 10 of 10 images, 1 failed",
    ]


def test_wait_gives_up_but_the_job_goes_on(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = [{"status": "running"}] * 1000
    job = client.cluster("c", 2)
    with pytest.raises(WaitTimeout, match=r"still running after 0\.05 s"):
        job.wait(timeout_s=0.05)
    with pytest.raises(TimeoutError):
        job.wait(timeout_s=0)


def test_the_result_of_a_failed_job_is_its_error(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = [{"status": "failed", "error": {"code": "empty_source", "detail": "Nothing in it."}}]
    with pytest.raises(errors.EmptySource, match="Nothing in it"):
        client.embed("s3://x", "c").result()
    server.steps = [{"status": "failed", "error": {"code": "decode_error", "detail": "Broken."}}]
    with pytest.raises(errors.DecodeError, match="Broken"):
        client.search(b"x", collection="c")
    server.steps = [{"status": "failed", "error": {"code": "new_code", "detail": "Odd."}}]
    with pytest.raises(errors.JobError, match="Odd") as caught:
        client.embed("s3://x", "c").result()
    assert caught.value.code == "new_code"
    server.steps = [{"status": "failed", "progress": progress(total=3, done=3, failed=3)}]
    job = client.embed("s3://x", "c").wait()
    with pytest.raises(errors.JobError, match="All 3 images failed"):
        job.raise_for_status()


def test_cancel_retry_items_and_sheet(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    server.steps = [{"status": "running"}] * 9
    server.items = [
        {"key": "a", "status": "embedded", "image_id": "i1", "error": None},
        {"key": "b", "status": "failed", "image_id": None, "error": {"code": "decode_error", "detail": "Broken."}},
    ]
    job = client.embed("s3://x", "c")
    assert job.cancel().status == "cancelled"
    with pytest.raises(errors.JobError, match="cancelled"):
        job.result()
    assert [item.key for item in job.items()] == ["a", "b"]
    assert [item.error.code for item in job.items("failed") if item.error] == ["decode_error"]
    assert job.sheet(label=2) == PNG + b"2"
    again = job.retry()
    assert again.parent_id == job.id
    assert server.posts("/v1/jobs/j1/retry")[0].json == {"items": "failed"}
    assert [each.id for each in client.jobs(status="cancelled")] == [job.id]


def test_search_gives_neighbors(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    neighbor = {"rank": 1, "id": "i1", "key": "a", "score": 0.9, "metadata": {}}
    server.results["search"] = {"query": {"embedding": True}, "top_k": 2, "neighbors": [neighbor]}
    found = client.search(embedding=np.array([1, 2], np.float32), collection="c", top_k=2)
    assert [(neighbor.key, neighbor.score) for neighbor in found.neighbors] == [("a", 0.9)]
    client.search(image_key="a", collection="c", exclude_query=False)
    client.search("https://example.com/a.png", collection="c")
    bodies = [post.json for post in server.posts("/v1/jobs/search")]
    assert [body["query"] for body in bodies] == [
        {"embedding": [1.0, 2.0]},
        {"image_key": "a"},
        {"url": "https://example.com/a.png"},
    ]
    assert bodies[1]["exclude_query"] is False


def test_assign_names_the_clustering(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    with pytest.raises(errors.JobNotFound):
        client.job("nothing")
    with pytest.raises(errors.JobNotFound):
        client.assign("nothing")
    clustering = client.cluster("c", 2)
    client.assign(clustering, image_keys=["a"])
    assert server.posts("/v1/jobs/assign")[-1].json == {"clustering_id": clustering.id, "image_keys": ["a"]}


def test_duplicates_say_what_to_compare(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    job = client.duplicates("c")
    client.duplicates("c", threshold=0.9, against="d", view="calibrated", filter={"a": 1})
    client.duplicates("c", between="split")
    assert [post.json for post in server.posts("/v1/jobs/duplicates")] == [
        {"collection": "c"},
        {"collection": "c", "threshold": 0.9, "against": "d", "view": "calibrated", "filter": {"a": 1}},
        {"collection": "c", "between": "split"},
    ]
    job.sheet(group=3, page=2)
    assert server.requests[-1].query == {"group": ["3"], "page": ["2"]}


def test_outliers_say_how_many(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.outliers("c")
    client.outliers("c", 5, view="raw", filter={"a": 1})
    assert [post.json for post in server.posts("/v1/jobs/outliers")] == [
        {"collection": "c"},
        {"collection": "c", "n": 5, "view": "raw", "filter": {"a": 1}},
    ]


def test_verdicts_are_given_and_taken_back(server: FakeServer, client: Client) -> None:
    server.faults = [Answer(body={"changed": 2}), Answer(body={"items": []}), Answer(body={"changed": 1})]
    assert client.give_verdicts("c", "different", [("i1", "i2"), ("i1", "i3")]) == 2
    assert list(client.verdicts("c")) == []
    assert client.take_back_verdicts("c", [("i1", "i2")]) == 1
    given, _, taken = server.requests
    assert (given.method, given.path, taken.method) == ("POST", "/v1/collections/c/verdicts", "DELETE")
    assert given.json["pairs"][1] == {"a": "i1", "b": "i3", "verdict": "different"}
    assert taken.json == {"pairs": [{"a": "i1", "b": "i2"}]}


def test_select_says_what_to_choose(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.select("c", 5)
    client.select("c", 5, method="diverse", view="raw", filter={"a": 1}, avoid=("i1", "i2"))
    client.select("c", 5, avoid="other")
    assert [post.json for post in server.posts("/v1/jobs/select")] == [
        {"collection": "c", "n": 5},
        {"collection": "c", "n": 5, "method": "diverse", "view": "raw", "filter": {"a": 1}, "avoid": ["i1", "i2"]},
        {"collection": "c", "n": 5, "avoid": "other"},
    ]


def test_map_says_what_to_lay_out(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.map("c")
    client.map("c", view="raw", filter={"a": 1}, seed=3)
    assert [post.json for post in server.posts("/v1/jobs/map")] == [
        {"collection": "c"},
        {"collection": "c", "view": "raw", "filter": {"a": 1}, "seed": 3},
    ]


def test_classify_says_what_to_learn(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.classify("c")
    client.classify("c", field="kind", min_probability=0.5, view="raw", seed=3)
    assert [post.json for post in server.posts("/v1/jobs/classify")] == [
        {"collection": "c"},
        {"collection": "c", "field": "kind", "min_probability": 0.5, "view": "raw", "seed": 3},
    ]


def test_split_says_how(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.split("c")
    client.split("c", field="fold", shares={"a": 0.5, "b": 0.5}, stratify="label", seed=3, threshold=0.9)
    assert [post.json for post in server.posts("/v1/jobs/split")] == [
        {"collection": "c"},
        {
            "collection": "c",
            "field": "fold",
            "shares": {"a": 0.5, "b": 0.5},
            "stratify": "label",
            "seed": 3,
            "threshold": 0.9,
        },
    ]


def test_adapt_names_the_new_collection(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.adapt("c", "taught")
    client.adapt("c", "taught", field="kind", force=True, seed=3)
    assert [post.json for post in server.posts("/v1/jobs/adapt")] == [
        {"collection": "c", "name": "taught"},
        {"collection": "c", "name": "taught", "field": "kind", "force": True, "seed": 3},
    ]


def test_indexes_are_built_removed_and_checked(server: FakeServer, client: Client) -> None:
    server.add_collection("c")
    client.index("c")
    client.index("c", "exact")
    client.check_index("c")
    client.check_index("c", 5, top_k=3, view="raw")
    assert [post.json for post in server.posts("/v1/collections/c/index")] == [{"index": "hnsw"}, {"index": "exact"}]
    assert [post.json for post in server.posts("/v1/collections/c/index/check")] == [
        {},
        {"queries": 5, "top_k": 3, "view": "raw"},
    ]
