"""Analyses of a whole collection, over the bare matrix products that they cannot do without, or over a time.

The rows are drawn once by a seed: jittered copies of some centers, in the view. What is divided is measured in turns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from imagekin_worker.analysis import hashes, pairs
from imagekin_worker.analysis.adaptation import Adaptation
from imagekin_worker.analysis.blocks import Blocks, ViewedBlocks
from imagekin_worker.analysis.classification import Classification
from imagekin_worker.analysis.duplicates import Duplicates
from imagekin_worker.analysis.groups import Images
from imagekin_worker.analysis.layout import Layout
from imagekin_worker.analysis.neighborhoods import Lists
from imagekin_worker.analysis.outliers import Outliers
from imagekin_worker.analysis.pairs import Nearest, Pairs
from imagekin_worker.analysis.selection import Diverse
from imagekin_worker.analysis.stepper import Stepper
from imagekin_worker.bench import timing
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import Workbench
from imagekin_worker.matrix import view as views
from imagekin_worker.matrix.view import View
from imagekin_worker.network.devices import cores

DIM, CENTERS, JITTER, SEED = 1280, 500, 1.0, 8
# Rows that are near copies of the one before.
COPIES_ONE_IN = 50
# The share of the median distance at which the rule of near-duplicates looks for pairs.
FLOOR_SHARE = 0.25
# Rows whose nearest one the median distance is taken from.
MEDIAN_OF = 1000
BUDGET_BYTES = 1 << 30
# Images that are labelled, and classes.
LABELLED, CLASSES = 2000, 100
# The longest times, in seconds, of a map of `map_rows` and of learning from labels.
MAP_S, LEARNED_S = 60.0, 30.0


def rows_of(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return raw vectors (count, 1280) float32, never negative as those of a network, and the center of each."""
    drawn = np.random.default_rng(SEED)
    centers = np.maximum(drawn.standard_normal((CENTERS, DIM), np.float32), 0)
    which = drawn.integers(0, CENTERS, count)
    rows = centers[which] + JITTER * np.abs(drawn.standard_normal((count, DIM), np.float32))
    rows[1::COPIES_ONE_IN] = rows[:-1:COPIES_ONE_IN][: len(rows[1::COPIES_ONE_IN])] * 1.01
    return rows, which


def duplicates(bench: Workbench) -> Figure:
    """Measure all pairs above the line of near-duplicates over the bare products of all rows with all others."""
    rows, made, folder = _drawn(bench, bench.sizes.pair_rows)
    source = ViewedBlocks(Blocks(rows), made)
    # by chance: rows in even steps would all be among those that have a copy
    asked = np.sort(np.random.default_rng(SEED).choice(len(rows), min(MEDIAN_OF, len(rows)), replace=False))
    nearest = Nearest(source, asked, 1, threads=cores())
    nearest.advance()
    floor = 1 - FLOOR_SHARE * float(np.median(1 - nearest.result()[1]))
    return _over_products(
        bench,
        made.transform(rows),
        lambda: Pairs(source, floor, memory_budget_bytes=BUDGET_BYTES, folder=folder, threads=cores()),
        f"all pairs of {len(rows):,} rows with a cosine above {floor:.3f}",
    )


def outliers(bench: Workbench) -> Figure:
    """Measure a search for outliers, which copies do not hide, over the bare products of all rows with all others."""
    rows, made, folder = _drawn(bench, bench.sizes.pair_rows)
    return _over_products(
        bench,
        made.transform(rows),
        lambda: Outliers(rows, made, memory_budget_bytes=BUDGET_BYTES, folder=folder, threads=cores()),
        f"outliers among {len(rows):,} rows",
    )


def together(bench: Workbench) -> Figure:
    """Measure a search for outliers and then one for near-duplicates, over the bare products of one pass."""
    rows, made, folder = _drawn(bench, bench.sizes.pair_rows)
    images, grays = _pictures(len(rows))

    def begin() -> _Together:
        room = {"memory": _Remembered(), "memory_budget_bytes": BUDGET_BYTES, "folder": folder, "threads": cores()}
        return _Together(
            Outliers(rows, made, **room),
            Duplicates(rows, made, images, thumbnails=lambda at: grays[at % len(grays)], **room),
        )

    return _over_products(
        bench, made.transform(rows), begin, f"outliers, then near-duplicates among {len(rows):,} rows"
    )


def diverse(bench: Workbench) -> Figure:
    """Measure farthest-first selection over the bare products of the chosen rows with all others."""
    rows, made, folder = _drawn(bench, bench.sizes.pair_rows)
    count = bench.sizes.selected
    seen = torch.from_numpy(made.transform(rows))

    def bare() -> float:
        def products() -> None:
            for row in range(count):
                torch.mv(seen, seen[row])

        return timing.seconds(products)

    def ours() -> float:
        work = Diverse(rows, made, count, memory_budget_bytes=BUDGET_BYTES, folder=folder)
        return timing.seconds(work.advance)

    taken = timing.in_turns({"ours": ours, "bare": bare}, bench.sizes.repetitions)
    return _figure(taken, f"{count:,} diverse of {len(rows):,} rows", {"rows": len(rows), "selected": count})


def layout(bench: Workbench) -> Figure:
    """Measure a map over the time that it may take."""
    rows, made, folder = _drawn(bench, bench.sizes.map_rows)
    work = Layout(rows, made, memory_budget_bytes=BUDGET_BYTES, folder=folder)
    return _within(timing.seconds(work.advance), MAP_S, f"a map of {len(rows):,} rows")


def labels(bench: Workbench) -> Figure:
    """Measure the slower of classify and adapt over the time that it may take."""
    count = bench.sizes.pair_rows
    rows, which = rows_of(count)
    made = views.of(rows, "bench")
    given = np.full(count, -1, np.int64)
    given[: min(LABELLED, count // 2)] = which[: min(LABELLED, count // 2)] % CLASSES
    works = {
        kind.__name__: timing.seconds(kind(rows, made, given, memory_budget_bytes=BUDGET_BYTES).advance)
        for kind in (Classification, Adaptation)
    }
    said = ", ".join(f"{name} {seconds:.3g} s" for name, seconds in works.items())
    return _within(max(works.values()), LEARNED_S, f"{said}; {count:,} rows, {int((given >= 0).sum()):,} labelled")


class _Remembered:
    """Lists in memory, where a worker has a file."""

    def __init__(self) -> None:
        self._kept: tuple[str, Lists] | None = None

    def known(self, digest: Callable[[], str]) -> Lists | None:
        return self._kept[1] if self._kept is not None and self._kept[0] == digest() else None

    def keep(self, digest: str, lists: Lists) -> None:
        self._kept = digest, lists


class _Together:
    """Searches that are done one after the other."""

    def __init__(self, *searches: Stepper) -> None:
        self._searches = searches

    def advance(self) -> bool:
        return all(search.advance() for search in self._searches)


def _pictures(count: int) -> tuple[Images, np.ndarray]:
    """Return images of drawn hashes, which no two of share, and some gray pictures (m, 2304)."""
    drawn = np.random.default_rng(SEED)
    names = [str(number) for number in range(count)]
    codes = drawn.integers(0, 1 << 64, (2, count), np.uint64)
    zeros = np.zeros(count, np.int64)
    images = Images(names, names, codes[0], codes[1], zeros, zeros > 0, zeros, zeros, zeros.astype(np.float64))
    return images, drawn.integers(0, 256, (1000, hashes.GRAY_DIM), np.uint8)


def _drawn(bench: Workbench, count: int) -> tuple[np.ndarray, View, Path]:
    rows, _ = rows_of(count)
    return rows, views.of(rows, "bench"), bench.settings.cache_folder


def _over_products(bench: Workbench, seen: np.ndarray, begin: Callable[[], Stepper | _Together], said: str) -> Figure:
    """Return what `begin` takes over products of the rows (n, dim) in the same blocks, each pair of rows once."""
    tensor = torch.from_numpy(seen)

    def products() -> None:
        for row in range(0, len(tensor), pairs.QUERY_ROWS):
            block = tensor[row : row + pairs.QUERY_ROWS]
            for column in range(row, len(tensor), pairs.ROWS):
                torch.matmul(block, tensor[column : column + pairs.ROWS].T)

    taken = timing.in_turns(
        {"ours": lambda: timing.seconds(begin().advance), "bare": lambda: timing.seconds(products)},
        bench.sizes.repetitions,
    )
    return _figure(taken, said, {"rows": len(seen)})


def _figure(taken: dict[str, float], said: str, details: dict[str, float]) -> Figure:
    ours, bare = taken["ours"], taken["bare"]
    return Figure(ours, bare, "s", ours / bare, f"{said}: {ours:.3g} s; the bare products {bare:.3g} s", details)


def _within(seconds: float, most_s: float, said: str) -> Figure:
    return Figure(seconds, most_s, "s", seconds / most_s, f"{said}: {seconds:.3g} s", {"most_s": most_s})
