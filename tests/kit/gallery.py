"""The gallery in Chromium: a page that notes what went wrong in it, and pictures to show."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import axe_playwright_python
import pytest
from PIL import Image, ImageEnhance, ImageOps
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from imagekin import Client
from imagekin.demo import furniture

WIDE, NARROW = (1400, 900), (420, 860)
# Longer than a busy machine takes; a failure is told that late, success is not.
PATIENCE_MS = 20_000
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking")
AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
# Chromium tells of every call that fails; tests in which some do say how, in `Watched.expected`.
FAILED = "Failed to load resource: "
NOT_FOUND, UNAUTHORIZED, UNPROCESSABLE = (
    f"the server responded with a status of {status}" for status in (404, 401, 422)
)
AWAY = "net::ERR_INTERNET_DISCONNECTED"


def chromium() -> str:
    """Return the path of the system's Chromium; skips the test where there is none, but fails it in CI."""
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        missing = "there is no Chromium on PATH (Debian: apt install chromium)"
        if os.environ.get("CI"):
            pytest.fail(f"The gallery's tests need it, and {missing}.")
        pytest.skip(missing)
    return found


@contextmanager
def launched() -> Iterator[Browser]:
    """Run Chromium without a window."""
    path = chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        expect.set_options(timeout=PATIENCE_MS)
        try:
            yield browser
        finally:
            browser.close()


class Watched:
    """A page, and all that went wrong in it: errors and warnings of the console, exceptions, what the CSP refused."""

    def __init__(
        self,
        browser: Browser,
        url: str,
        *,
        size: tuple[int, int] = WIDE,
        dark: bool = False,
        **more: Any,
    ) -> None:
        self.faults: list[str] = []
        self.expected: set[str] = set()
        self.context = browser.new_context(
            base_url=url,
            viewport={"width": size[0], "height": size[1]},
            color_scheme="dark" if dark else "light",
            accept_downloads=True,
            locale="en-US",
            **more,
        )
        self.context.set_default_timeout(PATIENCE_MS)
        self.page: Page = self.context.new_page()
        self.page.on("console", self._said)
        self.page.on("pageerror", lambda error: self.faults.append(f"{error.name}: {error.message}\n{error.stack}"))

    def _said(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        if any(f"{FAILED}{text}" in message.text for text in self.expected):
            return
        self.faults.append(f"{message.type}: {message.text} ({message.location.get('url')})")

    def close(self) -> None:
        """Close the page; raises AssertionError with what went wrong in it."""
        self.context.close()
        assert not self.faults, "\n".join(self.faults)


def messy_pictures(folder: Path) -> Path:
    """Write the demo's pictures with copies, a small, a mirrored and an edited one, and two that cannot be read."""
    folder.mkdir(parents=True, exist_ok=True)
    pictures = sorted(furniture.FOLDER.iterdir())
    for path in pictures:
        shutil.copy(path, folder / path.name)
    for path in pictures[:2]:
        shutil.copy(path, folder / f"copy-of-{path.name}")
    with Image.open(pictures[2]) as image:
        image.resize((image.width // 2, image.height // 2)).save(folder / "small.jpg", quality=80)
    with Image.open(pictures[3]) as image:
        ImageOps.mirror(image).save(folder / "mirrored.jpg", quality=85)
    with Image.open(pictures[4]) as image:
        ImageEnhance.Brightness(image.convert("RGB")).enhance(1.15).save(folder / "brighter.jpg", quality=85)
    (folder / "broken.jpg").write_bytes(pictures[0].read_bytes()[:400])
    (folder / "empty.png").write_bytes(b"")
    return folder


def embed_demo(client: Client, name: str) -> None:
    """Embed the demo's pictures into a collection; after the first time that is a matter of milliseconds."""
    client.embed(furniture.FOLDER, collection=name).wait()


def label_demo(client: Client, name: str, each: int = 4) -> None:
    """Label the first pictures of each class of the demo."""
    by_kind: dict[str, list[str]] = {}
    for picture in furniture.pictures():
        by_kind.setdefault(picture.kind, []).append(picture.path.name)
    for kind, keys in by_kind.items():
        client.update_images(name, image_keys=keys[:each], metadata={"label": kind})


def screens(client: Client, pictures: Path) -> dict[str, tuple[str, str]]:
    """Return the address of each screen of a collection, and what is visible when the screen is there, by name."""
    name = "furniture"
    embedded = client.embed(pictures, collection=name)
    embedded.wait()
    label_demo(client, name)
    image = next(client.images(name))
    grouped = client.cluster(name, n_clusters=6)
    twins, drawn, taught = client.duplicates(name), client.map(name), client.classify(name)
    for job in (grouped, twins, drawn, taught):
        job.wait()
    picture = f"/c/{name}?image={image.id}"
    return {
        "collections": ("/", ".card img"),
        "jobs": ("/jobs", "[data-testid=job]"),
        "job": (f"/jobs/{embedded.id}", ".failures li"),
        "browse": (f"/c/{name}", "[data-testid=tile] img"),
        "image": (picture, ".kin button"),
        "search": (f"/c/{name}/search?images={image.id}", "[data-testid=answer]"),
        "groups": (f"/c/{name}/groups/{grouped.id}", "[data-testid=group]"),
        "group": (f"/c/{name}/groups/{grouped.id}?group=0", "[data-testid=tile]"),
        "duplicates": (f"/c/{name}/duplicates/{twins.id}", "[data-testid=keep]"),
        "map": (f"/c/{name}/map/{drawn.id}", ".map-pictures img"),
        "train": (f"/c/{name}/train", "[data-testid=suggestion]"),
    }


def violations(page: Page) -> list[str]:
    """Return what axe finds in a page, one line each."""
    page.evaluate(AXE)
    found = page.evaluate("async () => (await axe.run(document, {resultTypes: ['violations']})).violations")
    return [f"{each['id']} ({each['impact']}): {each['nodes'][0]['html'][:200]}" for each in found]
