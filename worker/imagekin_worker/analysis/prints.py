"""The signs of many stored thumbnails, taken in steps or known; images without one get signs that match no others."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from imagekin.store import signs
from imagekin_worker.analysis import hashes, stepper
from imagekin_worker.analysis.hashes import Print
from imagekin_worker.analysis.stepper import Stepper

# Thumbnails of a step, some tenths of a second.
TAKEN = 256

T = TypeVar("T")

Stored = Callable[[NDArray[np.int64]], Sequence[bytes | None]]
"""Returns the JPEG thumbnails (m,) of images by their indices, None for a missing one."""


class Memory(Protocol):
    """Where the hashes of thumbnails are kept, as imagekin.store.signs has them, by the images' indices (m,)."""

    def known(self, index: NDArray[np.int64]) -> NDArray[np.void]:
        """Return their records (m,)."""
        ...

    def keep(self, index: NDArray[np.int64], records: NDArray[np.void]) -> None:
        """Keep their records (m,)."""
        ...


class Prints(Stepper):
    """Takes the perceptual hashes of images and of their mirror images, in steps; `names` tell the images apart.

    Those that `memory` knows are not taken again. An image without a thumbnail that can be decoded gets a drawn hash:
    some 32 bits from any other.
    """

    def __init__(self, names: Sequence[str], stored: Stored, memory: Memory | None = None) -> None:
        self._names, self._stored, self._memory = names, stored, memory
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
        records = signs.unknown(len(index)) if self._memory is None else self._memory.known(index)
        missing = np.flatnonzero(records["state"] == signs.UNKNOWN)
        if len(missing):
            records[missing] = self._taken(index[missing])
            if self._memory is not None:
                self._memory.keep(index[missing], records[missing])
        seen = records["state"] == signs.SEEN
        self._hashes[index], self._mirrors[index], self._seen[index] = records["hash"], records["mirror"], seen
        for row in index[~seen].tolist():
            drawn = _drawn(self._names[int(row)])
            self._hashes[row], self._mirrors[row] = drawn.hash, drawn.mirrored
        self._at += len(index)

    def _taken(self, index: NDArray[np.int64]) -> NDArray[np.void]:
        """Return the records (m,) of images, from their thumbnails."""
        found = signs.unknown(len(index))
        for at, jpeg in enumerate(self._stored(index)):
            seen = _decoded(hashes.of_thumbnail, jpeg)
            found[at] = (0, 0, signs.UNSEEN) if seen is None else (seen.hash, seen.mirrored, signs.SEEN)
        return found


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
