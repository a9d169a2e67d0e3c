"""Near-duplicates: three signs, a reason for each pair, and groups with the image to keep.

The network's cosine finds crops, marks and mirror images; the perceptual hash finds copies in other sizes and
encodings, gray and blurred ones; each alone is wrong now and then, so gray thumbnails confirm. The cosine's threshold
depends on the collection, as in Cleanlab: 1 - 0.13 x the median distance of images to their nearest one of other
content.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imagekin import errors
from imagekin_worker.analysis import findings, hashes, neighborhoods, pairs, rule, stepper
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.findings import Contents, Found
from imagekin_worker.analysis.groups import Images
from imagekin_worker.analysis.neighborhoods import ListedPairs, Memory, Neighborhoods
from imagekin_worker.analysis.rule import Rules, Signs, Thumbnails
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.matrix.view import View

# Up to so many images the median is that of all; beyond, that of a sample spread over them, whose error is 1 to 2 %.
ALL_ROWS, SAMPLED_ROWS = rule.ALL_ROWS, 4_000
# Nearest images that are looked through for one of other content.
NEAREST = 8
DEFAULT_RULES = Rules()
# Signs of so many pairs are taken at a time: two pictures of 2304 bytes each.
SIGNED_PAIRS = 1024
# The share of the work that each phase is, about: where all rows are listed, and where a sample is.
_LISTED_SHARES = {"nearest": 0.8, "pairs": 0.05, "hashes": 0.1, "signs": 0.05}
_SHARES = {"nearest": 0.25, "pairs": 0.6, "hashes": 0.1, "signs": 0.05}
_PHASES = (*_SHARES, "done")

Work = Neighborhoods | pairs.Nearest | ListedPairs | pairs.Pairs | hashes.HashPairs
"""What a phase works on."""


@dataclass(frozen=True)
class Verdict:
    """A person's verdict on two contents (the bytes' hashes)."""

    first: str
    second: str
    same: bool


@dataclass(frozen=True)
class Other:
    """Another collection of the same space to compare with: raw vectors and images; its rows follow ours."""

    rows: np.ndarray
    images: Images


class Duplicates(Stepper):
    """Finds the near-duplicates among raw vectors `rows` (n, dim), in steps.

    `images` says what is known about them. `threshold`: a cosine in `view` instead of the collection's own. `against`:
    pairs are between ours and the other collection's images. `between` (n,): only pairs whose values differ. `verdicts`
    are obeyed. Lists of the nearest rows are taken from `memory`; those of at most `ALL_ROWS` images are made where
    they are missing, and left there. Memory: `memory_budget_bytes` for the rows, the same for the pairs, and about 200
    bytes an image. Raises InvalidRequest for arrays that do not fit, JobError for more pairs than the memory allows.
    """

    def __init__(
        self,
        rows: np.ndarray,
        view: View,
        images: Images,
        *,
        thumbnails: Thumbnails,
        memory_budget_bytes: int,
        folder: Path,
        threshold: float | None = None,
        against: Other | None = None,
        between: Sequence[object] | None = None,
        verdicts: Iterable[Verdict] = (),
        memory: Memory | None = None,
        threads: int = 1,
        rules: Rules = DEFAULT_RULES,
    ) -> None:
        if len(images) != len(rows) or (between is not None and len(between) != len(rows)):
            raise errors.InvalidRequest("There must be one image for each vector.")
        if threshold is not None and not 0 < threshold <= 1:
            raise errors.InvalidRequest("A threshold must be above 0 and at most 1.")
        self._n, self._dim = rows.shape
        self._rules, self._thumbnails, self._memory = rules, thumbnails, memory
        self._room: dict[str, Any] = {"memory_budget_bytes": memory_budget_bytes, "folder": folder, "threads": threads}
        self._given = threshold
        self._between = None if between is None else np.unique([repr(one) for one in between], return_inverse=True)[1]
        self._images = images if against is None else images.joined(against.images)
        self._start = None if against is None else self._n
        self._contents = findings.contents_of(self._images, self._n)
        own = np.count_nonzero(self._contents.kept < self._n)
        # compared by the first image of each content, in their order, so that lists are those of a search for outliers
        first = self._contents.first[:own]
        order = np.argsort(first)
        self._ours, self._theirs = self._contents.kept[:own][order], self._contents.kept[own:]
        self._number = np.argsort(order)
        self._source = ViewedBlocks(Blocks(rows, None if own == self._n else first[order]), view)
        self._other = None if against is None else ViewedBlocks(Blocks(against.rows, self._theirs - self._n), view)
        self._verdicts = _verdicts(verdicts, self._contents, self._start)
        self._few = own <= ALL_ROWS
        self._queries = np.arange(own)
        if not self._few:
            self._queries = np.unique(np.linspace(0, own - 1, SAMPLED_ROWS).astype(np.int64))
        self._phase = "nearest"
        self._work: Work | None = None
        self._median: float | None = None
        self._nearest = np.zeros(0, np.float32)
        self._signs = Signs(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0))

    def restore(self, state: bytes) -> None:
        """Continue from `state` with the same vectors, images and arguments; raises JobError if it is of others."""
        scalars, arrays = stepper.unpacked(state, (len(self._images), self._dim))
        self._phase, self._median = scalars["phase"], scalars["median"]
        self._nearest = arrays.pop("nearest")
        work = arrays.pop("work").tobytes()
        self._signs = Signs(**arrays)
        self._work = self._resumed(work, listed=scalars["listed"]) if work else None

    def state(self) -> bytes:
        """Return all progress: at most 28 bytes a pair, and 128 an image in the phase `nearest`."""
        about = {
            "shape": [len(self._images), self._dim],
            "phase": self._phase,
            "median": self._median,
            "listed": isinstance(self._work, ListedPairs),
        }
        work = np.frombuffer(self._work.state() if self._work is not None else b"", np.uint8)
        return stepper.packed(about, {"nearest": self._nearest, "work": work, **vars(self._signs)})

    @property
    def finished(self) -> bool:
        return self._phase == "done"

    @property
    def phase(self) -> str:
        """The current phase: nearest, pairs, hashes, signs, done."""
        return self._phase

    @property
    def fraction(self) -> float:
        shares = _LISTED_SHARES if self._few else _SHARES
        done = sum(shares[name] for name in _PHASES[: _PHASES.index(self._phase)])
        if self._phase == "signs":
            part = len(self._signs.correlations) / max(1, len(self._signs.first))
        else:
            part = 0.0 if self._work is None else self._work.fraction
        return min(1.0, done + shares.get(self._phase, 0.0) * part)

    @property
    def threshold(self) -> float:
        """The cosine from which on two images are near-duplicates; known after the phase `nearest`."""
        if self._given is not None:
            return self._given
        return rule.line(self._median, self._rules)

    def result(self) -> Found:
        """Return what was found; raises JobError before `advance` has returned True."""
        if not self.finished:
            raise errors.JobError("The search for duplicates is not finished.")
        return findings.of(
            findings.Search(
                self._images,
                self._contents,
                self._signs,
                self.threshold,
                self._median,
                self._nearest,
                self._verdicts.apart,
                self._between,
                self._start,
            ),
            self._rules,
        )

    def _step(self) -> None:
        if self._phase == "signs":
            self._take_signs()
            return
        if self._work is None:
            self._work = self._begun()
        if not self._work.advance(lambda: True):
            return
        done, self._work = self._work, None
        self._phase = _PHASES[_PHASES.index(self._phase) + 1]
        if isinstance(done, Neighborhoods):
            lists = done.result()
            self._measure(lists.places[:, :NEAREST], lists.cosines[:, :NEAREST])
            if self._other is None:
                self._work = ListedPairs(self._source, self._floor, lists, **self._room)
        elif isinstance(done, pairs.Nearest):
            self._measure(*done.result())
        elif isinstance(done, ListedPairs | pairs.Pairs):
            first, second, cosines = done.result()
            ours, theirs = self._ours[first], (self._ours if self._other is None else self._theirs)[second]
            self._signs = Signs(np.minimum(ours, theirs), np.maximum(ours, theirs), cosines)
        else:
            self._join(done.result())

    def _begun(self) -> Work:
        if self._phase == "nearest":
            if self._few:
                return Neighborhoods(self._source, memory=self._memory, **self._room)
            return pairs.Nearest(self._source, self._queries, NEAREST, threads=self._room["threads"])
        if self._phase == "pairs":
            lists = neighborhoods.recalled(self._source, self._memory) if self._other is None else None
            if lists is not None:
                return ListedPairs(self._source, self._floor, lists, **self._room)
            return pairs.Pairs(self._source, self._floor, against=self._other, **self._room)
        return hashes.HashPairs(
            self._images.hashes[self._contents.kept], self._rules.look_bits, most=self._most, start=self._their_start
        )

    def _resumed(self, work: bytes, *, listed: bool) -> Work:
        if self._phase == "nearest":
            if self._few:
                return Neighborhoods.resume(self._source, work, memory=self._memory, **self._room)
            return pairs.Nearest.resume(self._source, self._queries, work, threads=self._room["threads"])
        if self._phase == "pairs":
            if listed:
                return ListedPairs.resume(self._source, work, **self._room)
            return pairs.Pairs.resume(self._source, work, against=self._other, **self._room)
        return hashes.HashPairs.resume(
            self._images.hashes[self._contents.kept], work, most=self._most, start=self._their_start
        )

    @property
    def _most(self) -> int:
        return pairs.most_pairs(self._room["memory_budget_bytes"])

    @property
    def _their_start(self) -> int | None:
        """Where the other collection's begin among the kept images."""
        return None if self._start is None else len(self._ours)

    @property
    def _floor(self) -> float:
        """The lowest cosine of a pair that may matter."""
        return rule.floor(self._median, self.threshold, len(self._ours), self._rules)

    def _measure(self, places: NDArray[np.int32], cosines: NDArray[np.float32]) -> None:
        """Take the median distance to the nearest image of other content, by the nearest (m, k) of the queries."""
        if not len(places) or not places.shape[1]:
            return
        own = self._ours[self._queries]
        there = self._ours[places]
        bits = hashes.distances(self._images.hashes[own][:, None], self._images.hashes[there])
        mirrored = hashes.distances(self._images.hashes[own][:, None], self._images.mirrors[there])
        self._nearest = cosines[:, 0]
        self._median = rule.median_distance(cosines, np.minimum(bits, mirrored), self._rules)

    def _join(self, near: np.ndarray) -> None:
        """Add the pairs that the hash found, and those of verdicts, to the cosine's."""
        n = len(self._images)
        kept = self._contents.kept
        added = np.concatenate([kept[near].reshape(-1, 2), self._verdicts.together]).astype(np.int64)
        known = self._signs.first * n + self._signs.second
        codes = np.unique(added[:, 0] * n + added[:, 1])
        codes = codes[~np.isin(codes, known)]
        signs = self._signs
        joined = np.concatenate([known, codes])
        order = np.argsort(joined, kind="stable")
        self._signs = Signs(
            joined[order] // n, joined[order] % n, np.concatenate([signs.cosines, np.full(len(codes), np.nan)])[order]
        )
        together = self._verdicts.together
        self._signs.verdicts = np.isin(joined[order], together[:, 0] * n + together[:, 1])

    def _take_signs(self) -> None:
        """Compute cosines and correlations of the next pairs, as far as a rule needs them."""
        signs, rules = self._signs, self._rules
        start = len(signs.correlations)
        part = slice(start, start + SIGNED_PAIRS)
        first, second, cosines = signs.first[part], signs.second[part], signs.cosines[part]
        unknown = np.isnan(cosines)
        cosines[unknown] = self._cosines(first[unknown], second[unknown])
        pictures = rule.Pictures(self._images.hashes, self._images.mirrors, self._thumbnails)
        whole, mirrored, cut_out = rule.taken(first, second, cosines, pictures, self.threshold, self._floor, rules)
        signs.correlations = np.concatenate([signs.correlations, whole])
        signs.mirrored = np.concatenate([signs.mirrored, mirrored])
        signs.cut_out = np.concatenate([signs.cut_out, cut_out])
        if len(signs.correlations) >= len(signs.first):
            self._phase = "done"

    def _cosines(self, first: np.ndarray, second: np.ndarray) -> NDArray[np.float64]:
        kept = self._contents.kept
        left = self._number[np.searchsorted(kept, first)]
        if self._other is None:
            return pairs.cosines(self._source, self._source, left, self._number[np.searchsorted(kept, second)])
        return pairs.cosines(self._source, self._other, left, np.searchsorted(self._theirs, second))


@dataclass(frozen=True)
class _Verdicts:
    """Kept images that belong together (m, 2), and those that must stay apart, the smaller first."""

    together: NDArray[np.int64]
    apart: frozenset[tuple[int, int]]


def _verdicts(verdicts: Iterable[Verdict], contents: Contents, start: int | None) -> _Verdicts:
    together: set[tuple[int, int]] = set()
    apart: set[tuple[int, int]] = set()
    for verdict in verdicts:
        for first in contents.by_hash.get(verdict.first, ()):
            for second in contents.by_hash.get(verdict.second, ()):
                across = start is None or min(first, second) < start <= max(first, second)
                if first != second and across:
                    (together if verdict.same else apart).add((min(first, second), max(first, second)))
    return _Verdicts(np.array(sorted(together - apart), np.int64).reshape(-1, 2), frozenset(apart))
