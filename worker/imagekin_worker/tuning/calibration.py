"""Calibration: trials of how a CPU's cores share the work best (lanes, threads inside a layer, pictures in a batch).

It measures the machine, and has nothing to do with the `calibrated` view of vectors (`imagekin_worker.matrix.view`).
"""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import structlog
from PIL import Image

from imagekin.settings import Settings
from imagekin_worker.network.backbones import Backbone
from imagekin_worker.network.devices import cores
from imagekin_worker.pipeline.lanes import Arrangement, Pipeline, arrangement_of
from imagekin_worker.tuning import cache_key

log = structlog.get_logger()

LEAST_TRIAL_S = 0.4
LARGEST_BATCH = 16
# A change is made for more than what noise makes.
WORTH = 1.03
# The size of an ordinary picture on the web.
_WIDTH, _HEIGHT = 500, 400


def kept(backbone: Backbone, settings: Settings) -> Arrangement | None:
    """Return the result of this machine's calibration; None before it, or if the settings decide."""
    try:
        found = json.loads(_path(backbone, settings).read_text())
        arrangement = Arrangement(int(found["lanes"]), int(found["threads"]), int(found["batch"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        log.warning("calibration_unreadable", path=str(_path(backbone, settings)), error=str(error))
        return None
    wanted = (settings.lanes or arrangement.lanes, settings.batch_size or arrangement.batch)
    sound = min(asdict(arrangement).values()) > 0 and wanted == (arrangement.lanes, arrangement.batch)
    return arrangement if sound else None


def calibrate(backbone: Backbone, settings: Settings, budget_s: float) -> Arrangement:
    """Try arrangements for about `budget_s` seconds, keep the best for this machine, and return it.

    It times a lane's whole work on generated pictures, decode and forward pass. For the forward pass alone fewer lanes
    with more threads may be faster, but not with decoding.
    """
    trials = _Trials(backbone, settings, time.monotonic() + budget_s)
    best = trials.start(arrangement_of(backbone, settings))
    if not settings.lanes:
        best = trials.climb(best, _fewer_lanes)
    if not settings.batch_size:
        larger = trials.climb(best, _larger_batch)
        best = larger if larger != best else trials.climb(best, _smaller_batch)
    _keep(_path(backbone, settings), best, trials.speeds[best])
    log.info("calibrated", backbone=backbone.space.backbone, **asdict(best), images_per_s=round(trials.speeds[best], 1))
    return best


Change = Callable[[Arrangement], Arrangement | None]


def least_seconds(arrangement: Arrangement, images_per_s: float) -> float:
    """Estimate how long the trial of an arrangement takes: a round to warm up and one to time."""
    return max(LEAST_TRIAL_S, 2 * arrangement.lanes * arrangement.batch / images_per_s)


class _Trials:
    """Arrangements and their measured speeds, in images a second."""

    def __init__(self, backbone: Backbone, settings: Settings, until: float) -> None:
        self._backbone = backbone
        self._settings = settings
        self._until = until
        self._picture = _picture()
        self.speeds: dict[Arrangement, float] = {}

    def start(self, arrangement: Arrangement) -> Arrangement:
        """Time an arrangement, without a time limit."""
        self.speeds[arrangement] = self._time(arrangement)
        return arrangement

    def climb(self, arrangement: Arrangement, change: Change) -> Arrangement:
        """Change an arrangement again and again while it gets faster and there is time; return the best."""
        while (changed := change(arrangement)) is not None:
            if time.monotonic() + least_seconds(changed, self.speeds[arrangement]) > self._until:
                return arrangement
            self.speeds[changed] = self._time(changed)
            if self.speeds[changed] < WORTH * self.speeds[arrangement]:
                return arrangement
            arrangement = changed
        return arrangement

    def _time(self, arrangement: Arrangement) -> float:
        """Run a first round, which builds what later ones use, then rounds for a while; return images a second."""
        round_ = arrangement.lanes * arrangement.batch
        items = self._items(round_)
        pipeline = Pipeline(self._backbone, self._settings, items, lambda _: self._picture, arrangement=arrangement)
        marks: list[float] = []
        for done, _ in enumerate(pipeline.outcomes(), start=1):
            if done % round_ == 0:
                marks.append(time.monotonic())
        return (len(marks) - 1) * round_ / max(marks[-1] - marks[0], 1e-9)

    def _items(self, round_: int) -> Iterator[int]:
        """Yield at least two rounds, then rounds until the trial's time is up."""
        yield from range(2 * round_)
        until = time.monotonic() + LEAST_TRIAL_S
        while time.monotonic() < until:
            yield from range(round_)


def _larger_batch(of: Arrangement) -> Arrangement | None:
    return Arrangement(of.lanes, of.threads, 2 * of.batch) if of.batch < LARGEST_BATCH else None


def _smaller_batch(of: Arrangement) -> Arrangement | None:
    return Arrangement(of.lanes, of.threads, of.batch // 2) if of.batch > 1 else None


def _fewer_lanes(of: Arrangement) -> Arrangement | None:
    """Halve the lanes, but not to one: while that decoded, all other cores would be idle."""
    return Arrangement(of.lanes // 2, of.threads * 2, of.batch) if of.lanes % 2 == 0 and of.lanes > 2 else None


def _picture() -> bytes:
    """Make a JPEG with about as many bits as a photograph of its size."""
    chance = np.random.default_rng(0)
    coarse = Image.fromarray(chance.integers(0, 256, (_HEIGHT // 16, _WIDTH // 16, 3), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((_WIDTH, _HEIGHT), Image.Resampling.BICUBIC), np.int16)
    grain = chance.integers(-8, 9, smooth.shape)
    file = io.BytesIO()
    Image.fromarray((smooth + grain).clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=85)
    return file.getvalue()


def _path(backbone: Backbone, settings: Settings) -> Path:
    return cache_key.folder(settings, "calibrations") / f"{backbone.space.fingerprint}-{cores()}.json"


def _keep(path: Path, arrangement: Arrangement, speed: float) -> None:
    """Write the result; another process may do the same at this moment."""
    content = json.dumps(asdict(arrangement) | {"images_per_s": round(speed, 2)})
    draft = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_text(content)
        draft.replace(path)
    except OSError as error:
        log.warning("calibration_not_kept", path=str(path), error=str(error))
