"""Neighbors without their copies: each near-duplicate is listed under the better neighbor that it is a copy of.

The rule is that of duplicates (see rule). A neighbor is compared with those before it that have a rank, so there are
no chains: a copy of a copy that is not within the rule of the ranked one has a rank of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from imagekin_worker.analysis import hashes, rule
from imagekin_worker.analysis.rule import Pictures, Rules, Signs

DEFAULT_RULES = Rules()
# Neighbors whose directions are read at a time.
BLOCK = 1024

Directions = Callable[[slice], NDArray[np.float64]]
"""Returns neighbors (m, dim) as directions of length 1 in the view that they are compared in."""


class Collapse:
    """Takes neighbors in their order and keeps the first `most` that are not copies of better ones.

    `threshold`: the cosine from which on two images are near-duplicates; `floor`: the lowest that may matter (see
    rule). `contents` (n,): the bytes' hashes. `same` and `apart`: pairs of contents that verdicts are on, each both
    ways round.
    """

    def __init__(
        self,
        contents: Sequence[str],
        pictures: Pictures,
        threshold: float,
        floor: float,
        *,
        most: int,
        same: Collection[tuple[str, str]] = (),
        apart: Collection[tuple[str, str]] = (),
        rules: Rules = DEFAULT_RULES,
    ) -> None:
        self._contents, self._pictures, self._rules = contents, pictures, rules
        self._threshold, self._floor, self._most = threshold, floor, most
        self._same, self._apart = same, apart

    def groups(self, directions: Directions) -> list[tuple[int, list[int]]]:
        """Return the neighbors that have a rank, by index, each with its copies, in their order."""
        found: list[tuple[int, list[int]]] = []
        ranked = np.empty((0, 0))
        for start in range(0, len(self._contents), BLOCK):
            block = directions(slice(start, min(start + BLOCK, len(self._contents))))
            if not start:
                ranked = np.empty((self._most, block.shape[1]))
            for at, direction in enumerate(block, start):
                leaders = np.array([leader for leader, _ in found], np.int64)
                place = self._copied(at, leaders, ranked[: len(found)] @ direction)
                if place is not None:
                    found[place][1].append(at)
                elif len(found) < self._most:
                    ranked[len(found)] = direction
                    found.append((at, []))
        return found

    def _copied(self, at: int, leaders: NDArray[np.int64], cosines: NDArray[np.float64]) -> int | None:
        """Return the place of the best ranked one that the image is a copy of."""
        mine, rules = self._contents[at], self._rules
        theirs = [self._contents[leader] for leader in leaders]
        apart = np.array([(mine, other) in self._apart for other in theirs], bool) if self._apart else None
        sure = cosines >= self._threshold
        sure |= np.array([other == mine or (mine, other) in self._same for other in theirs], bool)
        if apart is not None:
            sure &= ~apart
        # what a look at the pictures could only confirm needs none
        first = int(np.argmax(sure)) if sure.any() else len(leaders)
        bits = hashes.distances(self._pictures.hashes[leaders[:first]], self._pictures.hashes[at])
        mirror = hashes.distances(self._pictures.hashes[leaders[:first]], self._pictures.mirrors[at])
        near = (bits <= rules.same_bits) | ((mirror <= rules.mirrored_bits) & (mirror < bits))
        near |= (bits <= rules.cut_out_bits) & (cosines[:first] >= self._floor)
        if apart is not None:
            near &= ~apart[:first]
        asked = np.flatnonzero(near)
        if len(asked):
            left, right = leaders[asked], np.full(len(asked), at)
            whole, mirrored, cut_out = rule.taken(
                left, right, cosines[asked], self._pictures, self._threshold, self._floor, rules
            )
            none = np.zeros(len(asked), bool)
            signs = Signs(left, right, cosines[asked], whole, mirrored, cut_out, none)
            reasons = rule.reasons(signs, bits[asked], mirror[asked], none, self._threshold, rules, ~none)
            confirmed = [place for place, reason in zip(asked.tolist(), reasons, strict=True) if reason is not None]
            if confirmed:
                return confirmed[0]
        return first if first < len(leaders) else None
