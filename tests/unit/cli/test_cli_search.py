"""`imagekin search`, `cluster`, `assign`, `select`, `map`, `classify`, `adapt`, `split`, `duplicates`, `outliers`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kit.answers import NEIGHBORS
from kit.fake_server import PNG, Answer, FakeServer, problem
from kit.terminal import Call


def test_search(call: Call, server: FakeServer, pictures: Path) -> None:
    server.add_collection("c")
    done = call("search", str(pictures / "a.png"), "-c", "c", "-k", "2", "--sheet", "out/sheet.png")
    assert done.code == 0
    assert done.out.splitlines() == [
        "rank\tscore\tkey\tid",
        "1\t0.9100\ta.png\ti1",
        "2\t0.5000\tb.png\ti2",
    ]
    assert done.err == "Contact sheet: out/sheet.png\n"
    assert Path("out/sheet.png").read_bytes() == PNG
    assert b'name="top_k"\r\n\r\n2\r\n' in server.posts("/v1/jobs/search")[0].body


def test_search_for_a_key_a_url_and_a_filter(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    done = call("search", "stored/a.png", "-c", "c", "--filter", "year=1999", "--filter", "by=me", "--json")
    assert json.loads(done.out)["neighbors"] == [{**each, "duplicates": None} for each in NEIGHBORS]
    call("search", "https://example.com/a.png", "-c", "c")
    first, second = (post.json for post in server.posts("/v1/jobs/search"))
    assert first["query"] == {"image_key": "stored/a.png"}
    assert first["filter"] == {"year": 1999, "by": "me"}
    assert first["top_k"] == 5
    assert second["query"] == {"url": "https://example.com/a.png"}
    assert call("search", "a", "-c", "c", "--filter", "ok=true", "--filter", "n=NaN", "--filter", "m=1e999").code == 0
    assert server.posts("/v1/jobs/search")[-1].json["filter"] == {"ok": True, "n": "NaN", "m": "1e999"}
    assert call("search", "a", "-c", "c", "--filter", "nonsense").code == 2


def test_search_with_duplicates_collapsed(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    copies = [{"id": "i3", "key": "a-copy.png", "score": 0.9}, {"id": "i4", "key": "a-small.png", "score": 0.8}]
    first, second = NEIGHBORS
    server.results["search"]["neighbors"] = [{**first, "duplicates": copies}, {**second, "duplicates": []}]
    done = call("search", "a.png", "-c", "c", "--collapse")
    assert done.out.splitlines()[1:] == ["1\t0.9100\ta.png\ti1\ta-copy.png; a-small.png", "2\t0.5000\tb.png\ti2\t"]
    assert server.posts("/v1/jobs/search")[0].json["collapse_duplicates"] is True


def test_search_for_a_part(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    Path("a.png").write_bytes(PNG)
    assert call("search", "a.png", "-c", "c", "--crop", "0.5,0,.25,1").code == 0
    assert b'name="crop"\r\n\r\n[0.5, 0.0, 0.25, 1.0]\r\n' in server.posts("/v1/jobs/search")[0].body
    assert call("search", "https://example.com/a.png", "-c", "c", "--crop", "0,0,1,0.5").code == 0
    assert server.posts("/v1/jobs/search")[1].json["crop"] == [0, 0, 1, 0.5]
    assert "is not X,Y,WIDTH,HEIGHT" in call("search", "a.png", "-c", "c", "--crop", "left").err.replace("\n", " ")
    done = call("search", "a.png", "-c", "c", "--crop", "0.5,0,0.6,1")
    assert done.code == 1 and "crop: It must be a part of the picture" in done.err


def test_search_for_what_is_neither_file_nor_key(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.faults += [problem(200, "ok"), problem(404, "image_not_found")]
    done = call("search", "nope.png", "-c", "c")
    assert done.code == 1
    assert "There is no file nope.png here, and no image with that key in c. [image_not_found]" in done.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("/nowhere/x.jpg", "There is no file /nowhere/x.jpg here."),
        ("~/x.jpg", "There is no file ~/x.jpg here."),
        ("./x.jpg", "There is no file ./x.jpg here."),
        (".", "There is no file .; it is a folder."),
    ],
)
def test_search_by_a_path_that_is_no_file(call: Call, server: FakeServer, given: str, said: str) -> None:
    server.add_collection("c")
    done = call("search", given, "-c", "c")
    assert done.code == 1
    assert said in done.err


def test_search_failed(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.steps = [{"status": "failed", "error": {"code": "decode_error", "detail": "No picture."}}]
    done = call("search", "a.png", "-c", "c")
    assert (done.code, done.out) == (1, "")
    assert "No picture. [decode_error]" in done.err


def test_cluster(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    done = call("cluster", "-c", "c", "-k", "2", "--metric", "cosine", "--seed", "7", "--sheet", "sheets")
    assert done.code == 0
    assert done.out.splitlines()[1:] == ["0\t3\t0.9000\ta.png\t", "1\t1\t1.0000\tb.png\t"]
    assert Path("sheets/cluster-1.png").read_bytes() == PNG + b"1"
    assert server.posts("/v1/jobs/cluster")[0].json == {
        "collection": "c",
        "n_clusters": 2,
        "metric": "cosine",
        "seed": 7,
    }
    assert json.loads(call("cluster", "-c", "c", "-k", "2", "--json").out)["clusters"][0]["size"] == 3


def test_a_number_of_clusters_is_chosen_and_clusters_are_named(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.results["cluster"]["silhouettes"] = [{"n_clusters": 2, "score": 0.4}, {"n_clusters": 3, "score": 0.25}]
    done = call("cluster", "-c", "c", "-k", "auto", "--max-clusters", "3")
    assert server.posts("/v1/jobs/cluster")[0].json == {"collection": "c", "n_clusters": "auto", "max_clusters": 3}
    assert "Chose 2 by the silhouettes of 2: 0.400, 3: 0.250." in done.err
    for wrong in ("0", "many", "10001", "2.5"):
        done = call("cluster", "-c", "c", "-k", wrong)
        assert done.code == 2 and "a number from 1 to 10,000" in " ".join(done.err.replace("│", " ").split())
    assert call("clusters", "name", "j1", "1", "chairs").err == "Cluster 1 is called chairs.\n"
    assert call("clusters", "list", "j1").out.splitlines()[1:] == [
        "0\t3\t0.9000\ta.png\t",
        "1\t1\t1.0000\tb.png\tchairs",
    ]
    assert json.loads(call("clusters", "name", "j1", "1", "--json").out)["name"] is None
    assert call("clusters", "name", "j1", "0").err == "Cluster 0 has no name.\n"
    assert json.loads(call("clusters", "list", "j1", "--json").out)["items"][1]["name"] is None


def test_assign(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    found = {"id": "i9", "key": "new.png", "label": 1, "distance": 0.25}
    server.results["assign"] = {"clustering_id": "j1", "metric": "euclidean", "assignments": [found]}
    assert call("cluster", "-c", "c", "-k", "2").code == 0
    done = call("assign", "j1")
    assert (done.code, done.out) == (0, "label\tdistance\tkey\tid\n1\t0.2500\tnew.png\ti9\n")
    assigned = json.loads(call("assign", "j1", "--key", "a.png", "--key", "b.png", "--json").out)["assignments"]
    assert assigned == [{**found, "name": None}]
    call("assign", "j1", "--id", "i9")
    assert call("assign", "j1", "--no-wait").out == "j5\n"
    assert [post.json for post in server.posts("/v1/jobs/assign")] == [
        {"clustering_id": "j1"},
        {"clustering_id": "j1", "image_keys": ["a.png", "b.png"]},
        {"clustering_id": "j1", "image_ids": ["i9"]},
        {"clustering_id": "j1"},
    ]
    server.results["assign"]["assignments"] = []
    assert "No image was added or changed" in call("assign", "j1").err
    server.steps = [{"status": "failed", "error": {"code": "collection_deleted", "detail": "It is gone."}}]
    done = call("assign", "j1")
    assert (done.code, done.out) == (1, "")
    assert "It is gone. [collection_deleted]" in done.err


def test_assign_to_what_is_no_finished_clustering(call: Call, server: FakeServer) -> None:
    done = call("assign", "j9")
    assert done.code == 1
    assert "imagekin jobs list" in done.err
    server.faults = [Answer(200, {}), problem(409, "job_not_finished", "It is not finished yet.")]
    done = call("assign", "j9")
    assert done.code == 1
    assert "imagekin jobs watch" in done.err
    assert call("assign", "j9", "--key", "a", "--id", "b").code == 2


def test_select(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.results["select"] = {
        "method": "diverse",
        "n": 1,
        "view": {"name": "raw", "id": "ab", "images": 4},
        "revision": 2,
        "coverage": 0.75,
        "rows": [{"rank": 1, "id": "i1", "key": "a.png", "distance": 0.25}],
    }
    done = call("select", "-c", "c", "-n", "1", "--method", "diverse", "--avoid", "old", "--sheet", "first.png")
    assert (done.code, done.out) == (0, "rank\tdistance\tkey\tid\n1\t0.2500\ta.png\ti1\n")
    assert "coverage 0.7500 in the raw view" in done.err
    assert Path("first.png").read_bytes() == PNG
    assert server.posts("/v1/jobs/select")[0].json == {
        "collection": "c",
        "n": 1,
        "method": "diverse",
        "avoid": "old",
    }
    assert json.loads(call("select", "-c", "c", "-n", "1", "--json").out)["coverage"] == 0.75
    away = ("--avoid-image", "i1", "--avoid-image", "i2")
    assert call("select", "-c", "c", "-n", "1", "--filter", "!label=null", *away).code == 0
    assert server.posts("/v1/jobs/select")[-1].json["filter"] == {"!label": None}
    assert server.posts("/v1/jobs/select")[-1].json["avoid"] == ["i1", "i2"]
    assert call("select", "-c", "c", "-n", "1", "--avoid-image", "-", input="i3\n\ni4\n").code == 0
    assert server.posts("/v1/jobs/select")[-1].json["avoid"] == ["i3", "i4"]
    assert call("select", "-c", "c", "-n", "1", "--avoid", "old", *away).code == 2
    server.steps = [{"status": "failed", "error": {"code": "collection_deleted", "detail": "It is gone."}}]
    assert call("select", "-c", "c", "-n", "1").code == 1


def test_map(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.results["map"] = {
        "seed": 7,
        "images": 1,
        "view": {"name": "raw", "id": "ab", "images": 1},
        "revision": 2,
        "rows": [{"id": "i1", "key": "a.png", "x": 0.25, "y": 0.5}],
    }
    done = call("map", "-c", "c", "--seed", "7", "--sheet", "map.png")
    assert (done.code, done.out) == (0, "x\ty\tkey\tid\n0.2500\t0.5000\ta.png\ti1\n")
    assert "1 image in the raw view" in done.err
    assert Path("map.png").read_bytes() == PNG
    assert server.posts("/v1/jobs/map")[0].json == {"collection": "c", "seed": 7}
    assert json.loads(call("map", "-c", "c", "--json").out)["rows"][0]["x"] == 0.25


def test_classify(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.results["classify"] = {
        "field": "kind",
        "method": "discriminant",
        "images": 1,
        "accuracy": {"value": 0.9, "low": 0.8, "high": 0.95, "examples": 40},
        "classes": [{"label": "sofa", "examples": 20, "precision": 0.9, "recall": None}],
        "view": {"name": "raw", "id": "ab", "images": 4},
        "revision": 2,
        "rows": [{"id": "i1", "key": "a.png", "label": 3, "probability": 0.75}],
    }
    done = call("classify", "-c", "c", "--field", "kind", "--min-probability", "0.5", "--sheet", "look.png")
    assert (done.code, done.out) == (0, "probability\tlabel\tkey\tid\n0.7500\t3\ta.png\ti1\n")
    assert "90.0 % of 40 examples" in done.err
    assert Path("look.png").read_bytes() == PNG
    assert server.posts("/v1/jobs/classify")[0].json == {"collection": "c", "field": "kind", "min_probability": 0.5}
    assert json.loads(call("classify", "-c", "c", "--json").out)["accuracy"]["low"] == 0.8
    server.steps = [{"status": "failed", "error": {"code": "too_few_labels", "detail": "Add labels."}}]
    done = call("classify", "-c", "c")
    assert (done.code, "Add labels. [too_few_labels]" in done.err) == (1, True)


def test_duplicates(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    signs = {"hash_bits": 2, "correlation": 0.99, "width": 3, "height": 2}
    server.results["duplicates"] = {
        "threshold": 0.93,
        "median_distance": 0.5,
        "images": 4,
        "duplicates": 1,
        "group_count": 1,
        "by_reason": {"identical": 0, "same": 1},
        "view": {"name": "raw", "id": "ab", "images": 4},
        "revision": 2,
        "groups": [
            {
                "group": 0,
                "size": 2,
                "keep": {"id": "i1", "key": "a.png", "because": "more pixels"},
                "members": [
                    {"id": "i1", "key": "a.png", "score": 1.0, "reason": None, **signs},
                    {"id": "i2", "key": "b.png", "score": 0.9, "reason": "same", **signs},
                ],
            }
        ],
        "look": [],
        "histogram": {"edges": [0, 1], "counts": [4]},
        "examples": [],
    }
    done = call("duplicates", "-c", "c", "--threshold", "0.93", "--against", "other", "--sheet", "groups.png")
    assert (done.code, done.out) == (
        0,
        "group\treason\tscore\tkey\tid\n0\tkeep: more pixels\t1.0000\ta.png\ti1\n0\tsame\t0.9000\tb.png\ti2\n",
    )
    assert "1 of 4 images could go (1 same), 0 pairs to look at; threshold 0.9300 in the raw view" in done.err
    assert Path("groups.png").read_bytes() == PNG
    assert server.posts("/v1/jobs/duplicates")[0].json == {"collection": "c", "threshold": 0.93, "against": "other"}
    assert json.loads(call("duplicates", "-c", "c", "--json").out)["duplicates"] == 1
    assert call("duplicates", "-c", "c", "--threshold", "1.5").code == 2
    server.steps = [{"status": "failed", "error": {"code": "internal_error", "detail": "More than 9 pairs."}}]
    assert call("duplicates", "-c", "c").code == 1


def test_outliers(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    row = {"rank": 1, "id": "i1", "key": "a.png", "score": 0.5, "percentile": 99.0}
    server.results["outliers"] = {
        "n": 2,
        "images": 9,
        "view": {"name": "raw", "id": "ab", "images": 9},
        "revision": 2,
        "rows": [
            {**row, "nearest": {"id": "i2", "key": "b.png"}},
            {**row, "rank": 2, "id": "i3", "key": "c.png", "nearest": None},
        ],
    }
    done = call("outliers", "-c", "c", "-n", "2", "--view", "raw", "--sheet", "strange.png")
    table = "rank\tscore\tkey\tid\tnearest\n1\t0.5000\ta.png\ti1\tb.png\n2\t0.5000\tc.png\ti3\t\n"
    assert (done.code, done.out) == (0, table)
    assert "2 of 9 images in the raw view" in done.err
    assert Path("strange.png").read_bytes() == PNG
    assert server.posts("/v1/jobs/outliers")[0].json == {"collection": "c", "n": 2, "view": "raw"}
    for kind in ("outliers", "duplicates", "map"):
        call(kind, "-c", "c", "--filter", "by=me")
        assert server.posts(f"/v1/jobs/{kind}")[-1].json == {"collection": "c", "filter": {"by": "me"}}
    assert json.loads(call("outliers", "-c", "c", "--json").out)["images"] == 9
    server.steps = [{"status": "failed", "error": {"code": "internal_error", "detail": "It broke."}}]
    assert call("outliers", "-c", "c").code == 1


def test_index(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    result = {"index": "hnsw", "images": 1200, "nbytes": 3 << 20, "revision": 2}
    server.results["index"] = result
    done = call("index", "build", "-c", "c")
    assert done.code == 0 and "1,200 images, 3 MiB" in done.err
    assert json.loads(call("index", "build", "-c", "c", "--json").out)["images"] == 1200
    assert "exact" in call("index", "remove", "-c", "c").err
    assert [post.json["index"] for post in server.posts("/v1/collections/c/index")] == ["hnsw", "hnsw", "exact"]
    view = {"name": "raw", "id": "ab", "images": 9}
    figures = {"queries": 5, "top_k": 3, "recall": 0.99, "low": 0.95, "high": 1.0, "ms": 4.25, "exact_ms": 40.0}
    server.results["index"] = {**result, "check": {**figures, "view": view}}
    done = call("index", "check", "-c", "c", "--queries", "5", "-k", "3", "--view", "raw")
    assert done.out == "recall@3: 0.9900 (0.9500 to 1.0000)\nby the index: 4.2 ms\nexact: 40.0 ms\n"
    assert server.posts("/v1/collections/c/index/check")[0].json == {"queries": 5, "top_k": 3, "view": "raw"}
    server.steps = [{"status": "failed", "error": {"code": "internal_error", "detail": "It broke."}}]
    assert call("index", "build", "-c", "c").code == 1


def test_split(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    classes = [{"label": "sofa", "count": 2}, {"label": None, "count": 1}]
    server.results["split"] = {
        "field": "split",
        "stratify": None,
        "seed": 100,
        "threshold": 0.93,
        "images": 4,
        "groups": 1,
        "grouped": 2,
        "counts": [
            {"share": "train", "wanted": 0.75, "images": 3, "classes": []},
            {"share": "test", "wanted": 0.25, "images": 1, "classes": []},
        ],
        "view": {"name": "raw", "id": "ab", "images": 4},
        "revision": 2,
        "rows": [{"id": "i1", "key": "a.png", "share": "train", "group": None}],
    }
    done = call("split", "-c", "c", "--shares", "train=0.75, test=0.25", "--sheet", "shares.png")
    assert (done.code, done.out) == (0, "share\twanted\timages\ntrain\t0.75\t3\ntest\t0.25\t1\n")
    assert "4 images, of which 2 lie in 1 groups of near-duplicates" in done.err
    assert Path("shares.png").read_bytes() == PNG
    server.results["split"] |= {
        "stratify": "label",
        "counts": [{**server.results["split"]["counts"][0], "classes": classes}],
    }
    done = call("split", "-c", "c", "--stratify", "label", "--seed", "7", "--field", "fold", "--threshold", "0.9")
    assert (done.code, done.out) == (0, "share\tlabel\timages\ntrain\tsofa\t2\ntrain\t\t1\n")
    assert [post.json for post in server.posts("/v1/jobs/split")] == [
        {"collection": "c", "shares": {"train": 0.75, "test": 0.25}},
        {"collection": "c", "field": "fold", "stratify": "label", "seed": 7, "threshold": 0.9},
    ]
    assert json.loads(call("split", "-c", "c", "--json").out)["counts"][0]["classes"] == classes
    for wrong in ("train", "=1", "train=much", "train=0.5,"):
        assert call("split", "-c", "c", "--shares", wrong).code == 2
    server.steps = [{"status": "failed", "error": {"code": "internal_error", "detail": "It broke."}}]
    assert call("split", "-c", "c").code == 1


def test_search_by_several(call: Call, server: FakeServer, tmp_path: Path) -> None:
    """Keys and URLs are examples; a file is not."""
    server.add_collection("c")
    neighbor = {"rank": 1, "id": "i1", "key": "a", "score": 0.9, "metadata": {}}
    server.results["search"] = {
        "query": {}, "top_k": 5, "neighbors": [neighbor], "ask": [{"id": "i2", "key": "b"}]
    }  # fmt: skip
    done = call(
        "search",
        "a",
        "-c",
        "c",
        "--also",
        "https://x.org/y.jpg",
        "--unlike",
        "z",
        "--refine",
        "logistic",
        "--view",
        "raw",
    )
    assert done.code == 0, done.err
    sent = server.posts("/v1/jobs/search")[-1].json
    assert sent["positives"] == [{"image_key": "a"}, {"url": "https://x.org/y.jpg"}]
    assert (sent["negatives"], sent["refine"], sent["view"]) == ([{"image_key": "z"}], "logistic", "raw")
    assert "query" not in sent and "Judge next: b" in done.err
    assert call("search", "a", "-c", "c", "--refine", "logistic").code == 2
    picture = tmp_path / "a.jpg"
    picture.write_bytes(b"x")
    assert call("search", str(picture), "-c", "c", "--also", "b").code == 2


def test_adapt(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.results["adapt"] = {
        "collection": "taught",
        "field": "label",
        "before": {"precision_at_5": 0.5, "map": 0.25},
        "after": {"precision_at_5": None, "map": 0.75},
        "gain": {"precision_at_5": [None, None], "map": [0.4, 0.6]},
        "better": True,
        "images": 3,
        "dim": 66,
        "space_id": "adapted-0",
        "view": {"name": "raw", "id": "ab", "images": 3},
        "revision": 2,
    }
    done = call("adapt", "-c", "c", "--name", "taught", "--force")
    assert (done.code, done.out) == (
        0,
        "\tbefore\tafter\nprecision at 5\t0.5000\t\nmean average precision\t0.2500\t0.7500\n",
    )
    assert "taught has 3 images" in done.err
    assert server.posts("/v1/jobs/adapt")[0].json == {"collection": "c", "name": "taught", "force": True}
    assert json.loads(call("adapt", "-c", "c", "--name", "taught", "--json").out)["after"]["map"] == 0.75
    server.steps = [{"status": "failed", "error": {"code": "not_better", "detail": "Add labels."}}]
    done = call("adapt", "-c", "c", "--name", "taught")
    assert (done.code, "Add labels. [not_better]" in done.err) == (1, True)
