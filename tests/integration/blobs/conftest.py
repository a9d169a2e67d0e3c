"""A storage of blobs, in a folder or on S3, and a hand whose service keeps them there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from imagekin.database.engine import Database
from imagekin.settings import Settings
from imagekin.store.blobs import Blobs
from kit import s3
from kit.hand import Hand


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
