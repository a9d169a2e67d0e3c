"""Large photographs: decoded at a reduced scale where a collection's precision is `fast`."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imagekin.enums import Precision
from imagekin_worker.bench import forward, pictures, pipeline, timing
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import DEFAULT, Workbench
from imagekin_worker.network.devices import cores

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
    files = pipeline.contents(folder, bench.sizes.large_drawn)
    decode = {precision: _decode_ms(bench, files, precision) for precision in Precision}
    lanes = forward.Configuration(cores(), 1, forward.CPU_BATCHES[0])
    forward_ms = 1e3 * cores() / forward.rate(bench, DEFAULT, lanes)
    bits = 8 * sum(map(len, files)) / (len(files) * pictures.LARGE[0] * pictures.LARGE[1])
    norms = np.linalg.norm(fast, axis=1) * np.linalg.norm(exact, axis=1)
    cosine = float(((fast * exact).sum(axis=1) / norms).mean())
    return Figure(
        rates[Precision.FAST],
        rates[Precision.EXACT],
        "images/s",
        rates[Precision.FAST] / rates[Precision.EXACT],
        f"decoding: {decode[Precision.FAST]:.3g} ms of a core at a reduced scale, {decode[Precision.EXACT]:.3g} in "
        f"full, as {bits:.2g} bits a pixel are read at any scale; then forward, {forward_ms:.3g} ms; mean cosine "
        f"{cosine:.5f}",
        {
            "mean_cosine": round(cosine, 6),
            "bits_per_pixel": round(bits, 3),
            "forward_ms": round(forward_ms, 2),
            **{f"decode_{precision}_ms": round(ms, 2) for precision, ms in decode.items()},
        },
        None if cosine >= LEAST_COSINE else f"mean cosine {cosine:.5f}, below {LEAST_COSINE}",
    )


def _decode_ms(bench: Workbench, files: list[bytes], precision: Precision) -> float:
    """Measure the milliseconds of a core that decode, hash and thumbnail take for one picture."""
    space = bench.space(DEFAULT, precision)
    return 1e3 * cores() / pipeline.decode_rate(files, space, bench.settings, cores(), bench.sizes.rate_s)
