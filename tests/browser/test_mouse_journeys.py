"""What people do with the mouse, from an empty page to what they take away."""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Locator, Page, expect

from imagekin import Client
from kit import gallery
from kit.gallery import Watched
from kit.patience import until


def tiles(page: Page) -> Locator:
    return page.get_by_test_id("tile")


def nearest_picture(page: Page, plane: Locator) -> tuple[float, float] | None:
    """Return where the map's picture nearest to its middle is; goes away from them by a bit if all are off its edge."""
    box = plane.bounding_box()
    assert box
    centers = page.locator(".map-pictures > div").evaluate_all(
        "all => all.map(one => one.getBoundingClientRect()).map(r => [r.x + r.width / 2, r.y + r.height / 2])"
    )
    middle = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    x, y = min(centers, key=lambda center: math.dist(center, middle), default=middle)
    if centers and abs(x - middle[0]) < box["width"] / 3 and abs(y - middle[1]) < box["height"] / 3:
        return x, y
    page.mouse.move(*middle)
    page.mouse.wheel(0, 40)
    return None


def saved(page: Page, click: Callable[[], None], folder: Path) -> Path:
    """Return the file that a click has the browser keep."""
    with page.expect_download() as download:
        click()
    path = folder / download.value.suggested_filename
    download.value.save_as(path)
    return path


def test_from_dropped_files_to_the_reasons_of_those_that_failed(
    page: Page, client: Client, messy: Path, tmp_path: Path
) -> None:
    page.goto("/")
    page.get_by_label("Name of the collection").fill("first")
    page.get_by_test_id("drop").set_input_files(sorted(messy.iterdir()))
    page.wait_for_url("**/c/first")
    # two files cannot be read: the page says so and leads to the reasons
    page.get_by_role("link", name="See why").click()
    job = page.get_by_test_id("job")
    expect(job).to_have_attribute("data-status", "partial")
    expect(page.get_by_text("The file is empty.")).to_be_visible()
    expect(page.get_by_text("broken.jpg")).to_be_visible()
    failures = saved(page, page.get_by_role("button", name="List of failures").click, tmp_path)
    with failures.open() as file:
        assert {row["key"] for row in csv.DictReader(file)} == {"broken.jpg", "empty.png"}
    page.get_by_role("link", name="Look at the pictures").click()
    page.wait_for_url("**/c/first")
    expect(page.get_by_text("35 images")).to_be_visible()
    # what is known already is not sent a second time
    page.get_by_test_id("drop").set_input_files(sorted(messy.glob("sofa*")))
    expect(page.get_by_text("All of these pictures are in the collection already.")).to_be_visible()


def test_select_label_undo_delete_and_look(page: Page, client: Client, demo: str) -> None:
    page.goto(f"/c/{demo}")
    expect(page.get_by_text("30 images", exact=True)).to_be_visible()
    # by name, then a click, a shift-click, and a frame dragged around some
    page.get_by_label("Find by name").fill("sofa")
    expect(tiles(page)).to_have_count(10)
    tiles(page).nth(0).click()
    tiles(page).nth(4).click(modifiers=["Shift"])
    expect(page.get_by_test_id("selected-count")).to_have_text("5")
    page.get_by_test_id("label-input").fill("seat")
    page.get_by_test_id("apply-label").click()
    expect(page.get_by_text("5 images labelled “seat”.")).to_be_visible()
    expect(page.get_by_test_id("selected-count")).to_have_count(0)
    assert {each.value: each.count for each in client.labels(demo)} == {"seat": 5}
    page.get_by_test_id("undo").click()
    expect(tiles(page).locator(".tag")).to_have_count(0)
    until(lambda: list(client.labels(demo)) == [])
    page.get_by_label("Find by name").fill("")
    expect(tiles(page)).to_have_count(30)
    start, end = tiles(page).nth(0).bounding_box(), tiles(page).nth(9).bounding_box()
    assert start and end
    page.mouse.move(start["x"] + 40, start["y"] + 40)
    page.mouse.down()
    page.mouse.move(end["x"] + 40, end["y"] + 40, steps=5)
    page.mouse.up()
    assert int(page.get_by_test_id("selected-count").inner_text()) == 4
    assert tiles(page).nth(9).get_attribute("aria-selected") == "true"

    # deleted, and taken back before it is done
    page.get_by_role("region", name="Selection").get_by_role("button", name="Delete").click()
    expect(page.get_by_text("26 images", exact=True)).to_be_visible()
    page.get_by_test_id("undo").click()
    expect(page.get_by_text("30 images", exact=True)).to_be_visible()
    assert client.collection(demo).image_count == 30

    # everything about one, and a step to its nearest kin
    tiles(page).nth(0).hover()
    tiles(page).nth(0).locator(".open").click()
    drawer = page.get_by_role("dialog")
    expect(drawer.locator(".kin button")).to_have_count(12)
    key = drawer.locator("dd bdi").first.inner_text()
    drawer.locator(".kin button").nth(0).click()
    expect(drawer.locator("dd bdi").first).not_to_have_text(key)
    drawer.get_by_label("Label of this image").fill("looked at")
    drawer.get_by_role("button", name="Save").click()
    expect(page.get_by_text("1 image labelled")).to_be_visible()
    drawer.get_by_label("Close").click()
    expect(drawer).to_have_count(0)


def test_a_picture_finds_its_kin_and_marks_refine(page: Page, demo: str, messy: Path) -> None:
    page.goto(f"/c/{demo}/search")
    page.get_by_test_id("drop").set_input_files(messy / "brighter.jpg")
    answers = page.get_by_test_id("answer")
    expect(answers.nth(29)).to_be_attached()
    scores = [float(each.get_attribute("data-score") or "nan") for each in answers.all()]
    assert scores == sorted(scores, reverse=True)
    # a part of the picture only
    frame = page.get_by_role("group", name="The picture that is searched for").bounding_box()
    assert frame
    page.mouse.move(frame["x"] + 10, frame["y"] + 10)
    page.mouse.down()
    page.mouse.move(frame["x"] + frame["width"] / 2, frame["y"] + frame["height"] / 2, steps=4)
    with page.expect_response("**/v1/jobs/search") as asked:
        page.mouse.up()
    assert asked.value.ok
    expect(page.get_by_role("button", name="Whole picture")).to_be_visible()
    expect(answers.nth(29)).to_be_attached()
    # more like one of the answers, beside the part of the picture
    key = answers.nth(2).get_attribute("data-key")
    answers.nth(2).get_by_test_id("plus").click()
    expect(answers).to_have_count(29)
    assert key not in [each.get_attribute("data-key") for each in answers.all()]
    # one that is stored, then marked answers; what is marked leaves the answers
    page.get_by_test_id("query").fill("sofa-alone-1")
    page.get_by_role("button", name="Search", exact=True).click()
    expect(answers).to_have_count(29)
    good, bad = answers.nth(0), answers.nth(8)
    good_key, bad_key = good.get_attribute("data-key"), bad.get_attribute("data-key")
    good.get_by_test_id("plus").click()
    expect(answers).to_have_count(28)
    page.locator(f'[data-testid=answer][data-key="{bad_key}"]').get_by_test_id("minus").click()
    expect(answers).to_have_count(27)
    assert good_key and good_key not in [each.get_attribute("data-key") for each in answers.all()]
    # the address has all of it: a colleague sees the same
    here = page.url
    first = answers.nth(0).get_attribute("data-key")
    page.goto("/")
    page.goto(here)
    expect(answers).to_have_count(27)
    assert answers.nth(0).get_attribute("data-key") == first
    # the slider cuts, and what is left can be selected
    page.get_by_test_id("score-slider").fill("0.2")
    left = answers.count()
    assert 0 < left < 27
    page.get_by_role("button", name=f"Select these {left}").click()
    expect(page.get_by_test_id("selected-count")).to_have_text(str(left))


def test_groups_are_named_labelled_split_and_take_what_comes_later(
    page: Page, client: Client, demo: str, messy: Path
) -> None:
    page.goto(f"/c/{demo}/groups")
    expect(page.get_by_text("Groups gather pictures that look similar.")).to_be_visible()
    groups = page.get_by_test_id("group")
    # the service chooses how many, among numbers that leave groups more than pairs
    page.get_by_role("button", name="Group", exact=True).click()
    expect(groups.first).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_have_text(re.compile(r"^[2-5] groups$"))
    chosen = page.url
    # another number than the service chooses
    page.get_by_label("How many groups").fill("6")
    page.get_by_role("button", name="Group", exact=True).click()
    page.wait_for_url(lambda url: url != chosen)
    expect(groups).to_have_count(6)
    sizes = [int(each.get_attribute("data-size") or 0) for each in groups.all()]
    assert sizes == sorted(sizes, reverse=True) and sum(sizes) == 30
    groups.nth(0).get_by_label("Name of group").fill("the largest")
    groups.nth(0).get_by_role("button", name="Label all").click()
    expect(page.get_by_text(f"{sizes[0]} images labelled “the largest”.")).to_be_visible()
    assert [(each.value, each.count) for each in client.labels(demo)] == [("the largest", sizes[0])]
    page.reload()
    expect(groups.nth(0).get_by_role("link", name="the largest")).to_be_visible()
    # split: what is far from the middle is selected by the slider
    groups.nth(0).get_by_role("button", name="Split").click()
    expect(tiles(page)).to_have_count(sizes[0])
    slider = page.get_by_test_id("distance")
    low, high = float(slider.get_attribute("min") or 0), float(slider.get_attribute("max") or 0)
    slider.fill(f"{(low + high) / 2:.3f}")
    assert 0 < int(page.get_by_test_id("selected-count").inner_text()) < sizes[0]
    page.keyboard.press("Escape")
    page.keyboard.press("Escape")
    expect(groups).to_have_count(6)
    # later ones
    client.embed(messy / "mirrored.jpg", collection=demo).wait()
    page.get_by_role("button", name="Place images that came later").click()
    expect(page.get_by_text("1 image placed in 1 group and selected.")).to_be_visible()


def test_the_map_shows_selects_and_opens(page: Page, client: Client, demo: str) -> None:
    gallery.label_demo(client, demo)
    page.goto(f"/c/{demo}/map")
    plane = page.get_by_test_id("map")
    expect(plane).to_have_attribute("data-count", "30")
    legend = page.get_by_role("list", name="Colors")
    expect(legend.get_by_role("button")).to_have_count(4)
    legend.get_by_role("button", name="sofa").click()
    expect(page.get_by_test_id("selected-count")).to_have_text("4")
    page.keyboard.press("Escape")
    box = plane.bounding_box()
    assert box
    # around everything
    corners = [(5, 5), (box["width"] - 5, 5), (box["width"] - 5, box["height"] - 5), (5, box["height"] - 5), (5, 8)]
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    for x, y in corners:
        page.mouse.move(box["x"] + x, box["y"] + y, steps=3)
    page.mouse.up()
    expect(page.get_by_test_id("selected-count")).to_have_text("30")
    page.keyboard.press("Escape")
    # nearer: pictures stand where points were; a click opens
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.wheel(0, -600)
    expect(page.locator(".map-pictures img").first).to_be_visible()
    page.get_by_role("button", name="Lasso").click()
    page.mouse.click(*until(lambda: nearest_picture(page, plane), "a picture in the middle of the map"))
    expect(page.get_by_role("dialog").locator(".kin button").first).to_be_visible()
    page.keyboard.press("Escape")
    # wherever one goes, something is to be seen, and one button shows all of it again
    shown = page.locator(".map-pictures > div")
    expect(shown).not_to_have_count(30)
    page.mouse.move(box["x"] + box["width"] - 3, box["y"] + box["height"] - 3)
    for _ in range(8):
        page.mouse.wheel(0, -900)
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    expect(shown.first).to_be_visible()
    expect(shown.first).to_be_in_viewport()
    page.get_by_role("button", name="Whole map").click()
    until(lambda: shown.count() > 9)
    # by keys: the image in the middle is opened, a number leads to another screen
    plane.press("Enter")
    expect(page.get_by_role("dialog").locator(".kin button").first).to_be_visible()
    page.keyboard.press("Escape")
    page.keyboard.press("1")
    page.wait_for_url(f"**/c/{demo}")


def test_labels_teach(page: Page, client: Client, demo: str) -> None:
    page.goto(f"/c/{demo}/train")
    expect(page.get_by_text("No image has a label yet.")).to_be_visible()
    page.get_by_role("button", name="Suggest labels").click()
    # the service's own sentence
    expect(page.get_by_role("alert")).to_contain_text("label")
    gallery.label_demo(client, demo)
    page.reload()
    expect(page.get_by_text("12 of 30 images in 3 classes.")).to_be_visible()
    page.get_by_role("button", name="Suggest labels").click()
    suggestions = page.get_by_test_id("suggestion")
    expect(suggestions).to_have_count(18)
    assert 0.5 < float(page.get_by_test_id("accuracy").get_attribute("data-value") or 0) <= 1
    # what to label next: where the labels say least, or the middles of groups
    page.get_by_role("button", name="The least sure").click()
    expect(page.get_by_role("button", name="Select these 18")).to_be_visible()
    next_ones = page.get_by_role("region", name="What to label next").locator("li[data-id]")
    assert next_ones.nth(0).get_attribute("data-id") == suggestions.nth(17).get_attribute("data-id")
    page.get_by_role("button", name="Typical ones").click()
    expect(page.get_by_role("button", name="Select these 30")).to_be_visible()
    key, label = suggestions.nth(0).get_attribute("data-key"), suggestions.nth(0).get_attribute("data-label")
    suggestions.nth(0).get_by_test_id("accept").click()
    expect(suggestions).to_have_count(17)
    until(lambda: [each.metadata.get("label") for each in client.images(demo) if each.key == key] == [label])
    suggestions.nth(0).get_by_test_id("reject").click()
    expect(suggestions).to_have_count(16)
    page.get_by_test_id("undo").click()
    expect(suggestions).to_have_count(17)
    page.get_by_role("button", name="Accept these 17").click()
    expect(page.get_by_text("Nothing is left to decide.")).to_be_visible()
    until(lambda: sum(each.count for each in client.labels(demo)) == 30)

    page.get_by_role("button", name="Outliers").click()
    expect(page.get_by_role("button", name="Select these 30")).to_be_visible()


def test_an_adapted_collection_and_a_set_without_leaks(page: Page, client: Client, demo: str, tmp_path: Path) -> None:
    gallery.label_demo(client, demo, each=10)
    client.classify(demo).wait()
    page.goto(f"/c/{demo}/train")
    page.get_by_test_id("adapt").click()
    force = page.get_by_role("button", name="Make it anyway")
    page.locator(".before-after").or_(force).wait_for()
    if force.is_visible():
        force.click()
    expect(page.locator(".before-after")).to_be_visible()
    expect(page.get_by_role("link", name=f"Open {demo}-adapted")).to_be_visible()

    page.get_by_role("button", name="Split", exact=True).click()
    expect(page.get_by_text("train 24 · ")).to_be_visible()
    page.get_by_role("button", name="Check for leaks").click()
    expect(page.get_by_text("No near-duplicate lies on two sides.")).to_be_visible()

    # all that the service writes can be taken away
    call = page.request.get("/openapi.json").json()["paths"]["/v1/collections/{name}/export"]["get"]
    written = next(each["schema"]["enum"] for each in call["parameters"] if each["name"] == "format")
    offered = page.get_by_label("Format").locator("option")
    assert {each.get_attribute("value") for each in offered.all()} == set(written)
    table = saved(page, page.get_by_test_id("take-away").click, tmp_path)
    with table.open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30 and {row["label"] for row in rows} == {"sofa", "table", "shelf"}
    manifest = json.loads(saved(page, page.get_by_role("link", name="Manifest").click, tmp_path).read_text())
    assert len(manifest["files"]) == 30
    assert all(len(each["sha256"]) == 64 and each["split"] for each in manifest["files"])
    assert {"embed", "classify", "split"} <= {job["kind"] for job in manifest["jobs"]}


def test_a_collection_is_deleted_only_after_the_time_to_undo(
    open_page: Callable[..., Watched], client: Client, demo: str
) -> None:
    watched = open_page()
    page = watched.page
    page.goto("/")
    card = page.locator(f'[data-testid=collection][data-name="{demo}"]')
    card.get_by_role("button", name="Delete").click()
    expect(card).to_have_count(0)
    page.get_by_test_id("undo").click()
    expect(card).to_have_count(1)
    assert client.collection(demo).image_count == 30
    card.get_by_role("button", name="Delete").click()
    until(lambda: demo not in [each.name for each in client.collections()])
    # an address that leads to it says so, and leads on
    watched.expected.add(gallery.NOT_FOUND)
    page.goto(f"/c/{demo}")
    expect(page.get_by_text(f"There is no collection named '{demo}'.")).to_be_visible()
    page.get_by_role("link", name="All collections", exact=True).click()
    page.wait_for_url("**/")
