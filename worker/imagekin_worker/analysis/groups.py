"""Groups of near-duplicates: by leader, without chains, with the image to keep and the reason."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Images:
    """What is known about the images besides their vectors, in the rows' order.

    `keys` and `contents` (the bytes' hashes) have n each; `hashes` and `mirrors` are (n,) uint64 (see hashes.Print);
    `pixels` (n,) width times height; `lossless` (n,) bool; `nbytes` (n,), -1 where unknown; `metadata` (n,) the number
    of fields; `created` (n,) any number that increases with time.
    """

    keys: Sequence[str]
    contents: Sequence[str]
    hashes: NDArray[np.uint64]
    mirrors: NDArray[np.uint64]
    pixels: NDArray[np.int64]
    lossless: NDArray[np.bool_]
    nbytes: NDArray[np.int64]
    metadata: NDArray[np.int64]
    created: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.keys)

    def joined(self, others: Images) -> Images:
        """Return these images followed by the others."""
        return Images(
            [*self.keys, *others.keys],
            [*self.contents, *others.contents],
            *(
                np.concatenate([getattr(self, name), getattr(others, name)])
                for name in ("hashes", "mirrors", "pixels", "lossless", "nbytes", "metadata", "created")
            ),
        )


# What tells which image to keep, the first difference decides: the better image's number is smaller.
_RULES: tuple[tuple[str, Callable[[Images, int], float]], ...] = (
    ("more pixels", lambda images, row: -int(images.pixels[row])),
    ("lossless", lambda images, row: -int(images.lossless[row])),
    ("more bytes", lambda images, row: -int(images.nbytes[row])),
    ("more metadata", lambda images, row: -int(images.metadata[row])),
    ("older", lambda images, row: float(images.created[row])),
)


def best(images: Images, rows: Sequence[int]) -> tuple[int, str]:
    """Return which of some images to keep, and the rule that decided: the first by which it beats the next best.

    More pixels, lossless, more bytes (if all are known), more metadata, older, key.
    """
    known = all(images.nbytes[row] >= 0 for row in rows)
    rules = [rule for rule in _RULES if known or rule[0] != "more bytes"]
    first, *others = sorted(
        ([rule(images, row) for _, rule in rules], images.keys[row], images.contents[row], row) for row in rows
    )
    for (name, _), mine, next_best in zip(rules, first[0], others[0][0] if others else (), strict=False):
        if mine != next_best:
            return first[3], name
    return first[3], "key"


class Graph:
    """Which of n images are near-duplicates by the rule: the two ends of the edges, (m,) and (m,), each edge once."""

    def __init__(self, n: int, first: np.ndarray, second: np.ndarray) -> None:
        ends = np.concatenate([first, second]).astype(np.int64)
        others = np.concatenate([second, first]).astype(np.int64)
        edges = np.concatenate([np.arange(len(first)), np.arange(len(first))])
        order = np.lexsort((others, ends))
        self._others, self._edges = others[order], edges[order]
        self._starts = np.searchsorted(ends[order], np.arange(n + 1))

    @property
    def degrees(self) -> NDArray[np.int64]:
        """The number of near-duplicates of each image (n,)."""
        return np.diff(self._starts)

    def around(self, row: int) -> dict[int, int]:
        """Return the neighbors of an image, each with the number of its edge."""
        span = slice(self._starts[row], self._starts[row + 1])
        return dict(zip(self._others[span].tolist(), self._edges[span].tolist(), strict=True))


def leaders(
    graph: Graph,
    images: Images,
    closeness: np.ndarray,
    apart: frozenset[tuple[int, int]] = frozenset(),
    keeps_from: int | None = None,
) -> Iterator[tuple[int, str, list[tuple[int, int]]]]:
    """Yield groups: the image to keep, the rule that chose it, and the others, each with its edge to the kept one.

    The densest image comes first, ties by key; its group is what is left around it, and the best of these is kept, with
    those that are within the rule of the kept one: no chains, and what is not within waits for another group. A group
    has no two images that are `apart` (pairs, the smaller first); those with the higher `closeness` (m,) come first.
    With `keeps_from`, only images from this row on are kept, each with those of the rows before it.
    """
    degrees = graph.degrees
    rows = np.flatnonzero(degrees)
    free = np.zeros(len(degrees), bool)
    free[rows] = True
    for row in sorted(rows.tolist(), key=lambda row: (-degrees[row], images.keys[row], images.contents[row], row)):
        if not free[row] or (keeps_from is not None and row < keeps_from):
            continue
        around = [other for other in graph.around(row) if free[other]]
        if not around:
            continue
        keep, because = (row, "other collection") if keeps_from is not None else best(images, [row, *around])
        members = _members(graph.around(keep), {row, *around} - {keep}, closeness, apart, keep)
        if members:
            free[[keep, *(member for member, _ in members)]] = False
            yield keep, because, members


def _members(
    around: dict[int, int],
    wanted: set[int],
    closeness: np.ndarray,
    apart: frozenset[tuple[int, int]],
    keep: int,
) -> list[tuple[int, int]]:
    members: list[tuple[int, int]] = []
    for other in sorted(wanted & around.keys(), key=lambda other: (-closeness[around[other]], other)):
        if not apart or all((min(other, one), max(other, one)) not in apart for one, _ in [(keep, 0), *members]):
            members.append((other, around[other]))
    return members
