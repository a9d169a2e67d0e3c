"""Perceptual hashes and thumbnail correlation: signs of a copy that do not need the network.

The hash is `imagehash.phash` (64 bits: which of the lowest 8 x 8 frequencies of a 32 x 32 gray picture are above their
median). Both signs are taken from the stored thumbnail, so no picture is decoded again: at most two bits differ.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from imagekin_worker.analysis import pairs, stepper
from imagekin_worker.analysis.stepper import Stepper

BITS = 64
# Side of the gray picture that two images are correlated by.
SIDE = 48
GRAY_DIM = SIDE * SIDE
# A gray picture with a smaller standard deviation has nothing to correlate; two such are alike if their means are.
FLAT, ALIKE = 1.0, 3.0
# Comparisons of one step of a search for near hashes, and of one block of it (24 MB).
STEP_COMPARISONS, BLOCK_COMPARISONS = 100_000_000, 2_000_000
# What a bucket costs besides.
LEAST_COMPARISONS = 5000


class Print(NamedTuple):
    """The signs of one picture: its hash, the hash of its mirror image, and its gray picture (2304,) uint8."""

    hash: int
    mirrored: int
    gray: NDArray[np.uint8]


def of(image: Image.Image) -> Print:
    """Return the signs of a picture."""
    small = image.convert("L")
    return Print(phash(small), phash(ImageOps.mirror(small)), _gray(small))


def _gray(small: Image.Image) -> NDArray[np.uint8]:
    return np.asarray(small.resize((SIDE, SIDE), Image.Resampling.BOX)).reshape(-1)


def of_thumbnail(jpeg: bytes) -> Print:
    """Return the signs of a stored thumbnail; raises OSError if it cannot be decoded."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return of(image)


def gray_of_thumbnail(jpeg: bytes) -> NDArray[np.uint8]:
    """Return only the gray picture (2304,); raises OSError if it cannot be decoded."""
    with Image.open(io.BytesIO(jpeg), formats=["JPEG"]) as image:
        return _gray(image.convert("L"))


def phash(image: Image.Image) -> int:
    """Return the 64-bit hash, the first bit the highest, as `imagehash` writes it in hex."""
    return int.from_bytes(np.packbits(imagehash.phash(image).hash).tobytes(), "big")


def distances(first: np.ndarray, second: np.ndarray) -> NDArray[np.uint8]:
    """Return the number of bits (m,) in which hashes (m,) uint64 differ; the arguments are broadcast."""
    return np.bitwise_count(first ^ second)


def correlations(first: np.ndarray, second: np.ndarray) -> NDArray[np.float32]:
    """Return Pearson's correlation (m,) of gray pictures (m, 2304), row by row.

    Flat pictures (blank pages, black frames) have no correlation: two of the same brightness count 1, others 0.
    """
    first, second = first.astype(np.float32), second.astype(np.float32)
    means = first.mean(1), second.mean(1)
    first -= means[0][:, None]
    second -= means[1][:, None]
    spreads = np.sqrt(np.vecdot(first, first) / GRAY_DIM), np.sqrt(np.vecdot(second, second) / GRAY_DIM)
    flat = (spreads[0] < FLAT) | (spreads[1] < FLAT)
    alike = (spreads[0] < FLAT) & (spreads[1] < FLAT) & (np.abs(means[0] - means[1]) < ALIKE)
    found = np.vecdot(first, second) / GRAY_DIM / np.maximum(spreads[0] * spreads[1], FLAT * FLAT)
    return np.where(flat, alike, found).astype(np.float32)


class HashPairs(Stepper):
    """Finds all pairs of hashes (n,) uint64 that differ in at most `radius` bits, in steps.

    Exact: two such hashes agree in at least one of radius + 1 bands of bits (pigeonhole; Manku, Jain and Das Sarma
    2007), so only those that share a band are compared, block by block. With `start`, a pair is one of the first
    `start` hashes and one of the rest. Raises JobError for more than `most` pairs.
    """

    def __init__(self, hashes: np.ndarray, radius: int, *, most: int, start: int | None = None) -> None:
        self._hashes = np.ascontiguousarray(hashes, np.uint64)
        self._radius, self._most, self._start = radius, most, start
        edges = [round(BITS * band / (radius + 1)) for band in range(radius + 2)]
        self._keys = np.stack(
            [
                ((self._hashes >> np.uint64(low)) & np.uint64((1 << (high - low)) - 1)).astype(np.uint32)
                for low, high in pairwise(edges)
            ]
        )
        self._found = np.zeros((0, 2), np.int32)
        self._begin(band=0, bucket=0)

    @classmethod
    def resume(cls, hashes: np.ndarray, state: bytes, *, most: int, start: int | None = None) -> HashPairs:
        """Continue from `state` with the same hashes (n,); raises JobError if the state is of others."""
        scalars, arrays = stepper.unpacked(state, (len(hashes), BITS))
        self = cls(hashes, scalars["radius"], most=most, start=start)
        self._found = arrays["found"]
        self._begin(scalars["band"], scalars["bucket"])
        return self

    def state(self) -> bytes:
        """Return all progress; at most 8 bytes a pair."""
        about = {"shape": [len(self._hashes), BITS], "radius": self._radius}
        return stepper.packed(about | {"band": self._band, "bucket": self._bucket}, {"found": self._found})

    @property
    def finished(self) -> bool:
        return self._band > self._radius

    @property
    def fraction(self) -> float:
        return min(1.0, (self._band + self._bucket / max(1, len(self._bounds) - 1)) / (self._radius + 1))

    def result(self) -> NDArray[np.int32]:
        """Return the pairs (m, 2) in order, the smaller index first."""
        return self._found[np.lexsort((self._found[:, 1], self._found[:, 0]))]

    def _begin(self, band: int, bucket: int) -> None:
        """Move to a bucket of a band: the hashes that agree in it."""
        self._band, self._bucket = band, bucket
        if self.finished:
            return
        self._order = np.argsort(self._keys[band], kind="stable")
        ordered = self._keys[band][self._order]
        self._bounds = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1], True]) if len(ordered) else np.zeros(1)

    def _step(self) -> None:
        compared, found = 0, [self._found]
        last = len(self._bounds) - 1
        while self._bucket < last and compared < STEP_COMPARISONS:
            members = self._order[self._bounds[self._bucket] : self._bounds[self._bucket + 1]]
            if len(members) > 1:
                found.extend(self._near(members))
            compared += len(members) ** 2 + LEAST_COMPARISONS
            self._bucket += 1
        self._found = np.concatenate(found)
        pairs.check_count(len(self._found), self._most)
        if self._bucket >= last:
            self._begin(self._band + 1, 0)

    def _near(self, members: np.ndarray) -> Iterator[np.ndarray]:
        """Yield the near pairs of a bucket that no earlier band has yielded."""
        step = max(1, BLOCK_COMPARISONS // len(members))
        hashes = self._hashes[members]
        for at in range(0, len(members), step):
            near = distances(hashes[at : at + step, None], hashes[None, at:]) <= self._radius
            left, right = np.nonzero(near)
            # a stable order by band keeps the smaller index first
            pair = np.stack([members[left + at], members[right + at]], 1)[left < right].astype(np.int32)
            if self._start is not None:
                pair = pair[(pair[:, 0] < self._start) & (pair[:, 1] >= self._start)]
            for keys in self._keys[: self._band]:
                pair = pair[keys[pair[:, 0]] != keys[pair[:, 1]]]
            yield pair
