"""What a search for near-duplicates found: reasons, groups, and what a person should look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imagekin.enums import DuplicateReason as Reason
from imagekin_worker.analysis import groups, hashes, rule
from imagekin_worker.analysis.groups import Images
from imagekin_worker.analysis.rule import Rules, Signs

HISTOGRAM_BINS = 40
# Examples on either side of the line, and pairs to look at, most alike first.
EXAMPLES, LOOKS = 6, 1000
SCORE_DECIMALS = 6


@dataclass(frozen=True)
class Member:
    """An image of a group; its signs compare it with the kept one, which itself has no reason."""

    row: int
    score: float
    reason: Reason | None
    hash_bits: int
    correlation: float | None


@dataclass(frozen=True)
class Group:
    """Near-duplicates of one image, `keep`, which is their first member; `because` is the rule that chose it."""

    keep: int
    because: str
    members: list[Member]


@dataclass(frozen=True)
class Look:
    """Two images that are close by one sign only, which does not put them into one group."""

    a: int
    b: int
    score: float
    hash_bits: int


@dataclass(frozen=True)
class Example:
    """Two images near the threshold."""

    a: int
    b: int
    score: float


@dataclass(frozen=True)
class Found:
    """Near-duplicates; images are named by their row, those of another collection from n on.

    `duplicates` counts the images that could be removed; the threshold follows from `median_distance` (None for fewer
    than two images). The histogram counts images by the cosine to their nearest one. `pairs` (m, 2): all images that
    the rules or their bytes join, in the same group or not.
    """

    threshold: float
    median_distance: float | None
    images: int
    duplicates: int
    by_reason: dict[str, int]
    groups: list[Group]
    look: list[Look]
    edges: list[float]
    counts: list[int]
    examples: list[Example]
    pairs: NDArray[np.int64] = field(compare=False)


@dataclass(frozen=True)
class Contents:
    """Images by their bytes: `kept` (c,) is the best of each content in order; `of` (n,) the kept one of each image.

    `first` (c,): the first image that has the bytes of a kept one.
    """

    kept: NDArray[np.int64]
    first: NDArray[np.int64]
    of: NDArray[np.int64]
    by_hash: dict[str, list[int]]


def contents_of(images: Images, own: int) -> Contents:
    """Return the contents; the same bytes in two collections are two contents."""
    of = np.arange(len(images))
    by_content: dict[tuple[str, bool], list[int]] = {}
    for row, content in enumerate(images.contents):
        by_content.setdefault((content, row >= own), []).append(row)
    by_hash: dict[str, list[int]] = {}
    for (content, _), rows in by_content.items():
        keep = groups.best(images, rows)[0] if len(rows) > 1 else rows[0]
        of[rows] = keep
        by_hash.setdefault(content, []).append(keep)
    kept, first = np.unique(of, return_index=True)
    return Contents(kept, first, of, by_hash)


@dataclass(frozen=True)
class Search:
    """Everything that the result is made from.

    `between` (n,) codes of values; `start` the first row of another collection.
    """

    images: Images
    contents: Contents
    signs: Signs
    threshold: float
    median: float | None
    nearest: NDArray[np.float32]
    apart: frozenset[tuple[int, int]]
    between: NDArray[np.int64] | None
    start: int | None


def of(search: Search, rules: Rules) -> Found:
    """Return the result of a search."""
    return _Result(search, rules).found()


class _Result:
    def __init__(self, search: Search, rules: Rules) -> None:
        self._search, self._rules = search, rules
        images, signs = search.images, search.signs
        self._bits = hashes.distances(images.hashes[signs.first], images.hashes[signs.second])
        self._mirror = hashes.distances(images.hashes[signs.first], images.mirrors[signs.second])
        self._allowed = self._differ() & ~self._parted()
        self._reasons = self._judged()
        self._copies: dict[int, list[int]] = {}
        for row in np.flatnonzero(np.bincount(search.contents.of)[search.contents.of] > 1).tolist():
            self._copies.setdefault(int(search.contents.of[row]), []).append(row)

    def found(self) -> Found:
        search = self._search
        listed = [self._shown(*group) for group in self._groups()]
        listed = [group for group in listed if len(group.members) > 1]
        listed.sort(key=lambda group: (-len(group.members), search.images.keys[group.keep]))
        reasons = Counter(str(member.reason) for group in listed for member in group.members[1:])
        counts, edges = np.histogram(np.clip(search.nearest, 0, 1), HISTOGRAM_BINS, (0, 1))
        return Found(
            search.threshold,
            search.median,
            len(search.images) if search.start is None else search.start,
            sum(reasons.values()),
            {str(reason): reasons.get(reason, 0) for reason in Reason},
            listed,
            self._look(),
            edges.round(SCORE_DECIMALS).tolist(),
            counts.tolist(),
            self._examples(),
            self._pairs(),
        )

    def _pairs(self) -> NDArray[np.int64]:
        signs, of = self._search.signs, self._search.contents.of
        joined = np.array([reason is not None for reason in self._reasons], bool)
        copies = np.flatnonzero(of != np.arange(len(of)))
        return np.concatenate([np.stack([signs.first, signs.second], 1)[joined], np.stack([of[copies], copies], 1)])

    def _parted(self) -> NDArray[np.bool_]:
        """Return which pairs a verdict calls different."""
        signs = self._search.signs
        if not self._search.apart:
            return np.zeros(len(signs.first), bool)
        pairs = zip(signs.first.tolist(), signs.second.tolist(), strict=True)
        return np.array([pair in self._search.apart for pair in pairs], bool)

    def _differ(self) -> NDArray[np.bool_]:
        """Return which pairs have images of different values, if that is asked for."""
        signs, between = self._search.signs, self._search.between
        if between is None:
            return np.ones(len(signs.first), bool)
        own = len(between)
        least, most = between.copy(), between.copy()
        np.minimum.at(least, self._search.contents.of[:own], between)
        np.maximum.at(most, self._search.contents.of[:own], between)
        low = np.minimum(least[signs.first], least[signs.second])
        return low != np.maximum(most[signs.first], most[signs.second])

    def _judged(self) -> list[Reason | None]:
        """Return the reason for each pair: the first that holds."""
        signs, contents = self._search.signs, self._search.images.contents
        same = (contents[first] == contents[second] for first, second in zip(signs.first, signs.second, strict=True))
        identical = np.fromiter(same, bool, len(signs.first))
        return rule.reasons(
            signs, self._bits, self._mirror, identical, self._search.threshold, self._rules, self._allowed
        )

    def _groups(self) -> Iterator[tuple[int, str, list[tuple[int, int]]]]:
        """Yield groups of contents, then groups of a single content."""
        search, signs = self._search, self._search.signs
        edges = np.array([pair for pair, reason in enumerate(self._reasons) if reason is not None], np.int64)
        graph = groups.Graph(len(search.images), signs.first[edges], signs.second[edges])
        seen: set[int] = set()
        for keep, because, members in groups.leaders(
            graph, search.images, signs.cosines[edges], search.apart, search.start
        ):
            seen.update([keep, *(row for row, _ in members)])
            yield keep, because, [(row, int(edges[edge])) for row, edge in members]
        if search.start is None:
            for keep, rows in self._copies.items():
                if keep not in seen:
                    yield keep, groups.best(search.images, rows)[1], []

    def _shown(self, keep: int, because: str, members: list[tuple[int, int]]) -> Group:
        signs = self._search.signs
        shown = [Member(keep, 1.0, None, 0, 1.0)]
        if self._search.start is None:
            shown += [Member(row, 1.0, Reason.IDENTICAL, 0, 1.0) for row in self._copies.get(keep, ()) if row != keep]
        for row, pair in members:
            correlation = signs.correlations[pair]
            reason = self._reasons[pair]
            bits = self._mirror[pair] if reason is Reason.MIRRORED else self._bits[pair]
            shown += [
                Member(
                    copy,
                    round(float(signs.cosines[pair]), SCORE_DECIMALS),
                    reason,
                    int(bits),
                    None if np.isnan(correlation) else round(float(correlation), 4),
                )
                for copy in self._copies.get(row, [row])
            ]
        between = self._search.between
        if between is not None:
            shown = [shown[0], *(one for one in shown[1:] if between[one.row] != between[keep])]
        return Group(keep, because, shown)

    def _look(self) -> list[Look]:
        signs, rules, search = self._search.signs, self._rules, self._search
        line = search.threshold if search.median is None else 1 - rules.look_share * search.median
        close = signs.cosines >= line
        close |= (self._bits <= rules.look_bits) & (signs.correlations >= rules.look_correlation)
        close &= self._allowed & np.array([reason is None for reason in self._reasons], bool)
        order = np.flatnonzero(close)
        order = order[np.argsort(-signs.cosines[order], kind="stable")][:LOOKS]
        return [
            Look(
                int(signs.first[pair]),
                int(signs.second[pair]),
                round(float(signs.cosines[pair]), SCORE_DECIMALS),
                int(self._bits[pair]),
            )
            for pair in order
        ]

    def _examples(self) -> list[Example]:
        signs = self._search.signs
        gap = signs.cosines - self._search.threshold
        order = np.argsort(np.abs(gap), kind="stable")
        order = order[self._allowed[order]]
        chosen = np.concatenate([order[gap[order] >= 0][:EXAMPLES], order[gap[order] < 0][:EXAMPLES]])
        chosen = chosen[np.argsort(-signs.cosines[chosen], kind="stable")]
        return [
            Example(int(signs.first[pair]), int(signs.second[pair]), round(float(signs.cosines[pair]), SCORE_DECIMALS))
            for pair in chosen
        ]
