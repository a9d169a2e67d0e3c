"""Pictures whose kinds are known, embedded by the default backbone once a process: photographs, and the demo's."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from imagekin import catalog
from imagekin.demo import furniture
from imagekin.enums import Precision
from imagekin.settings import Settings
from imagekin_worker.network import backbones
from imagekin_worker.pipeline.lanes import Outcome, Pipeline

# Beside this checkout; a plain clone has the demo's alone.
DATA = Path(__file__).parents[3] / "shared" / "data"
SETS = ("demo", "furniture", "photos")

T = TypeVar("T")


@dataclass(frozen=True)
class Labelled:
    """Pictures in the order of their paths, with raw embeddings (n, dim) float32 and the kind of each."""

    name: str
    outcomes: list[Outcome[Path]]
    kinds: NDArray[np.str_]

    @property
    def paths(self) -> list[Path]:
        return [outcome.item for outcome in self.outcomes]

    @property
    def rows(self) -> NDArray[np.float32]:
        return rows(self.outcomes)


@cache
def labelled(name: str) -> Labelled:
    """Return one of `SETS`; skips the test where its pictures are not here."""
    if name == "demo":
        kinds = {picture.path: picture.kind for picture in furniture.pictures()}
    else:
        folder = DATA / name
        if not folder.is_dir():
            pytest.skip(f"the photographs are not here: {folder}")
        kinds = {path: path.parent.name for path in folder.glob("*/*") if path.is_file()}
    found = embedded(kinds, Path.read_bytes)
    return Labelled(name, found, np.array([kinds[outcome.item] for outcome in found]))


def embedded(
    items: Iterable[T], fetch: Callable[[T], bytes], precision: Precision = Precision.EXACT
) -> list[Outcome[T]]:
    """Return what the default backbone makes of pictures, all of which it takes, in their order."""
    settings = Settings(device="cpu")
    space = catalog.resolve_space(None, None, precision, settings.weights_dir)
    outcomes = list(Pipeline(backbones.load(space, settings), settings, items, fetch).outcomes())
    assert [outcome.item for outcome in outcomes if outcome.embedding is None] == []
    return sorted(outcomes, key=lambda outcome: str(outcome.item))


def rows(outcomes: Iterable[Outcome[T]]) -> NDArray[np.float32]:
    """Return raw embeddings (n, dim)."""
    return np.stack([outcome.embedding for outcome in outcomes if outcome.embedding is not None])
