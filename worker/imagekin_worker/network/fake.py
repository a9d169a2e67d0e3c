"""A backbone without weights, cheap and deterministic, for tests where the network is not the point.

It is in the catalog as `fake`, hidden, so that real workers can be run with it.
"""

from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from imagekin import catalog, errors
from imagekin.catalog import Preprocess, Space, files
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import slots

FAKE_DIM = 64
FAKE_LAYER = "pixels"
FAKE_DIGEST = "0" * 8
PREPROCESS = Preprocess(32, 32, "bilinear", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))

_CELLS = 4


@dataclass(frozen=True, slots=True)
class Behaviour:
    """What a fake does besides embedding; its weights file is a JSON object with these fields.

    `delay_s`: seconds that each picture takes. `fatal_rgb`: a picture that is all this color kills the process.
    """

    delay_s: float = 0.0
    fatal_rgb: tuple[int, int, int] | None = None


class FakeBackbone:
    """Embeds a picture as the mean color and the contrast of each cell of a 4 x 4 grid."""

    def __init__(self, space: Space, behaviour: Behaviour | None = None, batch_size: int = 4) -> None:
        self.space = space
        self.behaviour = behaviour or Behaviour()
        self.batch_size = batch_size
        self.on_gpu = False
        self.nbytes, self.compiled_from = 0, None
        self.embedded = 0
        self._stopped = threading.Event()

    def embed(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> NDArray[np.float32]:
        """Embed pictures (n, 3, h, w) into (n, 64) float32; uint8 is scaled by the space's mean and std first."""
        self._misbehave(batch)
        self.embedded += len(batch)
        pixels = batch.astype(np.float32)
        if batch.dtype == np.uint8:
            mean, std = (np.array(each, np.float32)[:, None, None] for each in (PREPROCESS.mean, PREPROCESS.std))
            pixels = (pixels / np.float32(255) - mean) / std
        count, channels, height, width = pixels.shape
        cells = pixels.reshape(count, channels, _CELLS, height // _CELLS, _CELLS, width // _CELLS)
        means = cells.mean(axis=(3, 5)).reshape(count, -1)
        contrasts = cells.std(axis=(1, 3, 5)).reshape(count, -1)
        return np.concatenate([means, contrasts], axis=1).astype(np.float32)

    def stream(self, batch: int) -> slots.Stream:
        """Make slots for batches that are embedded at once, as on a GPU."""
        shape = self.space.preprocess.shape
        return slots.Stream([slots.HostSlot(self.embed, batch, shape) for _ in range(2)])

    def _misbehave(self, batch: NDArray[np.uint8] | NDArray[np.float32]) -> None:
        if self.behaviour.delay_s:
            self._stopped.wait(self.behaviour.delay_s * len(batch))
        if self.behaviour.fatal_rgb is not None:
            color = np.array(self.behaviour.fatal_rgb, batch.dtype)[:, None, None]
            if (np.abs(batch.astype(np.int16) - color) <= 2).all(axis=(1, 2, 3)).any():
                os.kill(os.getpid(), signal.SIGKILL)


def load(space: Space, settings: Settings) -> FakeBackbone:
    """Make the fake of a space, with the behaviour in its weights file. Raises WeightsUnavailable."""
    if space.weights_digest == FAKE_DIGEST:
        return FakeBackbone(space)
    path = files.below(settings.weights_dir, space.weights)
    if path is None or files.digest(path) != space.weights_digest:
        raise errors.WeightsUnavailable(f"The behaviour {space.weights!r} is missing or changed.")
    try:
        said = json.loads(path.read_text())
        fatal = said.get("fatal_rgb")
        return FakeBackbone(space, Behaviour(float(said.get("delay_s", 0)), tuple(fatal) if fatal else None))
    except (ValueError, AttributeError, TypeError) as error:
        raise errors.WeightsUnavailable(f"The behaviour {space.weights!r} cannot be read: {error}") from error


def fake_space(weights: str = "DEFAULT", weights_dir: Path = Path()) -> Space:
    """Return the space of the fake backbone."""
    return catalog.resolve_space(catalog.FAKE_BACKBONE, weights, Precision.EXACT, weights_dir)
