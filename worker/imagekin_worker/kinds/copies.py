"""Searches that list near-duplicates under the better neighbor (`collapse_duplicates`)."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy.orm import Session

from imagekin.store import images, verdicts
from imagekin_worker.analysis import hashes, rule
from imagekin_worker.analysis.collapse import DEFAULT_RULES, Collapse
from imagekin_worker.analysis.duplicates import NEAREST
from imagekin_worker.analysis.rule import Pictures
from imagekin_worker.context.process_state import Node
from imagekin_worker.kinds import signs
from imagekin_worker.matrix.indexed import Indexed
from imagekin_worker.matrix.neighbors import Matrix, Neighbor

# Neighbors that are looked at for a number of ranks: at first, times more while ranks are missing, and at most.
LOOKED_AT, MORE_LOOKED_AT, GROWTH, MOST_LOOKED_AT = 2, 50, 4, 20_000
# The median distance to the nearest image is that of all images if that takes fewer multiplications than this, some
# tenths of a second; otherwise of as many images as that allows, and of 200 at least.
MULTIPLICATIONS, LEAST_SAMPLED, SAMPLED_AT_ONCE = 2e10, 200, 256
# A median holds until the number of images has changed by a tenth; that of few images is taken again after each change.
FEW, CHANGED = 1000, 0.1

Find = Callable[[int], Sequence[Neighbor]]
"""Returns the best neighbors, at least this number of them if there are enough."""


@dataclass(frozen=True)
class Median:
    """The median distance of a matrix's images to their nearest one of other content, and when it was taken."""

    value: float | None
    images: int
    edits: int

    def holds(self, matrix: Matrix | Indexed) -> bool:
        """Return whether it is still that of the matrix."""
        if matrix.edits == self.edits:
            return True
        return self.images > FEW and abs(len(matrix) - self.images) <= CHANGED * self.images


_medians: weakref.WeakKeyDictionary[Matrix | Indexed, Median] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Ranked:
    """A neighbor with its copies, and of how many neighbors these were looked for among."""

    neighbors: list[Neighbor]
    copies: dict[str, list[Neighbor]]
    looked_at: int


def collapsed(
    node: Node, owner: str, matrix: Matrix | Indexed, find: Find, top_k: int, min_score: float | None
) -> Ranked:
    """Return the `top_k` best neighbors that are not near-duplicates of better ones, with their new ranks."""
    median = _median(node, matrix)
    threshold = rule.line(median, DEFAULT_RULES)
    floor = rule.floor(median, threshold, len(matrix), DEFAULT_RULES)
    count = LOOKED_AT * top_k + MORE_LOOKED_AT
    while True:
        found = [one for one in find(count) if min_score is None or one.score >= min_score]
        ids = [one.id for one in found]
        contents, same, apart = node.database.read(_known, owner, ids)
        prints = signs.of(node, ids)
        prints.advance()
        seen = Pictures(*prints.result()[:2], prints.grays)
        collapse = Collapse(contents, seen, threshold, floor, most=top_k, same=same, apart=apart)
        groups = collapse.groups(lambda span, ids=ids: matrix.directions(ids[span]))
        if len(groups) >= top_k or len(found) < count or count >= MOST_LOOKED_AT:
            break
        count = min(GROWTH * count, MOST_LOOKED_AT)
    ranked = [_of_rank(found[leader], rank) for rank, (leader, _) in enumerate(groups, 1)]
    copies = {found[leader].id: [found[at] for at in members] for leader, members in groups}
    return Ranked(ranked, copies, len(found))


def _of_rank(neighbor: Neighbor, rank: int) -> Neighbor:
    return Neighbor(rank, neighbor.id, neighbor.key, neighbor.score)


def shown(ranked: Ranked, neighbor: Neighbor) -> list[dict[str, Any]]:
    """Return the copies of a neighbor as a result has them."""
    return [{"id": one.id, "key": one.key, "score": one.score} for one in ranked.copies[neighbor.id]]


def _known(
    session: Session, owner: str, ids: list[str]
) -> tuple[list[str], set[tuple[str, str]], set[tuple[str, str]]]:
    """Return the contents of images, and the pairs of these that verdicts call the same and different."""
    of = {image.id: image.content_hash for image in images.facts(session, ids)}
    # one that is forgotten has content of its own
    contents = [of.get(id, id) for id in ids]
    pairs: dict[bool, set[tuple[str, str]]] = {True: set(), False: set()}
    for first, second, same in verdicts.among(session, owner, set(contents)):
        pairs[same] |= {(first, second), (second, first)}
    return contents, pairs[True], pairs[False]


def _median(node: Node, matrix: Matrix | Indexed) -> float | None:
    known = _medians.get(matrix)
    if known is None or not known.holds(matrix):
        known = _medians[matrix] = Median(_measured(node, matrix), len(matrix), matrix.edits)
    return known.value


def _measured(node: Node, matrix: Matrix | Indexed) -> float | None:
    """Return the median distance of images, all or some drawn by chance, to their nearest one of other content."""
    n = len(matrix)
    if n < 2:
        return None
    drawn = matrix.sample(min(n, max(LEAST_SAMPLED, int(MULTIPLICATIONS / (n * matrix.dim)))))
    nearest: list[list[Neighbor]] = []
    for start in range(0, len(drawn), SAMPLED_AT_ONCE):
        some = drawn[start : start + SAMPLED_AT_ONCE]
        nearest += matrix.along(matrix.directions(some), NEAREST, exclude=some, among=[None] * len(some))
    width = min(NEAREST, n - 1)
    cosines = np.array([[one.score for one in near[:width]] for near in nearest])
    # the hashes of those alone that could be copies
    asked = [
        (row, place)
        for row, near in enumerate(nearest)
        for place in range(width)
        if near[place].score >= DEFAULT_RULES.copy_cosine
    ]
    bits = np.full(cosines.shape, hashes.BITS)
    if asked:
        pairs = [(drawn[row], nearest[row][place].id) for row, place in asked]
        ids = list(dict.fromkeys(id for pair in pairs for id in pair))
        prints = signs.of(node, ids)
        prints.advance()
        codes, mirrors, _ = prints.result()
        at = {id: row for row, id in enumerate(ids)}
        rows, places = np.array(asked).T
        first, second = np.array([(at[one], at[other]) for one, other in pairs]).T
        bits[rows, places] = np.minimum(
            hashes.distances(codes[first], codes[second]), hashes.distances(codes[first], mirrors[second])
        )
    return rule.median_distance(cosines, bits, DEFAULT_RULES)
