"""`imagekin jobs`, `collections` and `backbones`."""

from __future__ import annotations

import json

from kit.answers import PARTIAL
from kit.fake_server import NOW, Answer, FakeServer, progress
from kit.terminal import Call


def test_backbones(call: Call, server: FakeServer) -> None:
    lite = {"name": "lite", "dim": 1280, "weights": ["A", "B"], "default": True}
    own = {"name": "timm/x.y", "dim": 8, "weights": ["y"], "source": "timm", "license": "z", "non_commercial": True}
    server.faults = [Answer(200, {}), Answer(200, {"items": [lite, own], "next_cursor": None})]
    header, shown = "name\tdim\tweights\tlicense\t", "lite\t1280\tA, B\tunknown\tdefault"
    said = call("backbones")
    assert said.out.splitlines() == [header, shown]
    assert "1 of timm: `imagekin backbones --source timm`" in said.err
    server.faults = [Answer(200, {}), Answer(200, {"items": [own], "next_cursor": None})]
    said = call("backbones", "x", "--source", "timm", "--dim", "8", "--license", "z")
    assert said.out.splitlines() == [header, "timm/x.y\t8\ty\tz\tnot for commercial use"]
    asked = server.requests[-1].query
    assert {name: asked[name] for name in ("name", "source", "dim", "license")} == {
        "name": ["x"], "source": ["timm"], "dim": ["8"], "license": ["z"],
    }  # fmt: skip


def test_jobs(call: Call, server: FakeServer) -> None:
    server.steps = []
    server.add_job("embed", {"collection": "c"}, status="partial", progress=PARTIAL[1]["progress"])
    server.add_job("cluster", {"collection": "d"}, status="succeeded")
    assert call("jobs", "list").out.splitlines() == [
        "id\tkind\tstatus\tcollection\tdone\tcreated",
        f"j1\tembed\tpartial\tc\t4/4\t{NOW}",
        f"j2\tcluster\tsucceeded\td\t\t{NOW}",
    ]
    listed = json.loads(call("jobs", "list", "--kind", "cluster", "--json").out)
    assert [job["id"] for job in listed["items"]] == ["j2"]
    assert "status\tpartial\n" in call("jobs", "show", "j1").out
    assert json.loads(call("jobs", "show", "j1", "--json").out)["id"] == "j1"
    watched = call("jobs", "watch", "j1")
    assert (watched.code, watched.out) == (3, "embed partial: 4 images: 2 embedded, 1 reused, 1 failed\n")
    watched = call("jobs", "watch", "j2")
    assert (watched.code, watched.out) == (0, "cluster succeeded\n")
    assert call("jobs", "items", "j1", "--status", "failed").out.splitlines()[1:] == [
        "b.png\tfailed\t\tBroken. [decode_error]"
    ]
    assert len(json.loads(call("jobs", "items", "j1", "--json").out)["items"]) == 2
    assert call("jobs", "cancel", "j1").out == "j1\tcancelled\n"


def test_jobs_retry(call: Call, server: FakeServer) -> None:
    server.steps = []
    server.add_job("embed", {"collection": "c"}, status="partial")
    server.steps = [{"status": "succeeded", "progress": progress(total=1, done=1, embedded=1)}]
    done = call("jobs", "retry", "j1", "--all")
    assert (done.code, done.out) == (0, "embed succeeded: 1 image: 1 embedded\n")
    assert server.posts("/v1/jobs/j1/retry")[0].json == {"items": "all"}
    assert call("jobs", "retry", "j1", "--no-wait").out == "j3\n"


def test_collections(call: Call, server: FakeServer) -> None:
    server.add_collection("c", image_count=3)
    assert call("collections", "list").out.splitlines() == [
        "name\timages\tbackbone\tweights\tdim\tcreated",
        f"c\t3\tefficientnet_lite0\tIMAGENET\t4\t{NOW}",
    ]
    assert json.loads(call("collections", "list", "--json").out)["items"][0]["name"] == "c"
    assert "space_id\ts1\n" in call("collections", "show", "c").out
    refused = call("collections", "delete", "c")
    assert refused.code == 2
    assert "--yes" in refused.err
    assert "c" in server.collections
    assert json.loads(call("collections", "delete", "c", "--yes", "--json").out)["image_count"] == 3
    assert server.collections == {}
