"""Thumbnails over HTTP: their size, and how long browsers keep them."""

from __future__ import annotations

import io

import httpx2
from PIL import Image

from imagekin.settings import Settings
from kit.calls import accepted
from kit.hand import Hand, picture
from kit.serving import BOTH_ENGINES, Running
from kit.wire import check_problem

FOR_GOOD, ASKED_AGAIN = "private, max-age=31536000, immutable", "private, no-cache"


def test_a_thumbnail_is_a_jpeg_that_can_be_asked_for_again(client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    [image] = hand.images("a.jpg")
    path = f"/v1/collections/archive/images/{image}/thumbnail"
    answer = client.get(path)
    assert answer.headers["Content-Type"] == "image/jpeg"
    assert answer.headers["Cache-Control"] == ASKED_AGAIN
    assert answer.content == picture(0, kind="JPEG")
    again = client.get(path, headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status_code, again.content) == (304, b"")


@BOTH_ENGINES
def test_an_address_with_the_content_is_kept_for_good_until_the_content_is_another(
    client: httpx2.Client, hand: Hand
) -> None:
    hand.collection()
    [image] = hand.images("a.jpg")
    path = f"/v1/collections/archive/images/{image}"
    hash_before = client.get(path).json()["content_hash"]
    for version, kept in [
        (hash_before, True), (hash_before[:16], True), (hash_before[:15], False), ("", False),
        ("f" * 16, False), (hash_before + "0", False), (hash_before[:16].replace("0", "%"), False),
    ]:  # fmt: skip
        answer = client.get(f"{path}/thumbnail", params={"v": version})
        assert answer.headers["Cache-Control"] == (FOR_GOOD if kept else ASKED_AGAIN), version
        assert answer.content == picture(0, kind="JPEG")
    # the same key and image, another picture
    hand.images("b.jpg", "a.jpg")
    assert client.get(path).json()["key"] == "a.jpg"
    stale = client.get(f"{path}/thumbnail", params={"v": hash_before})
    assert (stale.headers["Cache-Control"], stale.content) == (ASKED_AGAIN, picture(1, kind="JPEG"))


def test_what_has_no_thumbnail_is_missing_and_nothing_of_it_is_kept(
    client: httpx2.Client, stranger: httpx2.Client, hand: Hand
) -> None:
    hand.collection()
    [image] = hand.images("a.jpg")
    path = f"/v1/collections/archive/images/{image}"
    for who, at, code in [
        (client, "/v1/collections/none/images/none/thumbnail", "collection_not_found"),
        (client, "/v1/collections/archive/images/none/thumbnail", "image_not_found"),
        (stranger, f"{path}/thumbnail", "collection_not_found"),
    ]:
        answer = who.get(f"{at}?v={0:064x}")
        check_problem(answer, 404, code)
        assert answer.headers["Cache-Control"] == "no-store"
    client.delete(path)
    check_problem(client.get(f"{path}/thumbnail?v={0:064x}"), 404, "image_not_found")


def embedded(settings: Settings, client: httpx2.Client, name: str, key: str, data: bytes) -> tuple[int, int]:
    """Embed a picture by a worker with these settings, and return the size of its thumbnail in pixels."""
    from kit.crew import Crew

    accepted(client.post("/v1/jobs/embed", data={"collection": name}, files={"images": (key, data)}))
    crew = Crew(settings)
    try:
        crew.work()
    finally:
        crew.close()
    return size_of(client, name, key)


def size_of(client: httpx2.Client, name: str, key: str) -> tuple[int, int]:
    images = client.get(f"/v1/collections/{name}/images").json()["items"]
    [image] = [image for image in images if image["key"] == key]
    answer = client.get(f"/v1/collections/{name}/images/{image['id']}/thumbnail")
    with Image.open(io.BytesIO(answer.content)) as thumbnail:
        return thumbnail.size


def test_new_thumbnails_have_256_pixels_and_others_stay(server: Running, client: httpx2.Client, hand: Hand) -> None:
    hand.collection()
    before = server.settings.model_copy(update={"thumbnail_px": 160})
    assert embedded(before, client, "archive", "old.png", picture(1, (500, 400))) == (160, 128)
    assert embedded(server.settings, client, "archive", "new.png", picture(2, (500, 400))) == (256, 205)
    assert embedded(server.settings, client, "archive", "old.png", picture(1, (500, 400))) == (160, 128)
    assert embedded(server.settings, client, "archive", "small.png", picture(3, (50, 40))) == (50, 40)
