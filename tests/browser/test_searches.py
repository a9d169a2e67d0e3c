"""Searching by a picture, a part of it, an address or a name, and what is said of what cannot be searched for."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from imagekin import Client
from imagekin.demo import furniture
from kit import gallery, web
from kit.gallery import Watched


@pytest.fixture
def site() -> Iterator[web.Web]:
    """A site of pictures on loopback, which the service is allowed to fetch from."""
    with web.serve() as site:
        yield site


def asked_for(page: Page, text: str) -> None:
    page.get_by_test_id("query").fill(text)
    page.keyboard.press("Enter")


def test_a_picture_at_an_address_finds_its_kin(page: Page, demo: str, site: web.Web) -> None:
    picture = sorted(furniture.FOLDER.iterdir())[3]
    site.pages["/sofa.jpg"] = web.body(picture.read_bytes())
    page.goto(f"/c/{demo}/search")
    asked_for(page, site.url("/sofa.jpg"))
    answers = page.get_by_test_id("answer")
    expect(answers.first).to_have_attribute("data-key", picture.name)
    assert float(answers.first.get_attribute("data-score") or "nan") > 0.999
    expect(answers).to_have_count(30)
    # the address of the screen has it, and a mark beside it refines
    page.reload()
    expect(answers).to_have_count(30)
    answers.nth(4).get_by_test_id("minus").click()
    expect(answers).to_have_count(29)
    assert "/sofa.jpg" in site.paths


def test_duplicates_are_listed_with_the_better_answer(page: Page, client: Client, messy: Path) -> None:
    client.embed(messy, collection="collapsed").wait()
    page.goto("/c/collapsed/search")
    # part of a name; two files have it in theirs, and the one that is called so is taken
    first = sorted(furniture.FOLDER.iterdir())[0].name
    asked_for(page, first)
    answers = page.get_by_test_id("answer")
    expect(answers).to_have_count(34)
    twin = page.locator(f'[data-testid=answer][data-key="copy-of-{first}"]')
    expect(twin).to_have_attribute("data-score", "1")
    keys = {each.get_attribute("data-key") for each in answers.all()}
    page.get_by_label("collapse duplicates").check()
    twins = page.locator(".twins")
    expect(twins.first).to_be_visible()
    folded = [each.get_attribute("data-key") for each in answers.all()]
    twins.first.locator("summary").click()
    button = twins.first.get_by_role("button").first
    hidden = (button.get_attribute("title") or "").strip()
    assert hidden in keys and hidden not in folded and len(folded) < len(keys)
    button.click()
    expect(page.get_by_role("dialog").locator("dd bdi").first).to_have_text(hidden)


def test_what_cannot_be_searched_for_is_told_in_words(
    open_page: Callable[..., Watched], demo: str, site: web.Web, tmp_path: Path
) -> None:
    watched = open_page()
    page = watched.page
    alert = page.get_by_role("alert")
    page.goto(f"/c/{demo}/search")
    for asked, said, advice in (
        (site.url("/none.jpg"), "The server answered 404", "Check the address"),
        (site.url("/none.jpg", host="[::1]"), "is not on the public internet.", "Save the picture and drop it here"),
        ("sofa that flies", "has “sofa that flies” in its name.", "Type a part of a name"),
    ):
        asked_for(page, asked)
        expect(alert).to_contain_text(said)
        expect(alert).to_contain_text(advice)
    # the service refuses these before they are a job
    watched.expected |= {gallery.UNPROCESSABLE, gallery.NOT_FOUND}
    asked_for(page, "ftp://127.0.0.1/sofa.jpg")
    expect(alert).to_contain_text("The address must begin with http:// or https://.")
    page.goto(f"/c/{demo}/search?images=none")
    expect(alert).to_contain_text("has no image with the id 'none'. Search for another one.")
    # neither is a picture; what says that it is one, the service looks at
    notes = tmp_path / "notes.txt"
    notes.write_text("chairs to buy")
    page.get_by_test_id("drop").set_input_files(notes)
    expect(alert).to_contain_text("“notes.txt” is not a picture.")
    page.get_by_test_id("drop").set_input_files(notes.rename(tmp_path / "notes.jpg"))
    expect(alert).to_contain_text("Choose another file.")
    expect(page.get_by_text("This browser cannot show “notes.jpg”")).to_be_visible()
    assert "{" not in page.locator("main").inner_text()
    assert page.evaluate("[...document.images].filter(i => i.complete && i.src && !i.naturalWidth).length") == 0
    # another search, and nothing is said any more
    asked_for(page, "sofa")
    expect(page.get_by_test_id("answer")).to_have_count(29)
    expect(alert).to_have_count(0)


@pytest.mark.parametrize("address", ["/nothing/here", "/c/%E0%A4%A", "/c/none/search", "/c/none/map", "/jobs/none"])
def test_an_address_of_nothing_is_told_in_words(open_page: Callable[..., Watched], address: str) -> None:
    watched = open_page()
    watched.expected.add(gallery.NOT_FOUND)
    watched.page.goto(address)
    expect(watched.page.get_by_text("There is no ").first).to_be_visible()
    expect(watched.page.locator("main a").first).to_be_visible()
