"""Against other libraries, on the same pictures, rows and weights, in one run: `make benchmarks`.

What is measured prints a table; what is asserted is that all of them computed the same. Speed fails no test.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from imagekin.settings import Settings
from imagekin_worker.bench.sizes import FULL
from imagekin_worker.bench.workbench import Workbench


@pytest.fixture(scope="session")
def bench(own_environment: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workbench]:
    """What `imagekin bench` measures with."""
    folder = tmp_path_factory.mktemp("bench").resolve()
    sizes = replace(FULL, slow_pictures=96)
    with Workbench(folder, sizes, Settings(), "cpu", ()) as bench:
        yield bench
