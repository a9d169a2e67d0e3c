"""Processes that keep matrices: a new `Worker` is one that starts, `process` is a real one."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from imagekin.enums import DType
from imagekin_worker.matrix import file
from imagekin_worker.matrix.file_cache import MatrixCache
from imagekin_worker.matrix.loaded import Residents
from imagekin_worker.matrix.neighbors import Matrix
from kit.hand import Hand, vector

DIM = 64
PLENTY = 1 << 30


class Worker:
    """A process's residents, asked in one view; a new one is a process that starts."""

    def __init__(self, hand: Hand, cache: MatrixCache | None, budget_bytes: int = PLENTY, view: str = "raw") -> None:
        self.hand, self.view = hand, view
        self.residents = Residents(hand.database, budget_bytes, cache=cache)

    def check(self, name: str = "photos", top_k: int = 7) -> None:
        """Assert that searches answer as a loop over all vectors does."""
        collection, contents = self.hand.collection(name), self.hand.contents[name]
        dtype = file.WIRE[DType(collection.dtype)]
        stored = {key: vector(content).astype(dtype).astype(np.float64) for key, content in contents.items()}
        own = list(contents)[:2]
        queries = np.stack([*(stored[key] for key in own), *np.random.default_rng(5).standard_normal((2, DIM))])
        used, found = self.residents.search(collection.id, queries.astype(np.float32), top_k, view=self.view)
        mean = None if used.name == "raw" else used.mean
        rows = dict(zip(stored, in_view(np.stack(list(stored.values())), mean), strict=True))
        asked = in_view(queries.astype(np.float32).astype(np.float64), mean)
        for query, answers in zip(asked, found, strict=True):
            scores = {key: round(float(row @ query), 6) for key, row in rows.items()}
            best = sorted(scores, key=lambda key: (-scores[key], key))[:top_k]
            assert [answer.key for answer in answers] == best
            assert [answer.score for answer in answers] == pytest.approx([scores[key] for key in best], abs=2e-6)

    def matrix(self) -> Matrix:
        return self.residents.get(self.hand.collection().id, self.view)

    def stop(self) -> None:
        self.residents.settle()
        self.residents.close()


def in_view(vectors: np.ndarray, mean: np.ndarray | None = None) -> np.ndarray:
    """Return vectors (n, dim) as the formula of docs/explanation/quality.md has them in float64; raw without a mean."""
    if mean is not None:
        vectors = np.sign(vectors) * np.abs(vectors) ** 0.4
        vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True) - mean.astype(np.float64)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def names(count: int, first: int = 0) -> list[str]:
    return [f"{number:04}" for number in range(first, first + count)]


def the_file(cache: MatrixCache) -> Path:
    [path] = cache.folder.glob("*.matrix")
    return path


PROCESS = """
    import sys
    from pathlib import Path
    import numpy as np
    from imagekin.database.engine import Database
    from imagekin_worker.matrix import loaded
    from imagekin_worker.matrix.file_cache import MatrixCache
    loaded.FEWEST_CHANGES = 1
    url, folder, collection_id, budget = sys.argv[1:5]
    database, cache = Database(url), MatrixCache(Path(folder), 1 << 30)
"""


def process(script: str, hand: Hand, cache: MatrixCache, budget: int, *args: object) -> subprocess.Popen[str]:
    url = hand.database.engine.url.render_as_string(hide_password=False)
    command = [sys.executable, "-c", textwrap.dedent(PROCESS) + textwrap.dedent(script), url, str(cache.folder)]
    return subprocess.Popen(
        [*command, hand.collection().id, str(budget), *map(str, args)], stdout=subprocess.PIPE, text=True
    )
