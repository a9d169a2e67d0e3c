"""A storage of blobs, in a folder or on S3, and a hand whose service keeps them there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from kit import s3
from kit.hand import Hand

# Each database and each storage once; `make faults` runs the other pairs, too.
LATER = {("sqlite", "s3"), ("postgresql", "folder")}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not (isinstance(item, pytest.Function) and item.path.is_relative_to(Path(__file__).parent)):
            continue
        # "engine, place", ["engine", "place"] or ("engine", "place")
        chosen = {name for mark in item.iter_markers("parametrize") for name in re.findall(r"\w+", str(mark.args[0]))}
        if hasattr(item, "callspec") and not chosen & {"engine", "place"}:
            params = item.callspec.params
            if (params.get("engine"), params.get("place")) in LATER:
                item.add_marker(pytest.mark.faults)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[str]:
    with s3.server() as address:
        yield address


@pytest.fixture(params=["folder", "s3"])
def place(request: pytest.FixtureRequest) -> str:
    """Where blobs go."""
    return request.param


@pytest.fixture
def url(request: pytest.FixtureRequest, place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty storage."""
    if place == "folder":
        return str(tmp_path / "blobs")
    s3.lead_to(request.getfixturevalue("s3_server"), monkeypatch)
    bucket = f"b{tmp_path.name.lower().replace('_', '-')}"[:60].rstrip("-")
    s3.make_bucket(bucket)
    return f"s3://{bucket}/imagekin"


@pytest.fixture
def storage(url: str) -> Blobs:
    return Blobs(url)


@pytest.fixture
def hand(migrated_url: str, settings: Settings, storage: Blobs) -> Iterator[Hand]:
    """A hand whose service keeps blobs in the storage."""
    database = Database(migrated_url, blobs=storage)
    yield Hand(database, settings, "ann", "photos")
    database.dispose()
