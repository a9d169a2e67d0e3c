"""Every screen of the gallery as a picture, in light and dark, wide and narrow: `make screens`.

`--docs FOLDER` draws instead the three pictures that README and docs show.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from PIL import Image
from playwright.sync_api import Browser, Page

from imagekin import Client
from imagekin.settings import Settings
from imagekin.stack import Stack
from kit import gallery
from kit.patience import until

# In README and docs: which screens, and in which light.
SHOWN = {"browse": False, "duplicates": False, "map": True}
SHOWN_SIZE = (1120, 700)
SHOWN_COLORS = 192


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--docs", action="store_true", help="draw the pictures of README and docs")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for name in [name for name in os.environ if name.startswith("IMAGEKIN_")]:
        del os.environ[name]
    with (
        tempfile.TemporaryDirectory() as data,
        Stack(Settings(data_dir=Path(data) / "data", port=0), log=lambda _: None) as stack,
        Client(stack.url) as client,
        gallery.launched() as browser,
    ):
        screens = gallery.screens(client, gallery.messy_pictures(Path(data) / "pictures"))
        if given.docs:
            for name, dark in SHOWN.items():
                path = given.folder / f"gallery-{name}.png"
                draw(browser, stack.url, {name: screens[name]}, dark, SHOWN_SIZE, path)
                # a repository keeps every version of it: few colors are half of the bytes
                with Image.open(path) as image:
                    image.convert("RGB").quantize(SHOWN_COLORS, dither=Image.Dither.NONE).save(path, optimize=True)
            return
        for dark in (False, True):
            for size in (gallery.WIDE, gallery.NARROW):
                light = "dark" if dark else "light"
                path = given.folder / f"{{name}}-{light}-{size[0]}.png"
                draw(browser, stack.url, screens, dark, size, path)
    print(f"{len(list(given.folder.glob('*.png')))} pictures in {given.folder}")


def draw(
    browser: Browser,
    url: str,
    screens: dict[str, tuple[str, str]],
    dark: bool,
    size: tuple[int, int],
    path: Path,
) -> None:
    """Draw screens; `{name}` in the path stands for theirs. Raises AssertionError if anything went wrong in one."""
    watched = gallery.Watched(browser, url, dark=dark, size=size)
    for name, (address, ready) in screens.items():
        watched.page.goto(address)
        watched.page.locator(ready).first.wait_for()
        settled(watched.page)
        watched.page.screenshot(path=path.with_name(path.name.replace("{name}", name)))
    watched.close()


def settled(page: Page) -> None:
    """Wait until all pictures in sight have come."""
    page.wait_for_load_state("networkidle")
    # not wait_for_function, whose text the page's own policy forbids to be run again
    there = "[...document.images].filter(i => i.src && i.loading !== 'lazy').every(i => i.complete)"
    until(lambda: page.evaluate(there), "the pictures in sight")


if __name__ == "__main__":
    main()
