"""A hand on each database."""

from __future__ import annotations

import pytest

from imagekin.database.engine import Database
from imagekin.settings import Settings
from kit.hand import Hand


@pytest.fixture
def hand(database: Database, settings: Settings) -> Hand:
    """A hand that has done nothing yet, of the owner `ann`, with the collection `photos`."""
    return Hand(database, settings, "ann", "photos")
