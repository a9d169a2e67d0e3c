"""The gallery, as people use it: real Chromium, the whole service with its default backbone; shared by all tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page

from imagekin import Client
from imagekin.settings import Settings
from imagekin.stack import Stack
from kit import gallery
from kit.gallery import Watched


@pytest.fixture(scope="session")
def service(own_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A running service in local mode."""
    gallery.chromium()
    folder = tmp_path_factory.mktemp("gallery")
    settings = Settings(data_dir=folder, port=0, warm=("efficientnet_lite0",), fetch_allow=("127.0.0.1",))
    with Stack(settings, log=lambda _: None) as stack:
        yield stack


@pytest.fixture(scope="session")
def client(service: Stack) -> Iterator[Client]:
    with Client(service.url) as client:
        yield client


@pytest.fixture(scope="session")
def messy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures with duplicates among them, and two that cannot be read."""
    return gallery.messy_pictures(tmp_path_factory.mktemp("pictures") / "messy")


# not for the session: while Playwright runs, its thread has a running event loop, in which other tests can't start one
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with gallery.launched() as browser:
        yield browser


@pytest.fixture
def open_page(browser: Browser, service: Stack) -> Iterator[Callable[..., Watched]]:
    """Open pages that fail the test at its end if anything went wrong in them."""
    opened: list[Watched] = []

    def open_page(url: str = service.url, **more: Any) -> Watched:
        opened.append(Watched(browser, url, **more))
        return opened[-1]

    yield open_page
    for watched in opened:
        watched.close()


@pytest.fixture
def page(open_page: Callable[..., Watched]) -> Page:
    """A page of the service, wide and light."""
    return open_page().page


@pytest.fixture
def demo(client: Client, request: pytest.FixtureRequest) -> str:
    """A collection of the test's own with the demo's pictures, its name."""
    name = request.node.name.replace("_", "-").removeprefix("test-")[:100]
    gallery.embed_demo(client, name)
    return name
