"""Every screen in light and dark, wide and narrow: nothing that axe finds, nothing wider than the window."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from imagekin import Client
from kit import gallery
from kit.gallery import Watched


@pytest.fixture(scope="module")
def shown(client: Client, messy: Path) -> dict[str, tuple[str, str]]:
    """The screens of a collection that has a bit of everything."""
    return gallery.screens(client, messy)


@pytest.mark.parametrize("size", [gallery.WIDE, gallery.NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing(
    open_page: Callable[..., Watched], shown: dict[str, tuple[str, str]], dark: bool, size: tuple[int, int]
) -> None:
    watched = open_page(size=size, dark=dark, bypass_csp=True)
    page = watched.page
    for name, (address, ready) in shown.items():
        page.goto(address)
        expect(page.locator(ready).first).to_be_visible()
        assert gallery.violations(page) == [], name
        wider = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert wider <= 0, f"{name} is {wider} px wider than the window"
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keys on this screen")).to_be_visible()
    assert gallery.violations(page) == []
