"""An archive on each database."""

from __future__ import annotations

import pytest

from kit.archive import Archive


@pytest.fixture
def archive(database, settings) -> Archive:
    """An empty archive of the owner `ann`."""
    return Archive(database, settings)
