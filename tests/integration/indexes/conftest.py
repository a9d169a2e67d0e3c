"""Collections with an index of vectors, which PostgreSQL alone has, and who works on them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from imagekin.settings import Settings
from kit.crew import Crew


@pytest.fixture
def engine() -> str:
    """PostgreSQL alone has indexes."""
    return "postgresql"


@pytest.fixture
def crew(settings: Settings) -> Iterator[Crew]:
    with closing(Crew(settings)) as crew:
        yield crew
