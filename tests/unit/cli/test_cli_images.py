"""`imagekin images` and `label`."""

from __future__ import annotations

import json

from kit.fake_server import FakeServer
from kit.terminal import Call


def test_images_are_listed_and_deleted(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.add_images(3)
    server.images[0]["metadata"] = {"label": "Stühle"}
    done = call("images", "list", "-c", "c", "--filter", "!label=null", "--prefix", "a", "--order", "key", "-n", "2")
    assert done.out.splitlines() == [
        "key\tid\twidth\theight\tmetadata",
        '0.png\ti0\t2\t3\t{"label": "Stühle"}',
        "1.png\ti1\t2\t3\t",
    ]
    query = server.requests[-1].query
    assert (query["filter"], query["prefix"], query["order"]) == (['{"!label": null}'], ["a"], ["key"])
    assert [each["id"] for each in json.loads(call("images", "list", "-c", "c", "--json").out)["items"]] == [
        "i0", "i1", "i2"
    ]  # fmt: skip
    assert call("images", "delete", "-c", "c", "a.png").code == 2, "it asks"
    assert call("images", "delete", "-c", "c", "-y").code == 2, "of what?"
    assert call("images", "delete", "-c", "c", "-y", "a.png", "b.png").out == "2\n"
    assert (server.requests[-1].method, server.requests[-1].json) == ("DELETE", {"image_keys": ["a.png", "b.png"]})


def test_labels_are_given_taken_and_counted(call: Call, server: FakeServer) -> None:
    server.add_collection("c")
    server.add_images(3)
    assert call("label", "-c", "c").out.splitlines() == ["label\timages", "chair\t2", "7\t1"]
    assert call("label", "-c", "c", "chair", "a.png", "b.png").out == "2\n"
    assert server.requests[-1].json == {"image_keys": ["a.png", "b.png"], "metadata": {"label": "chair"}}
    done = call("label", "-c", "c", "2", "-", "--field", "year", "--json", input="a b.png\n\nß.png\n")
    assert json.loads(done.out) == {"changed": 2}
    assert server.requests[-1].json == {"image_keys": ["a b.png", "ß.png"], "metadata": {"year": 2}}
    call("label", "-c", "c", "chair", "--remove", "--filter", "n=1")
    assert server.requests[-1].json == {"filter": {"n": 1, "label": "chair"}, "metadata": {"label": None}}
    assert call("label", "-c", "c", "chair").code == 2
    assert call("label", "-c", "c", "chair", "a.png", "--filter", "n=1").code == 2
