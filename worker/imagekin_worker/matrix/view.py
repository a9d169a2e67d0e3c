"""Views: how vectors are transformed before they are compared.

`raw` compares them as the network made them. `calibrated` spreads out vectors that the network crowds together:

    x' = sign(x) |x|^0.4,  x' / ||x'||,  minus the mean m of the collection's x',  then cosine

So every collection has a view of its own, made from all its vectors in one pass (`Accumulator`). Power and mean are the
"power normalisation" and "centering" of image retrieval (Perronnin et al. 2010, Jégou and Chum 2012); the exponent and
the order of the steps gave the best results on photographs.

x' does not depend on the mean. So a matrix holds x', and a new mean costs one matrix-vector product (`View.terms`):

    cosine(x' - m, q' - m) = (x'.q' - x'.m - q'.m + m.m) / (||x' - m|| ||q' - m||)

x' is computed in float64 and rounded to float32, in which matrices and their files keep it: so what is kept is what the
formula means, to the last bit, and a vector can be taken out of the mean again. Scores of the rounded and of the exact
x' differ by some 1e-8.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from imagekin import catalog, errors
from imagekin_worker.matrix import lengths

CALIBRATED, RAW = "calibrated", "raw"
EXPONENT = 0.4
# A mean of fewer images says little, so they are compared as they are.
LEAST_IMAGES = 32
# The mean is made anew when the number of images has grown or shrunk by this share.
RENEWED_BY = 0.1
# Sums of x' count in units of 2^-36, as whole numbers: their order does not matter, and 100 million images fit.
UNITS = float(1 << 36)
# Rows that are summed at a time; each takes dim * 24 bytes meanwhile.
SUMMED_ROWS = 512
# Rows whose powers are taken at a time: they stay in a core's cache, which makes it five times as fast.
POWERED_ROWS = 64
# A logarithm of 0 takes ten times as long as one of this.
SMALLEST = 1e-300
# Below this square of a length, 1 - 2 x'.m + m.m has lost too many digits.
CLOSE = 0.05

_SAVED = struct.Struct("<I")


class Terms(NamedTuple):
    """What the centered cosine needs of vectors x' besides products: x'.m and 1 / ||x' - m||, each (n,) float64.

    The reciprocal is 0 for a vector without direction, which scores 0 against everything.
    """

    products: NDArray[np.float64]
    reciprocals: NDArray[np.float64]


class Queries(NamedTuple):
    """Queries for a scan over x': score = (x'.vector - bias) * reciprocal of x'. (q, dim) float32 and (q,) float64."""

    vectors: NDArray[np.float32]
    biases: NDArray[np.float64]


@dataclass(frozen=True)
class View:
    """A way to compare the vectors of one space; `mean` (dim,) float32 is None for `raw`.

    `images` is the number of images that the mean was made from, or that existed when `raw` was chosen.
    """

    name: str
    space: str
    dim: int
    images: int
    mean: NDArray[np.float32] | None = None
    exponent: float = EXPONENT

    @cached_property
    def id(self) -> str:
        """Return 16 hex digits that are equal if scores can be compared: a digest of space, exponent and mean."""
        about = self.space if self.mean is None else f"{self.space} {self.exponent}"
        digest = hashlib.blake2b(f"{self.name} {about} ".encode(), digest_size=8)
        if self.mean is not None:
            digest.update(self.mean.astype("<f4").tobytes())
        return digest.hexdigest()

    def described(self) -> dict[str, Any]:
        """Return the view's description for results."""
        return {"name": self.name, "id": self.id, "images": self.images}

    def transform(self, vectors: np.ndarray) -> NDArray[np.float32]:
        """Return vectors (n, dim) in this view, float32 of length 1; one without direction becomes zeros.

        The dot product of two of them is their score, up to float32's rounding (about 1e-7).
        """
        return self._centered(self.powered(vectors), np.float32)

    def exact(self, vectors: np.ndarray) -> NDArray[np.float64]:
        """Return vectors (n, dim) in this view in float64, to rank candidates."""
        return self._centered(self.powered(vectors, np.float64), np.float64)

    def transform_query(self, vector: np.ndarray) -> NDArray[np.float64]:
        """Return one vector (dim,) in this view in float64."""
        return self.exact(np.asarray(vector)[None])[0]

    def directions(self, powered: np.ndarray) -> NDArray[np.float64]:
        """Return x' (n, dim) as `exact` returns the vectors that it was made of."""
        return self._centered(powered.astype(np.float64), np.float64)

    def powered(self, vectors: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Return x' (n, dim), of length 1, without subtracting the mean; for `raw`, the vectors with length 1.

        Raises InvalidRequest if dimensions differ.
        """
        vectors = np.asarray(vectors)
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise errors.InvalidRequest(f"Expected vectors of {self.dim} dimensions, got an array {vectors.shape}.")
        return powered(vectors, self.exponent if self.mean is not None else 1.0, dtype)

    def terms(self, powered: np.ndarray) -> Terms:
        """Return the terms that scores of x' (n, dim) need besides products: one matrix-vector product."""
        there = np.asarray(powered.any(1))
        if self.mean is None:
            return Terms(np.zeros(len(powered)), there.astype(np.float64))
        # in float32 where x' is, as a copy in float64 would take longer than the product
        products = (powered @ self.mean.astype(powered.dtype)).astype(np.float64)
        # x' has length 1
        squares = 1 - 2 * products + self._mean_square
        close = squares < CLOSE
        if close.any():
            squares[close] = lengths.of(powered[close] - self.mean.astype(np.float64)) ** 2
        return Terms(products, np.where(there, lengths.reciprocals(np.sqrt(squares)), 0))

    def scores(self, products: np.ndarray, rows: Terms, queries: Terms) -> NDArray[np.float64]:
        """Return the centered cosines (q, n) from the products x'.q' (q, n) and the terms of both sides."""
        centered = products - rows.products - queries.products[:, None] + self._mean_square
        return centered * rows.reciprocals * queries.reciprocals[:, None]

    def queries(self, vectors: np.ndarray) -> Queries:
        """Return raw query vectors (q, dim) in the form that a scan over x' expects."""
        return self.scanned(self.exact(vectors))

    def scanned(self, centered: np.ndarray) -> Queries:
        """Return directions (q, dim) in this view, as of a refined search, in the form that a scan over x' expects."""
        biases = np.zeros(len(centered)) if self.mean is None else centered @ self.mean.astype(np.float64)
        return Queries(centered.astype(np.float32), biases)

    def renewal_due(self, images: int) -> bool:
        """Return whether a collection that now has this number of images needs a new view."""
        if (images < LEAST_IMAGES) != (self.mean is None):
            return not catalog.is_adapted(self.space)
        return self.mean is not None and abs(images - self.images) >= RENEWED_BY * self.images

    def saved(self) -> bytes:
        """Return the view as 4 dim bytes and a few more."""
        about = json.dumps(
            {
                "name": self.name,
                "space": self.space,
                "dim": self.dim,
                "images": self.images,
                "exponent": self.exponent,
            }
        ).encode()
        mean = b"" if self.mean is None else self.mean.astype("<f4").tobytes()
        return _SAVED.pack(len(about)) + about + mean

    @classmethod
    def load(cls, saved: bytes) -> View:
        """Return the view that `saved` packed; raises JobError if the bytes are something else."""
        try:
            (length,) = _SAVED.unpack_from(saved)
            about = json.loads(saved[_SAVED.size : _SAVED.size + length])
            mean = np.frombuffer(saved, "<f4", offset=_SAVED.size + length).astype(np.float32)
            view = cls(mean=mean if len(mean) else None, **about)
        except (struct.error, ValueError, TypeError) as unreadable:
            raise errors.JobError("A saved view cannot be read.") from unreadable
        if view.mean is not None and len(view.mean) != view.dim:
            raise errors.JobError("A saved view cannot be read.")
        return view

    @cached_property
    def _mean_square(self) -> float:
        return 0.0 if self.mean is None else float((self.mean.astype(np.float64) ** 2).sum())

    def _centered(self, powered: np.ndarray, dtype: DTypeLike) -> np.ndarray:
        """Subtract the mean in place and return rows of length 1."""
        if self.mean is None:
            return powered
        lost = ~powered.any(1)
        powered -= self.mean.astype(dtype)
        powered *= lengths.inverted(powered)[:, None]
        powered[lost] = 0
        return powered


class Accumulator:
    """Makes the view of a collection from blocks of its vectors; images may be removed again.

    The same vectors make exactly the same view, in any blocks and any order.
    """

    def __init__(self, space: str, dim: int, *, exponent: float = EXPONENT) -> None:
        self.space, self.dim, self.exponent = space, dim, exponent
        self.images = 0
        self._sums = np.zeros(dim, np.int64)

    def add(self, vectors: np.ndarray) -> None:
        """Count vectors (n, dim) in; raises InvalidRequest if dimensions differ or a number is not finite."""
        self.count(self.powered(vectors))

    def remove(self, vectors: np.ndarray) -> None:
        """Take out vectors (n, dim) that were counted in."""
        self.discount(self.powered(vectors))

    def powered(self, vectors: np.ndarray) -> NDArray[np.float32]:
        """Return x' (n, dim) of vectors (n, dim); raises InvalidRequest if dimensions differ or one is not finite."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim:
            raise errors.InvalidRequest(f"Expected vectors of {self.dim} dimensions, got an array {vectors.shape}.")
        found = powered(vectors, self.exponent, np.float32)
        if not np.isfinite(lengths.of(found)).all():
            raise errors.InvalidRequest("A vector has NaN, infinite or huge numbers.")
        return found

    def count(self, powered: NDArray[np.float32]) -> None:
        """Count x' (n, dim) in, as `powered` returns them."""
        self._sums += _summed(powered)
        self.images += len(powered)

    def discount(self, powered: NDArray[np.float32]) -> None:
        """Take out x' (n, dim) that were counted in."""
        self._sums -= _summed(powered)
        self.images -= len(powered)

    def merge(self, other: Accumulator) -> None:
        """Count in all that another one counted."""
        self._sums += other._sums
        self.images += other.images

    def view(self, name: str = CALIBRATED) -> View:
        """Return the view of the added vectors: `raw` if it was asked for or there are too few images."""
        # an adapted space has the view in it
        if name == RAW or self.images < LEAST_IMAGES or catalog.is_adapted(self.space):
            return raw(self.space, self.dim, self.images)
        mean = (self._sums / (UNITS * self.images)).astype(np.float32)
        return View(CALIBRATED, self.space, self.dim, self.images, mean, self.exponent)

    def state(self) -> bytes:
        """Return all progress, 8 dim bytes and a few more."""
        about = json.dumps({"space": self.space, "dim": self.dim, "images": self.images, "exponent": self.exponent})
        return _SAVED.pack(len(about)) + about.encode() + self._sums.astype("<i8").tobytes()

    @classmethod
    def resume(cls, state: bytes) -> Accumulator:
        """Continue from `state`."""
        (length,) = _SAVED.unpack_from(state)
        about = json.loads(state[_SAVED.size : _SAVED.size + length])
        images = about.pop("images")
        self = cls(**about)
        self.images = images
        self._sums = np.frombuffer(state, "<i8", offset=_SAVED.size + length).astype(np.int64)
        return self


def _summed(powered: NDArray[np.float32]) -> NDArray[np.int64]:
    sums = np.zeros(powered.shape[1], np.int64)
    for start in range(0, len(powered), SUMMED_ROWS):
        scaled = powered[start : start + SUMMED_ROWS] * UNITS
        sums += np.rint(scaled, out=scaled).astype(np.int64).sum(0)
    return sums


def of(vectors: np.ndarray, space: str, name: str = CALIBRATED) -> View:
    """Return the view of all vectors (n, dim) of a collection, read in blocks."""
    made = Accumulator(space, vectors.shape[1])
    if name == RAW:
        return raw(space, vectors.shape[1], len(vectors))
    for start in range(0, len(vectors), SUMMED_ROWS):
        made.add(vectors[start : start + SUMMED_ROWS])
    return made.view(name)


def raw(space: str, dim: int, images: int) -> View:
    """Return the view that compares vectors as the network made them."""
    return View(RAW, space, dim, images)


def powered(vectors: ArrayLike, exponent: float, dtype: DTypeLike) -> np.ndarray:
    """Return sign(x) |x|^exponent (n, dim), each row with length 1; a row of zeros stays one.

    |x| is measured in its row's largest, so that no power leaves the range of numbers. For an exponent other than 1 the
    numbers are those of float32, in any `dtype`.
    """
    given = np.asarray(vectors)
    if exponent == 1:
        return _unit(np.array(given, dtype))
    found = np.empty(given.shape, dtype)
    for start in range(0, len(given), POWERED_ROWS):
        block = slice(start, start + POWERED_ROWS)
        found[block] = _raised(given[block].astype(np.float64), exponent).astype(np.float32)
    return found


def _raised(rows: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    sizes = _measured(np.abs(rows))
    np.log(np.maximum(sizes, SMALLEST, out=sizes), out=sizes)
    sizes *= exponent
    np.exp(sizes, out=sizes)
    sizes *= np.sign(rows)
    sizes *= lengths.inverted(sizes)[:, None]
    return sizes


def _unit(rows: np.ndarray) -> np.ndarray:
    rows = _measured(rows)
    rows *= lengths.inverted(rows)[:, None]
    return rows


def _measured(rows: np.ndarray) -> np.ndarray:
    """Return rows in place, each measured in its largest number."""
    largest = np.abs(rows).max(1, initial=0)
    with np.errstate(invalid="ignore"):
        rows *= np.divide(1, largest, out=np.zeros_like(largest), where=largest >= lengths.SHORTEST)[:, None]
    return rows
