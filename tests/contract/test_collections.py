from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest

from imagekin import catalog
from imagekin.settings import Settings
from kit.hand import DIM, Hand, vector
from kit.serving import BOTH_ENGINES, Running, running
from kit.wire import ADMIN_KEY, check_problem

pytestmark = BOTH_ENGINES


def create(client: httpx2.Client, **body: object) -> httpx2.Response:
    return client.post("/v1/collections", json={"name": "archive", "backbone": "fake", **body})


def test_backbones_are_listed_with_one_default_and_none_for_tests(client: httpx2.Client) -> None:
    items = client.get("/v1/backbones", params={"limit": 1000}).json()["items"]
    assert [each["name"] for each in items if each["default"]] == [catalog.DEFAULT_BACKBONE]
    expected = {"name", "dim", "weights", "default", "source", "license", "non_commercial"}
    assert expected == items[0].keys()
    assert "fake" not in {each["name"] for each in items}


def test_backbones_are_paged_and_those_most_asked_for_come_first(client: httpx2.Client) -> None:
    page = client.get("/v1/backbones").json()
    names = [each["name"] for each in page["items"]]
    assert len(names) == 50
    assert names[:4] == [catalog.DEFAULT_BACKBONE, "efficientnet_b0", "resnet50", "vgg19"]
    while page["next_cursor"]:
        page = client.get("/v1/backbones", params={"cursor": page["next_cursor"], "limit": 1000}).json()
        names += [each["name"] for each in page["items"]]
    first_of_timm = next(at for at, name in enumerate(names) if name.startswith("timm/"))
    assert all(name.startswith("timm/") for name in names[first_of_timm:])
    assert sorted(names) == sorted(name for name, each in catalog.backbones().items() if not each.hidden)
    problem = check_problem(client.get("/v1/backbones", params={"limit": "many"}), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/limit"


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"name": "DINOv2", "source": "timm", "dim": "384"}, "timm/vit_small_patch14_dinov2.lvd142m"),
        ({"source": "imagekin"}, catalog.DEFAULT_BACKBONE),
        ({"license": "cc-by-nc-4.0", "name": "convnextv2_atto"}, "timm/convnextv2_atto.fcmae"),
    ],
    ids=str,
)
def test_backbones_are_found_by_what_is_known_of_them(
    client: httpx2.Client, asked: dict[str, str], expected: str
) -> None:
    items = client.get("/v1/backbones", params={"limit": "1000", **asked}).json()["items"]
    assert expected in [each["name"] for each in items]
    for each in items:
        assert asked.get("name", "").lower() in each["name"].lower()
        assert all(str(each[field]) == asked[field] for field in ("source", "dim", "license") if field in asked)
        assert each["non_commercial"] == (each["license"] in catalog.NON_COMMERCIAL)


@pytest.mark.parametrize(("name", "value"), [("source", "keras"), ("dim", "many"), ("dim", "-1"), ("dim", "9" * 20)])
def test_backbones_asked_for_by_nonsense_are_refused(client: httpx2.Client, name: str, value: str) -> None:
    problem = check_problem(client.get("/v1/backbones", params={name: value}), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == f"/{name}"


def test_a_license_that_allows_no_commerce_is_said_at_creation(
    make_settings: Callable[..., Settings], tmp_path: Path
) -> None:
    put = tmp_path / "timm/convnextv2_atto.fcmae.safetensors"
    put.parent.mkdir()
    put.write_bytes(b"any content has a digest")
    with running(make_settings(weights_dir=tmp_path)) as api:
        client = api.client(ADMIN_KEY)
        body = create(client, backbone="timm/convnextv2_atto.fcmae").json()
        assert (body["license"], body["non_commercial"], body["dim"]) == ("cc-by-nc-4.0", True, 320)
        assert create(client, name="own").json()["license"] is None


def test_networks_of_ones_own_are_listed_and_used(make_settings: Callable[..., Settings], tmp_path: Path) -> None:
    """The API needs no torch for it: the JSON says how long the vectors are."""
    put = tmp_path / "own/shop/first.onnx"
    put.parent.mkdir(parents=True)
    put.write_bytes(b"any content has a digest")
    described = {"dim": 24, "input": 64, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "fit": "pad"}
    put.with_suffix(".json").write_text(json.dumps(described))
    with running(make_settings(weights_dir=tmp_path)) as api:
        client = api.client(ADMIN_KEY)
        (item,) = client.get("/v1/backbones", params={"source": "own"}).json()["items"]
        assert (item["name"], item["dim"], item["weights"]) == ("own/shop/first", 24, ["first.onnx"])
        names = [each["name"] for each in client.get("/v1/backbones").json()["items"]]
        assert names.index("own/shop/first") == 4, "after those that most ask for"
        body = create(client, backbone="own/shop/first").json()
        assert (body["dim"], body["weights"], body["fit"]) == (24, "first.onnx", "pad")
        again = create(client, name="again", backbone="own/shop/first").json()
        put.write_bytes(b"other content")
        changed = create(client, name="changed", backbone="own/shop/first").json()
        assert body["space_id"] == again["space_id"] != changed["space_id"]
        put.with_suffix(".json").write_text(json.dumps(described | {"mean": [120, 110, 100]}))
        problem = check_problem(create(client, name="no", backbone="own/shop/first"), 422, "unknown_backbone")
        assert problem["detail"].startswith("own/shop/first.json: `mean` is wrong")
        put.unlink()
        for name in ("own/shop/first", "own/shop/second", "own/../own/shop/first", "own/../../etc/passwd"):
            problem = check_problem(create(client, name="no", backbone=name), 422, "unknown_backbone")
            assert name in problem["detail"]


def test_weights_that_are_not_here_say_where_to_put_them(client: httpx2.Client) -> None:
    answer = create(client, backbone="timm/resnet18.a1_in1k")
    problem = check_problem(answer, 422, "unknown_weights")
    assert "timm/resnet18.a1_in1k.safetensors" in problem["detail"]


def test_a_created_collection_is_shown_as_it_was_created(client: httpx2.Client) -> None:
    answer = create(client, dtype="float16", precision="fast")
    assert answer.status_code == 201
    assert answer.headers["Location"] == "/v1/collections/archive"
    body = answer.json()
    assert body["dim"] == DIM
    assert (body["name"], body["backbone"], body["weights"]) == ("archive", "fake", "PIXELS")
    assert (body["dtype"], body["precision"], body["image_count"]) == ("float16", "fast", 0)
    assert len(body["space_id"]) == 32
    assert body["created_at"].endswith("Z")
    assert client.get("/v1/collections/archive").json() == body


def test_a_collection_takes_the_default_backbone(client: httpx2.Client) -> None:
    body = client.post("/v1/collections", json={"name": "archive"}).json()
    assert body["backbone"] == catalog.DEFAULT_BACKBONE
    assert (body["dtype"], body["precision"]) == ("float32", "exact")


def test_collections_of_one_space_share_it(client: httpx2.Client) -> None:
    first, second, fast = (create(client, name=name, precision=how).json() for name, how in
                           [("a", "exact"), ("b", "exact"), ("c", "fast")])  # fmt: skip
    assert first["space_id"] == second["space_id"] != fast["space_id"]


def test_a_fit_makes_a_space_of_its_own(client: httpx2.Client) -> None:
    usual, crop, pad, squash = (
        create(client, name=str(fit), fit=fit).json() for fit in (None, "crop", "pad", "squash")
    )
    assert [each["fit"] for each in (usual, crop, pad, squash)] == ["crop", "crop", "pad", "squash"]
    assert usual["space_id"] == crop["space_id"]
    assert len({each["space_id"] for each in (crop, pad, squash)}) == 3
    problem = check_problem(create(client, fit="stretch"), 422, "invalid_request")
    assert problem["errors"][0]["pointer"] == "/fit"


def test_a_name_is_taken_once_for_each_owner(client: httpx2.Client, stranger: httpx2.Client) -> None:
    assert create(client).status_code == 201
    check_problem(create(client), 409, "collection_exists")
    assert create(stranger).status_code == 201


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({"name": ""}, "/name"),
        ({"name": "../up"}, "/name"),
        ({"name": 7}, "/name"),
        ({"name": "x" * 129}, "/name"),
        ({"dtype": "float64"}, "/dtype"),
        ({"precision": "sloppy"}, "/precision"),
        ({"nam": "a"}, "/nam"),
    ],
)
def test_a_wrong_field_is_pointed_at(client: httpx2.Client, body: dict[str, object], pointer: str) -> None:
    problem = check_problem(create(client, **body), 422, "invalid_request")
    assert [error["pointer"] for error in problem["errors"]] == [pointer]


def test_unknown_backbones_and_weights_are_refused(client: httpx2.Client) -> None:
    check_problem(create(client, backbone="resnet51"), 422, "unknown_backbone")
    check_problem(create(client, weights="../secrets.pt"), 422, "unknown_weights")


def test_collections_are_paged_by_name_and_inserts_move_nothing(client: httpx2.Client) -> None:
    for name in ("d", "b", "f"):
        create(client, name=name)
    first = client.get("/v1/collections", params={"limit": 2}).json()
    assert [each["name"] for each in first["items"]] == ["b", "d"]
    create(client, name="a")
    create(client, name="e")
    second = client.get("/v1/collections", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [each["name"] for each in second["items"]] == ["e", "f"]
    assert second["next_cursor"] is None


def test_a_deleted_collection_frees_its_name_and_ends_its_jobs(
    client: httpx2.Client, hand: Hand, server: Running
) -> None:
    hand.collection()
    hand.images("a.jpg", "b.jpg")
    job = client.post("/v1/jobs/cluster", json={"collection": "archive", "n_clusters": 2}).json()
    answer = client.delete("/v1/collections/archive")
    assert (answer.status_code, answer.content) == (204, b"")
    check_problem(client.get("/v1/collections/archive"), 404, "collection_not_found")
    check_problem(client.delete("/v1/collections/archive"), 404, "collection_not_found")
    after = client.get(f"/v1/jobs/{job['id']}").json()
    assert (after["status"], after["error"]["code"]) == ("cancelled", "collection_deleted")
    assert create(client).json()["image_count"] == 0


def test_what_is_anothers_is_not_there(client: httpx2.Client, stranger: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    [image] = hand.images("a.jpg")
    for path in ("", "/images", f"/images/{image}", f"/images/{image}/embedding", f"/images/{image}/thumbnail"):
        assert client.get(f"/v1/collections/archive{path}").status_code == 200
        check_problem(stranger.get(f"/v1/collections/archive{path}"), 404, "collection_not_found")
    check_problem(stranger.delete("/v1/collections/archive"), 404, "collection_not_found")
    check_problem(stranger.delete(f"/v1/collections/archive/images/{image}"), 404, "collection_not_found")
    patched = stranger.patch(f"/v1/collections/archive/images/{image}", json={"metadata": {}})
    check_problem(patched, 404, "collection_not_found")
    assert stranger.get("/v1/collections").json()["items"] == []
    assert client.get("/v1/collections/archive").json()["image_count"] == 1


def test_images_are_paged_in_their_order(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    ids = hand.images("c.jpg", "a.jpg", "b.jpg")
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get("/v1/collections/archive/images", params={"limit": 2, "cursor": cursor}).json()
        seen += page["items"]
        cursor = page["next_cursor"]
    assert [image["id"] for image in seen] == sorted(ids)
    fields = {"id", "key", "content_hash", "width", "height", "format", "metadata", "created_at"}
    assert seen[0].keys() == fields


def test_metadata_is_replaced_and_seen_by_searches_to_come(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    [image] = hand.images("a.jpg")
    path = f"/v1/collections/archive/images/{image}"
    assert client.patch(path, json={"metadata": {"year": 1969, "tags": ["moon"]}}).status_code == 200
    answer = client.patch(path, json={"metadata": {"place": "Ürümqi"}})
    assert answer.json()["metadata"] == client.get(path).json()["metadata"] == {"place": "Ürümqi"}
    problem = check_problem(client.patch(path, json={"key": "b.jpg"}), 422, "invalid_request")
    assert {error["pointer"] for error in problem["errors"]} == {"/metadata", "/key"}


def test_changes_raise_the_revision_that_a_resident_matrix_catches_up_by(
    client: httpx2.Client, hand: Hand, server: Running
) -> None:
    from imagekin.store import collections, reading

    hand.collection()
    first, second = hand.images("a.jpg", "b.jpg")
    collection = server.database.read(collections.get, "admin", "archive")
    before = collection.revision
    client.patch(f"/v1/collections/archive/images/{first}", json={"metadata": {"a": 1}})
    client.delete(f"/v1/collections/archive/images/{second}")
    after, count = server.database.read(reading.head, collection.id)
    assert (after, count) == (before + 2, 1)


def test_a_deleted_image_is_gone(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    first, second = hand.images("a.jpg", "b.jpg")
    path = f"/v1/collections/archive/images/{first}"
    assert client.delete(path).status_code == 204
    for call in (client.get, client.delete):
        check_problem(call(path), 404, "image_not_found")
    check_problem(client.get(f"{path}/embedding"), 404, "image_not_found")
    page = client.get("/v1/collections/archive/images").json()
    assert [image["id"] for image in page["items"]] == [second]
    assert client.get("/v1/collections/archive").json()["image_count"] == 1


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_an_embedding_comes_as_json_or_npy(client: httpx2.Client, hand: Hand, dtype: str) -> None:
    hand.collection(dtype=dtype)
    [image] = hand.images("a.jpg")
    path = f"/v1/collections/archive/images/{image}/embedding"
    expected = vector(0, DIM).astype(dtype)
    body = client.get(path).json()
    assert (body["id"], body["key"], body["dim"], body["dtype"]) == (image, "a.jpg", DIM, dtype)
    np.testing.assert_array_equal(np.asarray(body["embedding"], dtype), expected)
    answer = client.get(path, headers={"Accept": "application/octet-stream"})
    loaded = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert loaded.dtype == dtype
    np.testing.assert_array_equal(loaded, expected)
    fallback = client.get(path, headers={"Accept": "image/gif"})
    assert fallback.json() == body
