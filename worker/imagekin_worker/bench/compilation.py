"""Whole jobs with compiled networks, as a worker has them after its first minute, over the same with prepared ones."""

from __future__ import annotations

import numpy as np
import torch

from imagekin.enums import Precision
from imagekin_worker.bench import forward, pictures, pipeline, timing
from imagekin_worker.bench.errors import NotMeasured
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import DEFAULT, Workbench
from imagekin_worker.network import backbones
from imagekin_worker.network.devices import cores
from imagekin_worker.tuning import compiled

LEAST_MEAN_COSINE = {Precision.EXACT: 0.9999, Precision.FAST: 0.999}


def exact(bench: Workbench) -> Figure:
    """Measure jobs of the default backbone in `exact`."""
    return _figure(bench, Precision.EXACT)


def fast(bench: Workbench) -> Figure:
    """Measure jobs of the default backbone in `fast`, and its forward pass in float32 as well."""
    return _figure(bench, Precision.FAST)


def _figure(bench: Workbench, precision: Precision) -> Figure:
    if not compiled.available(torch.device(bench.device)):
        raise NotMeasured('there is no OpenVINO: pip install "imagekin[cpu]"')
    folder, warm = bench.pictures(DEFAULT), bench.drawn("warm", bench.sizes.warm_pictures, pictures.ORDINARY)
    files = pipeline.contents(folder, pipeline.DECODED_PICTURES)
    vectors: dict[bool, np.ndarray] = {}
    lanes = forward.Configuration(cores(), 1, backbones.CPU_BATCH)
    space = bench.space(DEFAULT, precision)

    def job(is_compiled: bool) -> float:
        service = bench.service(compiled=is_compiled)
        with service.collection(DEFAULT, precision=precision) as name:
            run = service.embed(folder, name)
            found = service.client.vectors(name)
        vectors[is_compiled] = found.embeddings[np.argsort(found.keys)].astype(np.float64)
        return run.rate

    def passes(backbone: backbones.Backbone) -> float:
        return forward.rate_of(backbone.embed, lanes, space.preprocess.shape, bench.sizes.rate_s)

    works = {
        "prepared": lambda: job(False),
        "compiled": lambda: job(True),
        "forward_prepared": lambda: passes(plain),
        "forward_compiled": lambda: passes(network),
        # the same network in float32, whatever a `fast` one is computed in
        "forward_f32": lambda: passes(_network(bench, Precision.EXACT)),
        "decode": lambda: pipeline.decode_rate(files, space, bench.settings, cores(), bench.sizes.rate_s),
    }
    bench.service().warm(warm, DEFAULT, precision=precision)
    # for the arrangement of the cores that was just found
    network, plain = _network(bench, precision), backbones.load(space, bench.settings)
    numbers = compiled.numbers(network.compiled_from) if network.compiled_from else "not used, as it is not faster"
    bench.service(compiled=True).warm(warm, DEFAULT, precision=precision)
    found = timing.in_turns(works, bench.sizes.repetitions)
    cosines = _cosines(vectors[True], vectors[False])
    mean, least = float(cosines.mean()), float(cosines.min())
    alone = {name: 1e3 * cores() / found[name] for name in ("forward_prepared", "forward_compiled", "forward_f32")}
    return Figure(
        found["compiled"],
        found["prepared"],
        "images/s",
        found["compiled"] / found["prepared"],
        f"ms of a core: forward {alone['forward_prepared']:.3g} prepared, {alone['forward_compiled']:.3g} compiled "
        f"({numbers}), {alone['forward_f32']:.3g} compiled in float32; decode {1e3 * cores() / found['decode']:.3g}; "
        f"cosine to the prepared network's mean {mean:.6f}, least {least:.6f}",
        {
            **{name: round(rate, 2) for name, rate in found.items()},
            "numbers": numbers,
            "mean_cosine": round(mean, 6),
            "least_cosine": round(least, 6),
        },
        None if mean >= LEAST_MEAN_COSINE[precision] else f"mean cosine {mean:.6f}",
    )


def _network(bench: Workbench, precision: Precision) -> backbones.TorchBackbone:
    """Load the default backbone and have it compiled, once."""

    def compile_() -> backbones.Backbone:
        loaded = backbones.load(bench.space(DEFAULT, precision), bench.compiled_settings)
        forward.compile_network(loaded, bench.compiled_settings)
        return loaded

    return bench.once(("compiled", precision), compile_)


def _cosines(ours: np.ndarray, theirs: np.ndarray) -> np.ndarray:
    return (ours * theirs).sum(axis=1) / (np.linalg.norm(ours, axis=1) * np.linalg.norm(theirs, axis=1))
