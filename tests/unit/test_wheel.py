"""The wheel, built and opened: what an installed imagekin has of the page."""

from __future__ import annotations

import hashlib
import re
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[2]
APP = "imagekin_api/web/static/app/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    [path] = WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("wheel")), versions=["standard"])
    return zipfile.ZipFile(path)


def test_the_wheel_holds_the_page_and_all_that_it_names(wheel: zipfile.ZipFile) -> None:
    page = wheel.read(APP + "index.html").decode()
    named = re.findall(r'(?:href|src)="/app/([\w.-]+)(?:\?v=(\w+))?"', page)
    assert {"app.js", "style.css", "icon.svg"} == {name for name, _ in named}
    for name, version in named:
        content = wheel.read(APP + name)
        assert content
        assert not version or hashlib.sha256(content).hexdigest().startswith(version)


def test_the_wheel_holds_the_documentations_page_and_no_sources_of_the_gallery(wheel: zipfile.ZipFile) -> None:
    names = wheel.namelist()
    assert {"imagekin_api/web/static/docs/docs.css", "imagekin_api/web/templates/docs.html"} <= set(names)
    assert not [name for name in names if "node_modules" in name or name.endswith((".ts", ".tsx"))]
