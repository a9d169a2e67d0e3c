"""Sources to open, with what they are read from in the test's own folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from imagekin import sources
from imagekin.settings import Settings
from imagekin.sources import Source
from imagekin.sources.base import Pace
from imagekin.uploads.files import Storage
from kit.packing import PICTURE, Open, upload


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let sources pause nowhere, however slow the machine is; `test_pauses` has them everywhere."""
    monkeypatch.setattr(Pace, "PAUSE_S", 3600.0)


@pytest.fixture
def open_upload(tmp_path: Path) -> Open:
    def opened(data: bytes, **changes: Any) -> Source:
        return upload(data, tmp_path, **changes)

    return opened


@pytest.fixture
def open_folder(tmp_path: Path) -> Open:
    (tmp_path / "root" / "in").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.png").write_bytes(PICTURE)

    def opened(name: str = "in") -> Source:
        where = Settings(data_dir=tmp_path, source_roots=(str(tmp_path / "root"),))
        return sources.open_source({"type": "folder", "path": str(tmp_path / "root" / name)}, Storage(where), where)

    return opened
