"""The signs of many stored thumbnails, taken in steps; images without one get signs that match no others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from imagekin_worker.analysis import hashes, stepper
from imagekin_worker.analysis.hashes import Print
from imagekin_worker.analysis.stepper import Stepper

# Thumbnails of a step, some tenths of a second.
TAKEN = 256

T = TypeVar("T")

Stored = Callable[[NDArray[np.int64]], Sequence[bytes | None]]
"""Returns the JPEG thumbnails (m,) of images by their indices, None for a missing one."""


class Prints(Stepper):
    """Takes the perceptual hashes of images and of their mirror images, in steps; `names` tell the images apart.

    An image without a thumbnail that can be decoded gets a drawn hash: some 32 bits from any other.
    """

    def __init__(self, names: Sequence[str], stored: Stored) -> None:
        self._names, self._stored = names, stored
        self._at = 0
        self._hashes, self._mirrors = np.zeros((2, len(names)), np.uint64)
        self._seen = np.zeros(len(names), np.bool_)

    def restore(self, state: bytes) -> None:
        """Continue from `state` with the same images; raises JobError when it belongs to others."""
        scalars, arrays = stepper.unpacked(state, (len(self._names), hashes.BITS))
        self._at = scalars["at"]
        taken = slice(0, self._at)
        self._hashes[taken], self._mirrors[taken] = arrays["hashes"], arrays["mirrors"]
        self._seen[taken] = arrays["seen"]

    def state(self) -> bytes:
        """Return all progress, 17 bytes an image."""
        arrays = {"hashes": self._hashes, "mirrors": self._mirrors, "seen": self._seen}
        about = {"shape": [len(self._names), hashes.BITS], "at": self._at}
        return stepper.packed(about, {name: array[: self._at] for name, array in arrays.items()})

    @property
    def finished(self) -> bool:
        return self._at >= len(self._names)

    @property
    def fraction(self) -> float:
        return self._at / max(1, len(self._names))

    def result(self) -> tuple[NDArray[np.uint64], NDArray[np.uint64], NDArray[np.bool_]]:
        """Return the hashes and the mirrors' hashes (n,), and which images have a picture (n,)."""
        return self._hashes, self._mirrors, self._seen

    def grays(self, index: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return the gray pictures (m, 2304) of images by their indices; a missing one is drawn."""
        wanted, place = np.unique(index, return_inverse=True)
        found = np.empty((len(wanted), hashes.GRAY_DIM), np.uint8)
        for start in range(0, len(wanted), TAKEN):
            some = wanted[start : start + TAKEN]
            for at, (row, jpeg) in enumerate(zip(some.tolist(), self._stored(some), strict=True), start):
                gray = _decoded(hashes.gray_of_thumbnail, jpeg)
                found[at] = _drawn(self._names[int(row)]).gray if gray is None else gray
        return found[place]

    def _step(self) -> None:
        index = np.arange(self._at, min(self._at + TAKEN, len(self._names)))
        for row, jpeg in zip(index.tolist(), self._stored(index), strict=True):
            seen = _decoded(hashes.of_thumbnail, jpeg)
            sign = _drawn(self._names[row]) if seen is None else seen
            self._hashes[row], self._mirrors[row], self._seen[row] = sign.hash, sign.mirrored, seen is not None
        self._at += len(index)


def _decoded(take: Callable[[bytes], T], jpeg: bytes | None) -> T | None:
    if not jpeg:
        return None
    try:
        return take(jpeg)
    except OSError:
        return None


def _drawn(name: str) -> Print:
    """Return the signs of an image that cannot be seen, drawn by its name."""
    digest = hashlib.blake2b(name.encode(), digest_size=24).digest()
    code, mirror, seed = (int.from_bytes(digest[at : at + 8]) for at in (0, 8, 16))
    return Print(code, mirror, np.random.default_rng(seed).integers(0, 256, hashes.GRAY_DIM, np.uint8))
