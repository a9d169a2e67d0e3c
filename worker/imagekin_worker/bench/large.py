"""Large photographs: decoded at a reduced scale where a collection's precision is `fast`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imagekin.types import Precision
from imagekin_worker.bench import pictures, timing
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import DEFAULT, Workbench

LEAST_COSINE = 0.999


def figure(bench: Workbench) -> Figure:
    """Measure jobs over 2000 x 2000 JPEGs in `fast` over `exact`, and how near the vectors are."""
    service = bench.service()
    folder = bench.drawn("large", bench.sizes.large_pictures, pictures.LARGE, bench.sizes.large_drawn)
    warm = bench.drawn("warm", bench.sizes.warm_pictures, pictures.ORDINARY)
    vectors: dict[Precision, np.ndarray] = {}

    def job(precision: Precision, source: Path) -> float:
        with service.collection(DEFAULT, precision=precision) as name:
            run = service.embed(source, name)
            if source == folder:
                found = service.client.vectors(name)
                vectors[precision] = found.embeddings[np.argsort(found.keys)]
        return run.rate

    for precision in Precision:
        job(precision, warm)
    works = {precision: lambda precision=precision: job(precision, folder) for precision in Precision}
    rates = timing.in_turns(works, bench.sizes.repetitions)
    fast, exact = (vectors[each].astype(np.float64) for each in (Precision.FAST, Precision.EXACT))
    norms = np.linalg.norm(fast, axis=1) * np.linalg.norm(exact, axis=1)
    cosine = float(((fast * exact).sum(axis=1) / norms).mean())
    return Figure(
        rates[Precision.FAST],
        rates[Precision.EXACT],
        "images/s",
        rates[Precision.FAST] / rates[Precision.EXACT],
        f"decoding at half of the scale, then forward; mean cosine to the full decode {cosine:.5f}",
        {"mean_cosine": round(cosine, 6)},
        None if cosine >= LEAST_COSINE else f"mean cosine {cosine:.5f}, below {LEAST_COSINE}",
    )
