"""The same by keys alone: no test here touches the mouse."""

from __future__ import annotations

import csv
from pathlib import Path

from playwright.sync_api import Page, expect

from imagekin import Client
from kit import gallery
from kit.patience import until


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


def test_select_label_open_and_search(page: Page, client: Client, demo: str) -> None:
    page.goto(f"/c/{demo}")
    tiles = page.get_by_test_id("tile")
    expect(tiles).to_have_count(30)
    # the first is current; two to the right, one selected; then more on the way to the right
    press(page, "ArrowRight", "ArrowRight", "ArrowRight", "x")
    expect(page.get_by_test_id("selected-count")).to_have_text("1")
    assert tiles.nth(2).get_attribute("aria-selected") == "true"
    press(page, "Shift+ArrowRight", "Shift+ArrowRight")
    expect(page.get_by_test_id("selected-count")).to_have_text("3")
    press(page, "l")
    expect(page.get_by_test_id("label-input")).to_be_focused()
    page.keyboard.type("chair")
    press(page, "Enter")
    expect(page.get_by_text("3 images labelled “chair”.")).to_be_visible()
    until(lambda: [(each.value, each.count) for each in client.labels(demo)] == [("chair", 3)])
    press(page, "z")
    until(lambda: not list(client.labels(demo)))
    # open, step, close
    press(page, "Enter")
    drawer = page.get_by_role("dialog")
    key = drawer.locator("dd bdi").first
    expect(key).to_be_visible()
    before = key.inner_text()
    press(page, "ArrowRight")
    expect(key).not_to_have_text(before)
    press(page, "Escape")
    expect(drawer).to_have_count(0)
    # find by name; Enter leads on to the pictures
    press(page, "/")
    page.keyboard.type("table-dining")
    expect(page.get_by_label("Find by name")).to_have_value("table-dining")
    press(page, "Enter", "a")
    count = page.get_by_test_id("selected-count")
    expect(count).to_be_visible()
    assert int(count.inner_text()) == tiles.count() < 30
    # search with what is selected, refine, select among the answers
    press(page, "s")
    page.wait_for_url("**/search?*")
    answers = page.get_by_test_id("answer")
    expect(answers.first).to_be_visible()
    shown = answers.count()
    press(page, "ArrowRight", "ArrowRight", "+")
    expect(answers).to_have_count(shown - 1)
    press(page, "ArrowRight", "-")
    expect(answers).to_have_count(shown - 2)
    press(page, "Escape", "ArrowRight", "x")
    expect(count).to_have_text("1")
    press(page, "?")
    keys = page.get_by_role("dialog", name="Keys on this screen")
    expect(keys.get_by_text("More like this")).to_be_visible()
    press(page, "Escape")
    expect(keys).to_have_count(0)


def test_the_list_of_keys_and_what_escape_lets_go_of(page: Page, demo: str) -> None:
    page.goto(f"/c/{demo}")
    tiles, count = page.get_by_test_id("tile"), page.get_by_test_id("selected-count")
    expect(tiles).to_have_count(30)
    # all keys are in the list, those too that need a selection
    press(page, "?")
    shown = page.get_by_role("dialog", name="Keys on this screen").locator("kbd")
    expect(shown.first).to_be_visible()
    listed = shown.all_inner_texts()
    assert {*"/xlas?z←→↑↓", "Del", "Enter", "Esc", "Home", "End", "⇧ ←"} <= set(listed)
    press(page, "Escape")
    # what is marked may be labelled without being selected before
    press(page, "ArrowRight", "l")
    expect(page.get_by_test_id("label-input")).to_be_focused()
    expect(count).to_have_text("1")
    # Escape leaves the box, then lets go of the selection
    press(page, "Escape", "Escape")
    expect(count).to_have_count(0)
    # of a selection it lets go before it does of the name; in the box, of the name
    press(page, "/")
    page.keyboard.type("sofa")
    press(page, "Enter", "a")
    expect(count).to_have_text("10")
    press(page, "Escape")
    expect(count).to_have_count(0)
    expect(tiles).to_have_count(10)
    press(page, "Escape")
    expect(tiles).to_have_count(30)
    press(page, "/")
    page.keyboard.type("sofa")
    expect(tiles).to_have_count(10)
    press(page, "Escape")
    expect(tiles).to_have_count(30)


def test_duplicates_are_decided_by_keys(page: Page, client: Client, messy: Path, tmp_path: Path) -> None:
    client.embed(messy, collection="twins").wait()
    page.goto("/c/twins/duplicates")
    groups = page.locator(".rail").get_by_test_id("group")
    expect(groups).to_have_count(5)
    keep, place = page.get_by_test_id("keep"), page.locator(".review").get_by_role("status")
    expect(place).to_have_text("Group 1 of 5")
    first = keep.get_attribute("data-key")
    # the other one is kept
    press(page, "k")
    expect(keep).not_to_have_attribute("data-key", first or "")
    second = keep.get_attribute("data-key")
    expect(keep.get_by_text("because you chose it")).to_be_visible()
    # its rest goes, comes back, and goes for good
    press(page, "d")
    expect(place).to_have_text("Group 2 of 5")
    press(page, "z")
    expect(place).to_have_text("Group 1 of 5")
    press(page, "d")
    expect(place).to_have_text("Group 2 of 5")
    until(lambda: first not in {each.key for each in client.images("twins")})
    assert second in {each.key for each in client.images("twins")}
    # two verdicts; one of them is taken back
    press(page, "ArrowRight", "o", "+", "-", "ArrowDown", "n")
    expect(place).to_have_text("Group 4 of 5")
    press(page, "z")
    expect(place).to_have_text("Group 3 of 5")
    press(page, "n")
    expect(place).to_have_text("Group 4 of 5")
    press(page, "y")
    expect(place).to_have_text("Group 5 of 5")
    until(lambda: len(list(client.verdicts("twins"))) == 2)
    with page.expect_download() as download:
        page.get_by_role("button", name="List").press("Enter")
    with Path(download.value.path()).open() as file:
        decided = {row["group"]: row["decided"] for row in csv.DictReader(file)}
    assert sorted(decided.values()) == ["", "", "all kept", "different pictures", "the rest deleted"]
    # asked once: when it is looked again, the one is in no group and the other is decided
    page.get_by_role("button", name="Look again").press("Enter")
    expect(groups).to_have_count(3)
    expect(page.get_by_text("2 of 3 to decide")).to_be_visible()
    # the line, by keys: lower, there are more
    page.get_by_test_id("threshold").focus()
    for _ in range(300):
        press(page, "ArrowLeft")
    page.get_by_role("button", name="Look again at").press("Enter")
    until(lambda: groups.count() > 3 or None)


def test_suggestions_are_accepted_and_rejected_by_keys(page: Page, client: Client, demo: str) -> None:
    gallery.label_demo(client, demo)
    page.goto(f"/c/{demo}/train")
    page.get_by_role("button", name="Suggest labels").press("Enter")
    suggestions = page.get_by_test_id("suggestion")
    expect(suggestions).to_have_count(18)
    key, label = suggestions.nth(1).get_attribute("data-key"), suggestions.nth(1).get_attribute("data-label")
    press(page, "ArrowRight", "y")
    expect(suggestions).to_have_count(17)
    until(lambda: [each.metadata.get("label") for each in client.images(demo) if each.key == key] == [label])
    press(page, "n")
    expect(suggestions).to_have_count(16)
    press(page, "z")
    expect(suggestions).to_have_count(17)
    # or another label, one that was not there
    press(page, "ArrowRight", "l")
    other = page.locator("[data-testid=suggestion].chosen").get_attribute("data-key")
    place = [each.get_attribute("data-key") for each in suggestions.all()].index(other)
    expect(page.get_by_test_id("label-input")).to_be_focused()
    page.keyboard.type("stool")
    press(page, "Enter")
    expect(suggestions).to_have_count(16)
    until(lambda: [each.metadata.get("label") for each in client.images(demo) if each.key == other] == ["stool"])
    # and on from where one was
    press(page, "ArrowRight")
    expect(suggestions.nth(place).locator(".picture")).to_be_focused()
