"""Names that would be code elsewhere, a service that goes away, and work that is cut short."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable

import pytest
from PIL import Image
from playwright.sync_api import Page, Route, expect

from imagekin import Client
from imagekin.demo import furniture
from kit import gallery
from kit.gallery import Watched

HOSTILE = {
    "html": "<img src=x onerror=document.title='owned'>",
    "script": "</script><script>document.title='owned'</script>",
    "rtl": "\u202egpj.exe\u2066 شجرة",
    "formula": "=HYPERLINK(1)",
    "long": "very" * 200,
    "braces": "{{7*7}}${7*7}",
}


@pytest.fixture(scope="module")
def hostile(client: Client, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A collection whose names, labels and metadata try to be code."""
    name = "hostile"
    archive = tmp_path_factory.mktemp("hostile") / "hostile.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for number, (word, text) in enumerate(HOSTILE.items()):
            picture = io.BytesIO()
            Image.new("RGB", (64, 48), (40 * number, 90, 200 - 30 * number)).save(picture, "PNG")
            file.writestr(f"{text}/{word}.png", picture.getvalue())
    client.embed(archive, collection=name).wait()
    assert client.collection(name).image_count == len(HOSTILE)
    for image in client.images(name):
        word = image.key.rsplit("/", 1)[1].removesuffix(".png")
        client.update_image(name, image.id, metadata={"label": HOSTILE[word], HOSTILE[word]: HOSTILE})
    return name


def test_names_are_text_on_every_screen(open_page: Callable[..., Watched], client: Client, hostile: str) -> None:
    grouped, drawn = client.cluster(hostile, n_clusters=2), client.map(hostile)
    grouped.wait()
    drawn.wait()
    image = next(client.images(hostile))
    page = open_page(size=gallery.NARROW).page
    for address, ready in {
        f"/c/{hostile}": "[data-testid=tile]",
        f"/c/{hostile}?image={image.id}": ".facts dd",
        f"/c/{hostile}/search?images={image.id}": "[data-testid=answer]",
        f"/c/{hostile}/groups/{grouped.id}": "[data-testid=group]",
        f"/c/{hostile}/map/{drawn.id}": "[data-testid=map]",
        f"/c/{hostile}/train": ".label-counts li",
        f"/c/{hostile}?label={HOSTILE['html']}": "[data-testid=tile]",
        "/c/<script>document.title='owned'</script>": "main",
        "/jobs": "[data-testid=job]",
    }.items():
        page.goto(address)
        expect(page.locator(ready).first).to_be_visible()
        assert page.title().endswith("imagekin")
        assert page.evaluate("document.querySelectorAll('main img[src=x], main script').length") == 0
        assert page.evaluate("document.documentElement.scrollWidth - innerWidth") <= 0, address


def test_the_page_waits_for_a_service_that_is_away(open_page: Callable[..., Watched], demo: str) -> None:
    watched = open_page()
    page = watched.page
    page.goto(f"/c/{demo}")
    expect(page.get_by_test_id("tile")).to_have_count(30)
    watched.expected.add(gallery.AWAY)
    watched.context.set_offline(True)
    page.get_by_test_id("tile").nth(0).click()
    page.get_by_test_id("label-input").fill("lost?")
    page.get_by_test_id("apply-label").click()
    expect(page.get_by_text("The service does not answer.")).to_be_visible()
    # nothing was labelled, and the page says nothing else
    expect(page.locator(".tag")).to_have_count(0)
    expect(page.get_by_test_id("selected-count")).to_have_text("1")
    watched.context.set_offline(False)
    page.get_by_test_id("apply-label").click()
    expect(page.locator(".tag")).to_have_count(1)


def test_work_goes_on_without_the_screen_and_can_be_cancelled(page: Page, client: Client, demo: str) -> None:
    # the worker of bulk jobs is kept busy, so that what comes later waits
    busy = [client.cluster(demo, n_clusters=25, n_init=100, seed=seed) for seed in range(3)]
    page.goto(f"/c/{demo}/groups")
    page.get_by_label("How many groups").fill("2")
    page.get_by_role("button", name="Group", exact=True).click()
    page.wait_for_url("**/groups/*")
    job_id = page.url.rsplit("/", 1)[1]
    page.get_by_role("link", name="Jobs", exact=True).click()
    row = page.locator(f'[data-testid=job][data-id="{job_id}"]')
    row.get_by_role("link").click()
    page.wait_for_url(f"**/jobs/{job_id}")
    job = page.get_by_test_id("job")
    cancel = page.get_by_role("button", name="Cancel")
    cancel.or_(page.locator("[data-status=succeeded]")).first.wait_for()
    if cancel.is_visible():
        cancel.click()
    expect(job).not_to_have_attribute("data-status", "queued")
    for each in busy:
        each.wait()


def test_an_archive_and_one_picture_more(page: Page, client: Client) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(furniture.FOLDER.iterdir())[:5]:
            file.write(path, f"rooms/{path.name}")
    page.goto("/")
    upload = {"name": "my pictures.zip", "mimeType": "application/zip", "buffer": archive.getvalue()}
    page.get_by_test_id("drop").set_input_files(upload)  # pyright: ignore[reportArgumentType] - a typed dict
    # the collection is called like the archive
    page.wait_for_url("**/c/my-pictures")
    expect(page.get_by_test_id("tile")).to_have_count(5)
    expect(page.get_by_test_id("progress")).to_have_count(0)
    page.get_by_test_id("drop").set_input_files(sorted(furniture.FOLDER.iterdir())[7])
    expect(page.get_by_test_id("tile")).to_have_count(6)
    assert client.collection("my-pictures").image_count == 6


def test_what_is_deleted_early_stays_out_of_sight(page: Page, client: Client, demo: str) -> None:
    """The first page of images is there before all of them are, and may be worked with."""
    held: list[Route] = []

    def hold(route: Route) -> None:
        held.append(route)

    page.route("**/columns?*", hold)
    page.goto(f"/c/{demo}")
    tiles = page.get_by_test_id("tile")
    expect(tiles).to_have_count(30)
    tiles.nth(0).click()
    page.keyboard.press("Delete")
    expect(tiles).to_have_count(29)
    held[0].continue_()
    expect(page.get_by_text("29 images", exact=True)).to_be_visible()
    page.keyboard.press("z")
    expect(page.get_by_text("30 images", exact=True)).to_be_visible()
    assert client.collection(demo).image_count == 30
