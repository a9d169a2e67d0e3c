"""What searches and clusterings find among stored vectors, by a worker's own code."""

from __future__ import annotations

from typing import Any

import httpx2
import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from imagekin import schemas
from imagekin_worker.analysis import refinement
from imagekin_worker.matrix import view as views
from kit.analyses import asked, ended, result_of
from kit.calls import accepted
from kit.crew import Crew
from kit.hand import DIM, Hand, item, vector
from kit.known_vectors import EMBEDDINGS, KEYS, near
from kit.serving import BOTH_ENGINES, Running
from kit.vector_files import finished, npz, post

pytestmark = BOTH_ENGINES


def test_searches_and_clusterings_take_imported_vectors(
    client: httpx2.Client, server: Running, space_id: str, crew: Crew
) -> None:
    finished(client, crew, post(client, npz(space_id, ["a", "b", "c"], [*EMBEDDINGS[:2], np.zeros(DIM)])))
    answer = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 2})
    job = accepted(answer)
    crew.work()
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    assert result.keys() == schemas.ClusterResult.model_fields.keys()
    assert {each["key"] for each in result["assignments"]} == {"a", "b", "c"}
    assert client.get(f"/v1/jobs/{job['id']}/sheet").status_code == 200


def test_a_search_with_a_filter_is_among_what_has_its_values(
    client: httpx2.Client, three: list[str], crew: Crew
) -> None:
    def found(wanted: dict[str, Any]) -> list[str]:
        body = {"collection": "archive", "query": {"image_key": "b.jpg"}, "exclude_query": False, "filter": wanted}
        job = accepted(client.post("/v1/jobs/search", json=body))
        crew.work()
        return [each["key"] for each in client.get(f"/v1/jobs/{job['id']}/result").json()["neighbors"]]

    assert sorted(found({})) == sorted(KEYS)
    assert found({"place": "Köln"}) == ["a/ß.jpg"]
    assert found({"tags": [["x", None]]}) == ["a/c😀.jpg"]
    assert found({"place": "Köln", "tags": [["x", None]]}) == []
    assert sorted(found({"!place": "Köln"})) == sorted(set(KEYS) - {"a/ß.jpg"})


def test_a_clustering_past_its_memory_budget_goes_by_mini_batches(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew
) -> None:
    """Its rows lie in a file then; each slice reads them from SQL again, as another process would."""
    hand.collection()
    for seed in range(0, 90, 30):
        hand.store([near(f"{at}.jpg", at) for at in range(seed, seed + 30)])
    small = Crew(server.settings.model_copy(update={"cluster_memory_bytes": 90 * DIM * 4 - 1}))
    found = []
    for each in (small, crew):
        job = accepted(client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 3}))
        each.work()
        found.append(client.get(f"/v1/jobs/{job['id']}/result").json())
    small.close()
    assert [result["batch_rows"] for result in found] == [44, None]
    assert found[0]["assignments"] == found[1]["assignments"]
    left = server.settings.data_dir.rglob("tmp*")
    assert not list(left)


@pytest.mark.parametrize(("algorithm", "share_of_memory"), [("kmeans", 1.0), ("kmeans", 0.5), ("kmeans-pytorch", 1.0)])
def test_the_order_in_which_images_come_changes_no_clustering(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, algorithm: str, share_of_memory: float
) -> None:
    """Workers finish chunks in any order; noise has many clusterings, and chance picks one by the places of rows."""
    items = [item(f"{at}.jpg", at) for at in range(60)]
    budget = int(share_of_memory * 4 * DIM * len(items))
    small = Crew(server.settings.model_copy(update={"cluster_memory_bytes": budget}))
    found = []
    for name, sizes in (("first", (60,)), ("second", (7, 20, 13, 20))):
        hand.collection(name)
        gone, _ = hand.store([item("gone.jpg", 90), item("5.jpg", 91)], name)
        mixed = [items[at] for at in np.random.default_rng(len(sizes)).permutation(60)]
        for size in sizes:
            some, mixed = mixed[:size], mixed[size:]
            hand.store(some, name)
        assert client.delete(f"/v1/collections/{name}/images/{gone}").status_code == 204
        body = {"collection": name, "n_clusters": 6, "n_init": 1, "algorithm": algorithm}
        job = accepted(client.post("/v1/jobs/cluster", json=body))
        small.work()
        result = client.get(f"/v1/jobs/{job['id']}/result").json()
        found.append({each["key"]: (each["label"], each["distance"]) for each in result["assignments"]})
    small.close()
    assert len(found[0]) == 60
    assert found[0] == found[1]


def test_a_clustering_is_that_of_the_view(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    """Its distances are those to the means of the vectors in the view, computed here in float64."""
    hand.collection()
    stored = [near(f"{at:02}.jpg", at) for at in range(48)]
    hand.store(stored)
    rows = np.stack([one.vector for one in stored if one.vector is not None])
    made = views.of(rows, "space")
    for name, kept in (("calibrated", made.exact(rows)), ("raw", rows.astype(np.float64))):
        for algorithm in ("kmeans", "kmeans-pytorch"):
            body = {"collection": "archive", "n_clusters": 3, "algorithm": algorithm, "view": name}
            job = accepted(client.post("/v1/jobs/cluster", json=body))
            crew.work()
            result = client.get(f"/v1/jobs/{job['id']}/result").json()
            assert (result["view"]["name"], result["view"]["images"]) == (name, 48)
            labels = np.array([each["label"] for each in result["assignments"]])
            assert len({(label, at % 3) for at, label in enumerate(labels.tolist())}) == 3
            centers = np.stack([kept[labels == label].mean(0) for label in range(3)])
            distances = np.linalg.norm(kept - centers[labels], axis=1)
            assert [each["distance"] for each in result["assignments"]] == pytest.approx(distances, abs=2e-5)
            assert result["inertia"] == pytest.approx((distances**2).sum(), rel=1e-4)


def test_searches_say_their_view_and_few_images_have_none(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    """Scores are those of the formula in float64; `min_score` is held against them."""
    hand.collection()
    stored = [near(f"{at:02}.jpg", at) for at in range(40)]
    rows = np.stack([one.vector for one in stored if one.vector is not None])

    def found(**body: Any) -> dict[str, Any]:
        query = {"embedding": rows[7].tolist()}
        job = accepted(client.post("/v1/jobs/search", json={"collection": "archive", "query": query, **body}))
        crew.work()
        return client.get(f"/v1/jobs/{job['id']}/result").json()

    hand.store(stored[:31])
    few = found()
    assert (few["view"]["name"], few["view"]["images"]) == ("raw", 31)
    assert found(view="raw") == few
    hand.store(stored[31:])
    scores = {}
    for name, made in (("calibrated", views.of(rows, "space")), ("raw", views.raw("space", DIM, 40))):
        scores[name] = made.exact(rows) @ made.exact(rows[[7]])[0]
        best = sorted(range(40), key=lambda at, name=name: -scores[name][at])[:10]
        result = found(view=name)
        assert (result["view"]["name"], result["view"]["images"]) == (name, 40)
        assert [each["key"] for each in result["neighbors"]] == [f"{at:02}.jpg" for at in best]
        assert [each["score"] for each in result["neighbors"]] == pytest.approx(scores[name][best], abs=1e-6)
    assert found()["view"]["id"] == found()["view"]["id"] != few["view"]["id"] == found(view="raw")["view"]["id"]
    least = float(np.sort(scores["calibrated"])[-5]) - 1e-6
    assert len(found(min_score=least, top_k=40)["neighbors"]) == 5
    assert (
        client.post("/v1/jobs/search", json={"collection": "archive", "view": "x", "query": {"url": "x"}}).json()[
            "errors"
        ][0]["pointer"]
        == "/view"
    )


@pytest.mark.parametrize("algorithm", ["kmeans", "kmeans-pytorch"])
@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_a_number_of_clusters_is_chosen(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, algorithm: str, metric: str
) -> None:
    """The silhouettes are scikit-learn's, of the clusters in the view that the job itself finds."""
    hand.collection()
    stored = [near(f"{at:02}.jpg", at) for at in range(48)]
    hand.store(stored)
    body = {"metric": metric, "algorithm": algorithm}
    result = result_of(client, crew, "cluster", n_clusters="auto", max_clusters=9, **body)
    assert [each["n_clusters"] for each in result["silhouettes"]] == list(range(2, 10))
    scores = {each["n_clusters"]: each["score"] for each in result["silhouettes"]}
    assert result["n_clusters"] == 3 == max(scores, key=lambda number: scores[number])
    rows = np.stack([one.vector for one in stored if one.vector is not None])
    labels = [each["label"] for each in result["assignments"]]
    expected = silhouette_score(views.of(rows, "space").exact(rows), labels, metric=metric)
    assert scores[3] == pytest.approx(expected, abs=1e-4)
    known = result_of(client, crew, "cluster", n_clusters=3, **body)
    assert result == {**known, "silhouettes": result["silhouettes"]} and known["silhouettes"] is None


def test_choosing_goes_on_in_other_processes_and_stops_when_cancelled(
    client: httpx2.Client, server: Running, hand: Hand, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand.collection()
    hand.store([near(f"{at:02}.jpg", at) for at in range(40)])
    body = {"n_clusters": "auto", "max_clusters": 5, "n_init": 2}
    whole = result_of(client, crew, "cluster", **body)
    monkeypatch.setattr("imagekin_worker.kinds.pinned.SLICE_S", 0.0)
    job, fractions = accepted(asked(client, "cluster", **body)), [0.0]
    while True:
        # each claim in a process of its own, which remembers nothing
        process = Crew(server.settings)
        try:
            if not process.step():
                break
        finally:
            process.close()
        fractions.append(client.get(f"/v1/jobs/{job['id']}").json()["progress"]["fraction"])
    assert len(fractions) > 20 and fractions == sorted(fractions) and 0 < fractions[2] < 0.5 < fractions[-2] < 1
    assert ended(client, job) == whole
    job = accepted(asked(client, "cluster", **body))
    assert crew.step()
    assert client.post(f"/v1/jobs/{job['id']}/cancel").status_code == 202
    assert not crew.step()
    assert client.get(f"/v1/jobs/{job['id']}").json()["status"] == "cancelled"


def test_there_is_nothing_to_choose_among_few(client: httpx2.Client, hand: Hand, crew: Crew) -> None:
    hand.collection()
    hand.store([item("a", 1)])
    one = result_of(client, crew, "cluster", n_clusters="auto")
    assert (one["n_clusters"], one["distinct"], one["silhouettes"]) == (1, 1, [])
    hand.store([item(f"{seed}-{copy}", seed) for seed in range(1, 3) for copy in range(4)])
    two = result_of(client, crew, "cluster", n_clusters="auto")
    assert (two["n_clusters"], two["distinct"], two["silhouettes"]) == (2, 2, [])


@pytest.mark.parametrize("algorithm", ["kmeans", "kmeans-pytorch"])
def test_identical_images_share_a_cluster_and_empty_clusters_are_told(
    client: httpx2.Client, hand: Hand, crew: Crew, algorithm: str
) -> None:
    hand.collection()
    hand.store([item(f"{seed}-{copy}", seed) for seed in range(3) for copy in range(4)])
    body = {"collection": "archive", "n_clusters": 5, "algorithm": algorithm}
    job = accepted(client.post("/v1/jobs/cluster", json=body))
    crew.work()
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    assert (result["distinct"], result["n_clusters"]) == (3, 3)
    assert [each["size"] for each in result["clusters"]] == [4, 4, 4]
    labels = {(each["key"][0], each["label"]) for each in result["assignments"]}
    assert len(labels) == 3
    assert client.get(f"/v1/jobs/{job['id']}/sheet", params={"label": 2}).status_code == 200
    enough = accepted(client.post("/v1/jobs/cluster", json={**body, "n_clusters": 3}))
    crew.work()
    assert client.get(f"/v1/jobs/{enough['id']}/result").json()["distinct"] is None


@pytest.mark.parametrize("refine", ["rocchio", "logistic"])
@pytest.mark.parametrize("view", ["calibrated", "raw"])
def test_a_search_by_several_is_the_formula(
    client: httpx2.Client, hand: Hand, crew: Crew, refine: str, view: str
) -> None:
    hand.collection()
    stored = [near(f"{at:02}.jpg", at) for at in range(60)]
    ids = hand.store(stored)
    rows = np.stack([one.vector for one in stored if one.vector is not None])
    made = views.of(rows, "space", view)
    extra = vector(99, DIM)
    body = {
        "positives": [{"image_key": "03.jpg"}, {"image_id": ids[6]}, {"embedding": extra.tolist()}],
        "negatives": [{"image_key": "01.jpg"}],
        "refine": refine,
        "view": view,
        "top_k": 60,
    }
    job = accepted(client.post("/v1/jobs/search", json={"collection": "archive", **body}))
    assert job["params"]["query"]["positives"][0] == {"image_key": "03.jpg"} and job["params"]["refine"] == refine
    crew.work()
    result = client.get(f"/v1/jobs/{job['id']}/result").json()
    keys = [each["key"] for each in result["neighbors"]]
    judged = {"03.jpg", "06.jpg", "01.jpg"}
    assert set(keys) == {one.key for one in stored} - judged
    assert result["view"]["name"] == view
    asked = [each["key"] for each in result["ask"]]
    assert len(asked) == len(set(asked)) == 12 and not judged & set(asked)
    exact = made.exact(rows)
    positives, negatives = made.exact(np.stack([rows[3], rows[6], extra])), exact[[1]]
    if refine == "rocchio":
        direction = refinement.rocchio(positives, negatives)
    else:
        others = [at for at in range(60) if at not in (3, 6, 1)]
        direction = refinement.logistic(positives, negatives, exact[others])
    scores = {one.key: exact[at] @ direction for at, one in enumerate(stored)}
    # the order of the rows makes the regression differ by its tolerance
    assert [each["score"] for each in result["neighbors"]] == pytest.approx(
        [scores[key] for key in keys], abs=1e-6 if refine == "rocchio" else 2e-3
    )
    assert [each["rank"] for each in result["neighbors"]] == list(range(1, 58))
    assert client.get(f"/v1/jobs/{job['id']}/sheet").status_code == 200


def test_examples_that_cannot_be_are_named(client: httpx2.Client, three: list[str]) -> None:
    one = {"image_key": "b.jpg"}
    for body, pointer in (
        ({}, "/query"),
        ({"query": one, "positives": [one]}, "/positives"),
        ({"positives": []}, "/positives"),
        ({"positives": [one] * 65}, "/positives"),
        ({"query": one, "negatives": [one]}, "/negatives"),
        ({"positives": [one], "negatives": [{"embedding": [1.0]}]}, "/negatives/0/embedding"),
        ({"positives": [one, {"url": "ftp://x/y"}]}, "/positives/1/url"),
        ({"positives": [one], "refine": "magic"}, "/refine"),
    ):
        answer = client.post("/v1/jobs/search", json={"collection": "archive", **body})
        assert answer.status_code == 422, (body, answer.text)
        assert answer.json()["errors"][0]["pointer"] == pointer, answer.text
    missing = client.post("/v1/jobs/search", json={"collection": "archive", "positives": [{"image_key": "none.jpg"}]})
    assert missing.json()["code"] == "image_not_found"
