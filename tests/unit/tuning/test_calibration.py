"""A calibration finds the fastest arrangement, keeps it for the machine, and leaves alone what the settings fix."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imagekin.settings import Settings
from imagekin_worker.network import fake
from imagekin_worker.pipeline.lanes import Arrangement
from imagekin_worker.tuning import cache_key, calibration


class Costly(fake.FakeBackbone):
    """A fake whose batches take a time of their own, whatever the machine does."""

    def __init__(self, batch_s: dict[int, float]) -> None:
        super().__init__(fake.fake_space())
        self._batch_s = batch_s
        self._never = threading.Event()

    def embed(self, batch: np.ndarray) -> np.ndarray:
        self._never.wait(self._batch_s[len(batch)])
        return super().embed(batch)


FASTEST_AT_8 = {1: 0.05, 2: 0.08, 4: 0.12, 8: 0.12, 16: 0.5}
FASTEST_AT_2 = {1: 0.06, 2: 0.06, 4: 0.25, 8: 0.7}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration, "LEAST_TRIAL_S", 0.05)


def settings_in(tmp_path: Path, **fields: Any) -> Settings:
    values: dict[str, Any] = {"lanes": 2} | fields
    return Settings(data_dir=tmp_path, device="cpu", **values)


@pytest.mark.parametrize(("batch_s", "best"), [(FASTEST_AT_8, 8), (FASTEST_AT_2, 2)])
def test_the_fastest_batch_is_found_and_kept(batch_s: dict[int, float], best: int, tmp_path: Path) -> None:
    settings, backbone = settings_in(tmp_path), Costly(batch_s)
    assert calibration.kept(backbone, settings) is None
    found = calibration.calibrate(backbone, settings, budget_s=60)
    assert found == Arrangement(lanes=2, threads=1, batch=best)
    assert calibration.kept(backbone, settings) == found


def test_time_that_is_up_ends_it(tmp_path: Path) -> None:
    found = calibration.calibrate(Costly(FASTEST_AT_8), settings_in(tmp_path), budget_s=0)
    assert found.batch == 4


def test_what_the_settings_fix_is_not_tried(tmp_path: Path) -> None:
    settings = settings_in(tmp_path, batch_size=4)
    assert calibration.calibrate(Costly({4: 0.01}), settings, budget_s=60) == Arrangement(2, 1, 4)
    assert calibration.kept(Costly({}), settings_in(tmp_path, batch_size=8)) is None
    assert calibration.kept(Costly({}), settings_in(tmp_path, lanes=1)) is None


def test_figures_of_another_machine_and_broken_ones_do_not_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, backbone = settings_in(tmp_path), Costly({4: 0.01})
    calibration.calibrate(backbone, settings, budget_s=0)
    (path,) = tmp_path.rglob("*.json")
    assert calibration.kept(backbone, settings) is not None
    monkeypatch.setattr(cache_key, "key", lambda: "another")
    assert calibration.kept(backbone, settings) is None
    monkeypatch.undo()
    for content in ("", "[]", '{"lanes": 2}', '{"lanes": 2, "threads": 0, "batch": 4}'):
        path.write_text(content)
        assert calibration.kept(backbone, settings) is None


def test_a_folder_that_cannot_be_written_costs_only_the_keeping(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file in the way")
    assert calibration.calibrate(Costly({4: 0.01}), settings_in(tmp_path), budget_s=0).batch == 4


def test_how_long_a_trial_takes_is_known_before_it() -> None:
    assert calibration.least_seconds(Arrangement(2, 1, 4), images_per_s=1) == 16
