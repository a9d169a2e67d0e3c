"""Near-duplicates: groups with the image to keep, the reason for each other one, leaks, another collection."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import httpx2
import numpy as np
import pytest
from PIL import Image

from imagekin.demo import furniture
from imagekin.store import segments
from imagekin_worker.analysis import hashes
from imagekin_worker.analysis.duplicates import Duplicates
from imagekin_worker.analysis.groups import Images
from imagekin_worker.kinds import pinned
from imagekin_worker.matrix import view
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM, Hand, picture
from kit.known_vectors import image
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

pytestmark = BOTH_ENGINES

STRANGERS = 36


def drawn() -> list[segments.Item]:
    """Strangers, one copy of each kind, and what is close by one sign only."""
    train, test = {"split": "train"}, {"split": "test"}
    return [
        image("00.jpg", 0, metadata=train | {"more": 1}),
        *(image(f"{at:02}.jpg", at, metadata=train) for at in range(1, STRANGERS)),
        image("bytes.jpg", 0, metadata=test),
        image("cropped.jpg", 101, like=1, cosine=0.97, width=20, metadata=test),
        image("encoded.png", 102, like=2, cosine=0.6, looks=2, format="PNG", metadata=train),
        image("unseen.jpg", 103, like=3, cosine=0.95, thumbnail=None, width=None, height=None, metadata=test),
        image("close.jpg", 104, like=4, cosine=0.85, metadata=test),
    ]


@pytest.fixture
def archive(hand: Hand) -> dict[str, str]:
    """Ids by key."""
    hand.collection()
    items = drawn()
    return dict(zip([item.key for item in items], hand.store(items), strict=True))


def search(client: httpx2.Client, **body: Any) -> httpx2.Response:
    return client.post("/v1/jobs/duplicates", json={"collection": "archive", "threshold": 0.93, **body})


def ended(client: httpx2.Client, job: dict[str, Any]) -> dict[str, Any]:
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["progress"]["fraction"]) == ("succeeded", 1), job
    return client.get(f"/v1/jobs/{job['id']}/result").json()


def found(client: httpx2.Client, crew: Crew, **body: Any) -> dict[str, Any]:
    job = accepted(search(client, **body))
    crew.work()
    return ended(client, job)


def keys(result: dict[str, Any]) -> list[tuple[str, str, dict[str, str]]]:
    return [
        (one["keep"]["key"], one["keep"]["because"], {each["key"]: each["reason"] for each in one["members"][1:]})
        for one in result["groups"]
    ]


@pytest.mark.usefixtures("archive")
def test_groups_have_the_image_to_keep_and_a_reason_for_each_other(
    client: httpx2.Client, archive: dict[str, str], crew: Crew
) -> None:
    result = found(client, crew)
    assert keys(result) == [
        ("00.jpg", "more metadata", {"bytes.jpg": "identical"}),
        ("01.jpg", "more pixels", {"cropped.jpg": "edited"}),
        ("03.jpg", "more pixels", {"unseen.jpg": "edited"}),
        ("encoded.png", "lossless", {"02.jpg": "same"}),
    ]
    assert [(one["group"], one["size"]) for one in result["groups"]] == [(0, 2), (1, 2), (2, 2), (3, 2)]
    assert result["groups"][1]["keep"] == {"id": archive["01.jpg"], "key": "01.jpg", "because": "more pixels"}
    assert result["groups"][1]["members"][0] == {
        "id": archive["01.jpg"], "key": "01.jpg", "score": 1.0, "reason": None, "hash_bits": 0, "correlation": 1.0,
        "width": 32, "height": 24,
    }  # fmt: skip
    edited, unseen, same = (result["groups"][at]["members"][1] for at in (1, 2, 3))
    assert edited["score"] == pytest.approx(0.97, abs=1e-5) and edited["width"] == 20
    # nothing is told of pictures that are not there
    assert [unseen[name] for name in ("hash_bits", "correlation", "width", "height")] == [None] * 4
    assert same["hash_bits"] == 0 and same["correlation"] == 1 and same["score"] == pytest.approx(0.6, abs=1e-5)
    assert (result["images"], result["duplicates"], result["threshold"]) == (STRANGERS + 5, 4, 0.93)
    assert result["by_reason"] == {"identical": 1, "same": 1, "mirrored": 0, "edited": 2, "verdict": 0}
    assert [(one["a"], one["b"]) for one in result["look"]] == [(archive["04.jpg"], archive["close.jpg"])]
    assert set(result["look"][0]) >= {"a", "b", "score", "hash_bits"}
    assert len(result["histogram"]["edges"]) == len(result["histogram"]["counts"]) + 1
    assert {*result["examples"][0]} >= {"score", "a", "b"}
    assert (result["view"]["name"], result["view"]["images"]) == ("raw", STRANGERS + 5)


@pytest.mark.usefixtures("archive")
def test_a_picture_is_hashed_once(
    client: httpx2.Client, hand: Hand, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a picture that is not there is looked for once; images that come later are hashed alone."""
    taken, take = [], hashes.of_thumbnail

    def counted(jpeg: bytes) -> hashes.Print:
        taken.append(jpeg)
        return take(jpeg)

    monkeypatch.setattr(hashes, "of_thumbnail", counted)
    first = found(client, crew, filter={"split": "test"})
    assert len(taken) == 3
    whole = found(client, crew)
    assert len(taken) == STRANGERS + 4
    assert found(client, crew) == whole and found(client, crew, filter={"split": "test"}) == first
    assert len(taken) == STRANGERS + 4
    hand.store([image("late.jpg", 105, like=5, cosine=0.99), image("01.jpg", 106)])
    later = found(client, crew)
    assert len(taken) == STRANGERS + 6
    assert ("05.jpg", "more metadata", {"late.jpg": "edited"}) in keys(later)
    assert "01.jpg" not in json.dumps(later["groups"])


def test_the_larger_file_of_a_picture_is_kept(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    files = []
    with Image.open(furniture.pictures()[0].path) as shown:
        for name, quality in (("a.jpg", 60), ("b.jpg", 95)):
            file = io.BytesIO()
            shown.convert("RGB").save(file, "JPEG", quality=quality)
            files.append(("images", (name, file.getvalue())))
    accepted(client.post("/v1/jobs/embed", data={"collection": "archive"}, files=files))
    crew.work()
    assert keys(found(client, crew)) == [("b.jpg", "more bytes", {"a.jpg": "same"})]


@pytest.mark.usefixtures("archive")
def test_the_job_answers_as_the_analysis_does(client: httpx2.Client, server: Running, crew: Crew) -> None:
    items = sorted(drawn(), key=lambda item: item.key)
    rows = np.stack([item.vector for item in items if item.vector is not None])
    signs = [hashes.of_thumbnail(item.thumbnail or picture(900, kind="JPEG")) for item in items]
    core = Duplicates(
        rows,
        view.raw("space", DIM, len(rows)),
        Images(
            [item.key for item in items],
            [item.content_hash for item in items],
            np.array([sign.hash for sign in signs], np.uint64),
            np.array([sign.mirrored for sign in signs], np.uint64),
            np.array([(item.width or 0) * (item.height or 0) for item in items]),
            np.array([item.format == "PNG" for item in items]),
            np.full(len(items), -1),
            np.array([len(item.metadata or {}) for item in items]),
            np.arange(len(items), dtype=np.float64),
        ),
        thumbnails=lambda index: np.stack([signs[row].gray for row in index]),
        memory_budget_bytes=1 << 24,
        folder=server.settings.data_dir,
    )
    core.advance()
    expected, result = core.result(), found(client, crew, threshold=None)
    assert result["threshold"] == pytest.approx(expected.threshold, abs=1e-6)
    assert result["median_distance"] == pytest.approx(expected.median_distance, abs=1e-6)
    assert [{member["key"] for member in group["members"]} for group in result["groups"]] == [
        {items[member.row].key for member in group.members} for group in expected.groups
    ]
    assert result["histogram"] == {"edges": expected.edges, "counts": expected.counts}
    assert [(one["a_key"], one["b_key"], one["score"]) for one in result["look"]] == [
        (items[one.a].key, items[one.b].key, one.score) for one in expected.look
    ]


@pytest.mark.usefixtures("archive")
def test_slices_and_another_process_give_the_same_answer(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.collection("others")
    hand.store([image(f"other/{at:02}.jpg", 200 + at, like=at, cosine=0.97) for at in range(8)], "others")
    body = {"threshold": None, "against": "others"}
    whole = found(client, crew, **body)
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    monkeypatch.setattr("imagekin_worker.analysis.prints.TAKEN", 32)
    monkeypatch.setattr("imagekin_worker.analysis.pairs.QUERY_ROWS", 32)
    before = crew.claims
    assert found(client, crew, **body) == whole
    assert crew.claims - before > 5
    job, fractions = accepted(search(client, **body)), [0.0]
    while True:
        # each claim in a process of its own, which remembers nothing
        process = Crew(server.settings)
        try:
            if not process.step():
                break
        finally:
            process.close()
        fractions.append(client.get(f"/v1/jobs/{job['id']}").json()["progress"]["fraction"])
    assert len(fractions) > 5 and fractions == sorted(fractions)
    assert ended(client, job) == whole


@pytest.mark.usefixtures("archive")
def test_leaks_are_between_values_only(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.store([image("untold.jpg", 301, like=5, cosine=0.97)])
    result = found(client, crew, between="split")
    assert {key for keep, _, others in keys(result) for key in (keep, *others)} == {
        "00.jpg", "bytes.jpg", "01.jpg", "cropped.jpg", "03.jpg", "unseen.jpg",
    }  # fmt: skip
    assert [(one["a_key"], one["b_key"]) for one in result["look"]] == [("04.jpg", "close.jpg")]
    # one without a value is in no split
    assert result["images"] == STRANGERS + 5
    only = found(client, crew, filter={"split": "train"})
    assert keys(only) == [("encoded.png", "lossless", {"02.jpg": "same"})]


@pytest.mark.usefixtures("archive")
def test_another_collection_is_looked_for_in_this_one(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection("test-set")
    ids = hand.store([image("leaked.jpg", 7), image("far.jpg", 401)], "test-set")
    job = accepted(search(client, against="test-set"))
    crew.work()
    result = ended(client, job)
    assert keys(result) == [("leaked.jpg", "other collection", {"07.jpg": "identical"})]
    assert result["groups"][0]["keep"]["id"] == ids[0]
    assert (result["images"], result["duplicates"]) == (STRANGERS + 5, 1)
    sheet = client.get(f"/v1/jobs/{job['id']}/sheet")
    assert sheet.content.startswith(b"\x89PNG")
    job = accepted(search(client, against="test-set"))
    assert client.delete("/v1/collections/test-set").status_code == 204
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_request")
    assert "was deleted" in job["error"]["detail"]


@pytest.mark.usefixtures("archive")
def test_a_result_is_lines_and_sheets_too(client: httpx2.Client, crew: Crew) -> None:
    job = accepted(search(client))
    crew.work()
    result, path = ended(client, job), f"/v1/jobs/{job['id']}"
    lines = client.get(f"{path}/result", headers={"Accept": "application/x-ndjson"}).text.splitlines()
    assert [json.loads(line) for line in lines] == result["groups"]
    text = client.get(f"{path}/result", headers={"Accept": "text/csv"}).text
    rows = list(csv.DictReader(io.StringIO(text, newline="")))
    assert [(int(row["group"]), row["id"], row["reason"], row["keep.id"], row["keep.because"]) for row in rows] == [
        (one["group"], each["id"], each["reason"] or "", one["keep"]["id"], one["keep"]["because"])
        for one in result["groups"]
        for each in one["members"]
    ]
    pictures = [client.get(f"{path}/sheet", params=params) for params in ({}, {"group": 3}, {"page": 9})]
    assert all(one.content.startswith(b"\x89PNG") for one in pictures)
    assert pictures[0].content == pictures[2].content != pictures[1].content
    problem = check_problem(client.get(f"{path}/sheet?group=4"), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/group"
    check_problem(client.get(f"{path}/sheet?group=first"), 422, "invalid_request")


@pytest.mark.usefixtures("archive")
def test_a_cancelled_search_stops(client: httpx2.Client, crew: Crew, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    job = accepted(search(client))
    crew.step()
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    crew.work()
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"
    check_problem(client.get(f"/v1/jobs/{job['id']}/result"), 409, "conflict")


def test_too_many_pairs_say_what_to_do(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.collection()
    hand.store([image(f"{at:03}.jpg", at, like=500, cosine=0.99) for at in range(60)])
    monkeypatch.setattr("imagekin_worker.analysis.pairs.PAIR_BYTES", server.settings.cluster_memory_bytes // 1000)
    job = accepted(search(client))
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert job["status"] == "failed"
    assert "give a higher threshold, or more memory" in job["error"]["detail"]


def test_a_search_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, archive: dict[str, str], crew: Crew
) -> None:
    check_problem(search(stranger), 404, "collection_not_found")
    check_problem(search(client, against="nowhere"), 404, "collection_not_found")
    for wrong in (
        {"threshold": 0}, {"threshold": 1.01}, {"view": "nice"}, {"between": ""}, {"between": "x" * 257}, {"n": 3},
    ):  # fmt: skip
        check_problem(search(client, **wrong), 422, "invalid_request")
    other = {"name": "other", "backbone": "resnet50"}
    assert client.post("/v1/collections", json=other).status_code == 201
    hand.collection("empty")
    for pointer, wrong in (
        ("/against", {"against": "other"}),
        ("/against", {"against": "archive"}),
        ("/between", {"against": "empty", "between": "split"}),
        ("/collection", {"collection": "empty"}),
    ):
        problem = check_problem(search(client, **wrong), 422, "invalid_request")
        assert problem["errors"][0]["pointer"] == pointer
    job = accepted(search(client, between="fold"))
    crew.work()
    job = client.get(f"/v1/jobs/{job['id']}").json()
    assert (job["status"], job["error"]["code"]) == ("failed", "invalid_request")
    assert "'fold'" in job["error"]["detail"]
    assert keys(found(client, crew, against="empty")) == []


VERDICTS = "/v1/collections/archive/verdicts"


def test_verdicts_are_obeyed_and_last(client: httpx2.Client, hand: Hand, archive: dict[str, str], crew: Crew) -> None:
    def pair(a: str, b: str, verdict: str) -> dict[str, str]:
        return {"a": archive[a], "b": archive[b], "verdict": verdict}

    given = [
        pair("cropped.jpg", "01.jpg", "different"),
        pair("10.jpg", "11.jpg", "same"),
        pair("04.jpg", "close.jpg", "same"),
    ]
    answer = client.post(VERDICTS, json={"pairs": given})
    assert (answer.status_code, answer.json()) == (200, {"changed": 3})
    # the later verdict counts; the same bytes are one content
    given = [pair("close.jpg", "04.jpg", "different"), pair("00.jpg", "bytes.jpg", "different")]
    assert client.post(VERDICTS, json={"pairs": given}).json() == {"changed": 1}
    result = found(client, crew)
    groups = {keep: others for keep, _, others in keys(result)}
    assert groups.get("10.jpg") == {"11.jpg": "verdict"}
    assert "01.jpg" not in groups and "00.jpg" in groups
    assert result["look"] == [] and result["by_reason"]["verdict"] == 1
    # by content, so also in another collection, and after the images are gone
    hand.collection("again")
    hand.store([item for item in drawn() if item.key in ("01.jpg", "cropped.jpg")], "again")
    assert client.delete(f"/v1/collections/archive/images/{archive['11.jpg']}").status_code == 204
    assert keys(found(client, crew, collection="again")) == []
    first = client.get(VERDICTS, params={"limit": 1}).json()
    items = first["items"] + client.get(VERDICTS, params={"cursor": first["next_cursor"]}).json()["items"]
    shown = {
        (one["verdict"], frozenset(each["key"] if each else None for each in (one["a"], one["b"]))) for one in items
    }
    assert shown == {
        ("different", frozenset({"01.jpg", "cropped.jpg"})),
        ("same", frozenset({"10.jpg", None})),
        ("different", frozenset({"04.jpg", "close.jpg"})),
    }
    named = {"pairs": [{"a": archive["01.jpg"], "b": archive["cropped.jpg"]}]}
    for changed in (1, 0):
        assert client.request("DELETE", VERDICTS, json=named).json() == {"changed": changed}
    assert len(client.get(VERDICTS).json()["items"]) == 2
    assert keys(found(client, crew, collection="again")) == [("01.jpg", "more pixels", {"cropped.jpg": "edited"})]


def test_verdicts_that_come_meanwhile_are_for_the_next_job(
    client: httpx2.Client, archive: dict[str, str], crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pinned, "SLICE_S", 0.0)
    job = accepted(search(client))
    crew.step()
    pairs = [{"a": archive["01.jpg"], "b": archive["cropped.jpg"], "verdict": "different"}]
    client.post(VERDICTS, json={"pairs": pairs}).raise_for_status()
    crew.work()
    assert any(keep == "01.jpg" for keep, _, _ in keys(ended(client, job)))
    assert not any(keep == "01.jpg" for keep, _, _ in keys(found(client, crew)))


def test_a_verdict_that_cannot_be_is_a_problem(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand, archive: dict[str, str]
) -> None:
    here = {"a": archive["01.jpg"], "b": archive["02.jpg"], "verdict": "same"}
    check_problem(stranger.post(VERDICTS, json={"pairs": [here]}), 404, "collection_not_found")
    hand.of("stranger").collection("elsewhere")
    path = "/v1/collections/elsewhere/verdicts"
    check_problem(stranger.post(path, json={"pairs": [here]}), 404, "image_not_found")
    assert stranger.get(path).json() == {"items": [], "next_cursor": None}
    hand.collection("empty")
    for pairs in ([{**here, "a": "0" * 32}], [{**here, "b": "0" * 32}]):
        check_problem(client.post(VERDICTS, json={"pairs": pairs}), 404, "image_not_found")
    # one of them must be of the collection
    check_problem(client.post("/v1/collections/empty/verdicts", json={"pairs": [here]}), 404, "image_not_found")
    for wrong in ({"pairs": []}, {"pairs": [{**here, "verdict": "alike"}]}, {"pairs": [{"a": "x"}]}, {}):
        check_problem(client.post(VERDICTS, json=wrong), 422, "invalid_request")
    assert client.get(VERDICTS).json()["items"] == []


def collapsed(client: httpx2.Client, crew: Crew, **body: Any) -> dict[str, Any]:
    body = {"collection": "archive", "view": "raw", "collapse_duplicates": True, **body}
    job = accepted(client.post("/v1/jobs/search", json=body))
    crew.work()
    return ended(client, job)


def listed(result: dict[str, Any]) -> dict[str, list[str]]:
    return {one["key"]: [each["key"] for each in one["duplicates"]] for one in result["neighbors"]}


@pytest.mark.parametrize("view", ["raw", "calibrated"])
def test_a_search_lists_copies_under_the_better_neighbor(
    client: httpx2.Client, hand: Hand, crew: Crew, archive: dict[str, str], view: str
) -> None:
    """Which are copies of which is the same as in a duplicates job, whose line follows from the same median."""
    groups = found(client, crew, view=view, threshold=None)["groups"]
    group_of = {each["key"]: one["group"] for one in groups for each in one["members"]}
    assert len(groups) == {"raw": 4, "calibrated": 3}[view]
    for seed in range(4):
        query = {"embedding": np.random.default_rng(seed).standard_normal(DIM).tolist()}
        plain = accepted(
            client.post("/v1/jobs/search", json={"collection": "archive", "view": view, "query": query, "top_k": 41})
        )
        crew.work()
        order = ended(client, plain)["neighbors"]
        assert len(order) == len(archive)
        expected: dict[str, list[str]] = {}
        leaders: dict[int, str] = {}
        for each in order:
            group = group_of.get(each["key"])
            if group in leaders:
                expected[leaders[group]].append(each["key"])
            else:
                expected[each["key"]] = []
                if group is not None:
                    leaders[group] = each["key"]
        result = collapsed(client, crew, query=query, top_k=100, view=view)
        assert listed(result) == expected
        assert [one["rank"] for one in result["neighbors"]] == list(range(1, len(expected) + 1))
        scores = {each["key"]: each["score"] for each in order}
        for one in result["neighbors"]:
            assert [scores[each["key"]] for each in one["duplicates"]] == [each["score"] for each in one["duplicates"]]
            assert {each["id"] for each in one["duplicates"]} == {archive[each["key"]] for each in one["duplicates"]}
        few = collapsed(client, crew, query=query, top_k=5, view=view)
        assert listed(few) == dict(list(expected.items())[:5]) and few["looked_at"] == len(archive)


@pytest.mark.usefixtures("archive")
def test_ranks_are_filled_however_many_copies_there_are(
    client: httpx2.Client, hand: Hand, crew: Crew, archive: dict[str, str]
) -> None:
    """A hundred copies of the best neighbor stand before the second; verdicts and the least score are obeyed."""
    hand.store([image(f"copy {at:03}.jpg", 200 + at, like=0, cosine=0.999, looks=0) for at in range(100)])
    query = {"image_key": "00.jpg"}
    result = collapsed(client, crew, query=query, top_k=3)
    first = result["neighbors"][0]
    assert first["key"] == "bytes.jpg" and len(first["duplicates"]) == 100
    assert [one["rank"] for one in result["neighbors"]] == [1, 2, 3]
    assert not any(one["duplicates"] for one in result["neighbors"][1:])
    assert listed(collapsed(client, crew, query=query, top_k=3, min_score=0.9)) == {
        "bytes.jpg": listed(result)["bytes.jpg"]
    }
    several = collapsed(client, crew, positives=[query], top_k=3, exclude_query=False)
    assert (
        several["neighbors"][0]["key"] in ("00.jpg", "bytes.jpg") and len(several["neighbors"][0]["duplicates"]) == 101
    )
    assert several["ask"]
    apart = {"a": archive["bytes.jpg"], "b": first["duplicates"][5]["id"], "verdict": "different"}
    assert client.post("/v1/collections/archive/verdicts", json={"pairs": [apart]}).status_code == 200
    ranked = listed(collapsed(client, crew, query=query, top_k=3))
    assert first["duplicates"][5]["key"] in ranked and len(ranked["bytes.jpg"]) == 99
    job = accepted(
        client.post("/v1/jobs/search", json={"collection": "archive", "query": query, "collapse_duplicates": True})
    )
    crew.work()
    table = client.get(f"/v1/jobs/{job['id']}/result", headers={"Accept": "text/csv"}).text
    row = next(csv.DictReader(io.StringIO(table, newline="")))
    assert len(json.loads(row["duplicates"])) >= 99
    assert client.get(f"/v1/jobs/{job['id']}/sheet").content.startswith(b"\x89PNG")
