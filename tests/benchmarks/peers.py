"""What peers are shown in, and how their tests are marked."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from imagekin.cli import output

# Other libraries' warnings are theirs.
MARKS = [pytest.mark.benchmarks, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]


class Table:
    """Rows that are printed where the test ends."""

    def __init__(self, title: str, *columns: str) -> None:
        self._title, self._columns = title, columns
        self._rows: list[Sequence[str]] = []

    def add(self, *cells: object) -> None:
        self._rows.append([f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in cells])

    def show(self) -> None:
        print(f"\n{self._title}")
        output.table(self._columns, self._rows)
