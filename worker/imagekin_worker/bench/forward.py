"""The forward pass alone: the prepared network in every sensible configuration, and the eager one.

Both beside what the machine can do at most: the bare matrix product, as the same threads reach it in the same turns.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from imagekin.settings import Settings
from imagekin_worker.bench import timing, weights
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.network import backbones, devices
from imagekin_worker.network.backbones import Backbone
from imagekin_worker.network.devices import cores
from imagekin_worker.tuning.tuner import Tuner

# Which of them fits the caches differs from one processor to the next.
CPU_BATCHES = (4, 8, 16)
JOINT_BATCH = 8
GPU_BATCHES = (64, 128, 256)
# The sides of matrices whose product is at its peak: those of a lane lie in a core's caches.
CPU_SIDE, GPU_SIDE = 512, 8192
# Between two looks whether a network is compiled.
LOOK_S = 0.5


class Configuration(NamedTuple):
    """`lanes` threads that each run batches with `intra_op` threads inside a layer."""

    lanes: int
    intra_op: int
    batch: int

    def __str__(self) -> str:
        return f"{self.lanes} x {self.intra_op} threads, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Survey:
    """The rates of a forward pass.

    They are images a second of the eager network and of the prepared one by configuration, the GFLOP of an image, and
    the GFLOP/s of the bare matrix product by lanes and threads.
    """

    eager: float
    prepared: dict[Configuration, float]
    gflop: float
    products: dict[tuple[int, int], float]

    @property
    def best(self) -> Configuration:
        """The fastest configuration."""
        return max(self.prepared, key=lambda each: self.prepared[each])

    @property
    def gain(self) -> float:
        """Prepared over eager."""
        return self.prepared[self.best] / self.eager

    @property
    def product(self) -> float:
        """GFLOP/s of the bare matrix product, as the fastest configuration has its threads."""
        return self.products[self.best.lanes, self.best.intra_op]

    @property
    def ceiling(self) -> float:
        """Images a second that a network made of nothing but such products would reach."""
        return self.product / self.gflop

    @property
    def roofline(self) -> str:
        """Return in words how close the pass is to the bare matrix product."""
        rate = self.prepared[self.best]
        return (
            f"{rate * self.gflop:.3g} GFLOP/s ({self.gflop:.3g} GFLOP an image), {rate / self.ceiling:.0%} of the bare "
            f"matrix product's {self.product:.3g}"
        )


def figure(bench: Workbench) -> Figure:
    """Measure the prepared networks over the eager ones; the smaller ratio counts."""
    surveys = {name: survey(bench, name) for name in (DEFAULT, RESNET)}
    name, worst = min(surveys.items(), key=lambda item: item[1].gain)
    details = {
        name: {
            "eager": round(each.eager, 2),
            "gain": round(each.gain, 3),
            "prepared": {str(configuration): round(rate, 2) for configuration, rate in each.prepared.items()},
            "gflop_per_image": round(each.gflop, 3),
            "gflops": round(each.prepared[each.best] * each.gflop, 1),
            "product_gflops": round(each.product, 1),
        }
        for name, each in surveys.items()
    }
    others = "; ".join(f"{other} {each.gain:.2f}, {each.roofline}" for other, each in surveys.items() if other != name)
    limit = f"{name}'s convolutions ({worst.best}): {worst.roofline}; {others}"
    return Figure(worst.prepared[worst.best], worst.eager, "images/s", worst.gain, limit, details)


def survey(bench: Workbench, name: str) -> Survey:
    """Measure a backbone's forward pass, once."""
    return bench.once(("survey", name), lambda: _survey(bench, name))


def backbone(bench: Workbench, name: str) -> Backbone:
    """Return the prepared backbone as a worker has it."""
    return bench.once(("backbone", name), lambda: _prepared(bench, name))


def rate(bench: Workbench, name: str, configuration: Configuration) -> float:
    """Measure the prepared backbone in one configuration, in images a second."""
    return rate_of(backbone(bench, name).embed, configuration, bench.space(name).preprocess.shape, bench.sizes.rate_s)


def compile_network(loaded: Backbone, settings: Settings) -> None:
    """Calibrate and compile a backbone as a worker with these settings does, and wait for it."""
    tuner = Tuner(settings)
    tuner.arrangement(loaded)
    tuner.worked(loaded, 1, settings.compile_after_s)
    while tuner.compiling:
        time.sleep(LOOK_S)
        tuner.worked(loaded, 1, LOOK_S)


def gflop(bench: Workbench, name: str) -> float:
    """Count the floating-point operations of an image's pass, in 1e9: two for each product of a convolution."""
    space = bench.space(name)
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbones.build(space).to("meta")(torch.empty(1, 3, *space.preprocess.shape, device="meta"))
    return counter.get_total_flops() / 1e9


def rate_of(
    embed: Callable[[np.ndarray], object], configuration: Configuration, shape: tuple[int, int], least_s: float
) -> float:
    """Measure the images a second of a function that embeds batches (n, 3, height, width), in one configuration."""
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (configuration.batch, *shape, 3), dtype=np.uint8).transpose(0, 3, 1, 2)

    def work() -> int:
        embed(pixels)
        return configuration.batch

    return _timed(work, least_s, configuration.lanes, configuration.intra_op)


def configurations(on_gpu: bool) -> list[Configuration]:
    """List what is tried: a lane for each core, or one pass on all cores, by batch size."""
    if on_gpu:
        return [Configuration(1, 1, batch) for batch in GPU_BATCHES]
    lanes = [Configuration(cores(), 1, batch) for batch in CPU_BATCHES]
    return [*lanes, Configuration(1, cores(), JOINT_BATCH)]


def _prepared(bench: Workbench, name: str) -> Backbone:
    """Load a backbone; on a GPU it is compiled, and the worker finds what was made of it here."""
    loaded = backbones.load(bench.space(name), bench.settings)
    if bench.on_gpu:
        compile_network(loaded, bench.settings)
    return loaded


def _survey(bench: Workbench, name: str) -> Survey:
    shape = bench.space(name).preprocess.shape
    eager = Configuration(1, 1, GPU_BATCHES[0]) if bench.on_gpu else Configuration(1, cores(), 1)
    embed = _eager(bench, name)
    tried = configurations(bench.on_gpu)
    arranged = {(each.lanes, each.intra_op) for each in tried}
    works: dict[Configuration | tuple[int, int] | None, Callable[[], float]] = {
        None: lambda: rate_of(embed, eager, shape, bench.sizes.rate_s),
        **{each: lambda each=each: rate(bench, name, each) for each in tried},
        **{each: lambda each=each: _product(bench, name, *each) for each in arranged},
    }
    found = timing.in_turns(works, bench.sizes.repetitions)
    prepared = {each: found[each] for each in tried}
    return Survey(found[None], prepared, gflop(bench, name), {each: found[each] for each in arranged})


def _eager(bench: Workbench, name: str) -> Callable[[np.ndarray], object]:
    """Return the network as the libraries have it: float32 NCHW on a CPU, bfloat16 channels_last on a GPU."""
    space = bench.space(name)
    if not bench.on_gpu:
        return backbones.load(space, bench.settings, reference=True).embed
    half: nn.Module = weights.eager(space, bench.settings).to("cuda", torch.bfloat16, memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    mean, std = (torch.tensor(each, device="cuda").view(1, 3, 1, 1) for each in
                 (space.preprocess.mean, space.preprocess.std))  # fmt: skip

    @torch.inference_mode()
    def embed(batch: np.ndarray) -> np.ndarray:
        pixels = torch.from_numpy(batch).to("cuda").float().div_(255).sub_(mean).div_(std)
        return half(pixels.to(torch.bfloat16, memory_format=torch.channels_last)).float().cpu().numpy()

    return embed


def _product(bench: Workbench, name: str, lanes: int, intra_op: int) -> float:
    """Measure the GFLOP/s of the bare matrix product, each lane with matrices of its own."""
    side = GPU_SIDE if bench.on_gpu else CPU_SIDE
    device = torch.device(bench.device)
    dtype = devices.numbers(device, bench.space(name).precision)
    own = threading.local()

    def begin() -> None:
        own.factors = [torch.randn(side, side, device=device).to(dtype) for _ in range(2)]
        own.product = torch.empty(side, side, device=device, dtype=dtype)

    def work() -> int:
        torch.mm(*own.factors, out=own.product)
        if bench.on_gpu:
            torch.cuda.synchronize()
        return 1

    return 2e-9 * side**3 * _timed(work, bench.sizes.rate_s, lanes, intra_op, begin)


def _timed(
    work: Callable[[], int], least_s: float, lanes: int, intra_op: int, begin: Callable[[], None] = lambda: None
) -> float:
    """Measure how much `work` does a second in lanes with some threads inside a layer; see timing.rate."""

    def begin_lane() -> None:
        torch.set_num_threads(intra_op)
        begin()

    before = torch.get_num_threads()
    try:
        return timing.rate(work, least_s, lanes, begin_lane)
    finally:
        torch.set_num_threads(before)
