"""The gallery of a server with keys: signing in, what a session may do, and how it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from imagekin import api_keys
from imagekin.database.engine import Database
from imagekin.demo import furniture
from imagekin.settings import Settings
from imagekin.stack import Stack
from kit import gallery
from kit.gallery import Watched
from kit.patience import until


@pytest.fixture(scope="module")
def settings(own_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Settings:
    return Settings(data_dir=tmp_path_factory.mktemp("keyed"), port=0, auth="keys")


@pytest.fixture(scope="module")
def keyed(settings: Settings) -> Iterator[Stack]:
    """A running service that wants keys."""
    gallery.chromium()
    with Stack(settings, log=lambda _: None) as stack:
        yield stack


@pytest.fixture
def database(keyed: Stack, settings: Settings) -> Iterator[Database]:
    database = Database(settings.database_url or f"sqlite:///{settings.data_dir / 'imagekin.db'}")
    yield database
    database.dispose()


def test_a_key_signs_in_works_and_ends_with_its_revocation(
    open_page: Callable[..., Watched], keyed: Stack, database: Database, tmp_path: Path
) -> None:
    key, text = database.write(api_keys.create, "anna")
    watched = open_page(keyed.url)
    watched.expected.add(gallery.UNAUTHORIZED)
    page = watched.page
    page.goto("/c/rooms")
    box = page.get_by_label("API key")
    box.fill("not-a-key")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    assert gallery.violations(page) == []
    box.fill(text)
    page.keyboard.press("Enter")
    # where one wanted to go: there is no such collection yet
    watched.expected.add(gallery.NOT_FOUND)
    page.get_by_role("link", name="All collections", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Start with some pictures")
    page.get_by_label("Name of the collection").fill("rooms")
    pictures = sorted(furniture.FOLDER.iterdir())[:6]
    page.get_by_test_id("drop").set_input_files(pictures)
    page.wait_for_url("**/c/rooms")
    tiles = page.get_by_test_id("tile")
    expect(tiles).to_have_count(6)
    # changes go through with the page's token, pictures with the cookie
    tiles.nth(0).click()
    page.get_by_test_id("label-input").fill("mine")
    page.get_by_test_id("apply-label").click()
    expect(page.get_by_text("1 image labelled “mine”.")).to_be_visible()
    loaded = "[...document.querySelectorAll('[data-testid=tile] img')].every(i => i.naturalWidth > 0)"
    until(lambda: page.evaluate(loaded))
    # no script can read what opens the service, and the page keeps the key nowhere
    assert page.evaluate("document.cookie") == ""
    assert text not in page.evaluate("JSON.stringify([localStorage, sessionStorage, location.href])")
    # another page of this browser is signed in; after signing out neither is
    other = watched.context.new_page()
    # no request of it is under way then: one that came back after the signing out would show the box
    other.goto("/c/rooms", wait_until="networkidle")
    expect(other.get_by_test_id("tile")).to_have_count(6)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    other.get_by_test_id("tile").nth(1).click()
    other.get_by_test_id("label-input").fill("not mine")
    other.get_by_test_id("apply-label").click()
    expect(other.get_by_label("API key")).to_be_visible()
    # a key that is revoked ends its sessions, wherever the page is
    page.get_by_label("API key").fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_test_id("collection")).to_have_count(1)
    # a request still under way would show the box before the click
    page.goto("/", wait_until="networkidle")
    database.write(api_keys.revoke, key.id)
    page.get_by_test_id("collection").get_by_role("link", name="rooms").first.click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.get_by_label("API key").fill(text)
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_be_visible()
