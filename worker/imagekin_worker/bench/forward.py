"""The forward pass alone: the prepared network in every configuration that comes into question, and the eager one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from imagekin_worker import backbones
from imagekin_worker.backbones import Backbone
from imagekin_worker.bench import timing, weights
from imagekin_worker.bench.report import Figure
from imagekin_worker.bench.workbench import DEFAULT, RESNET, Workbench
from imagekin_worker.embedding import cores

# Which of them fits the caches differs from one processor to the next.
CPU_BATCHES = (4, 8, 16)
JOINT_BATCH = 8
GPU_BATCHES = (64, 128, 256)


class Configuration(NamedTuple):
    """`lanes` threads that each run batches with so many intra-op threads."""

    lanes: int
    intra_op: int
    batch: int

    def __str__(self) -> str:
        return f"{self.lanes} x {self.intra_op} threads, batch {self.batch}"


@dataclass(frozen=True, slots=True)
class Survey:
    """Images a second: of the eager network, and of the prepared one by configuration."""

    eager: float
    prepared: dict[Configuration, float]

    @property
    def best(self) -> Configuration:
        """The fastest configuration."""
        return max(self.prepared, key=lambda each: self.prepared[each])

    @property
    def gain(self) -> float:
        """Prepared over eager."""
        return self.prepared[self.best] / self.eager


def figure(bench: Workbench) -> Figure:
    """Measure the prepared networks over the eager ones; the smaller ratio counts."""
    surveys = {name: survey(bench, name) for name in (DEFAULT, RESNET)}
    name, worst = min(surveys.items(), key=lambda item: item[1].gain)
    details = {
        name: {
            "eager": round(each.eager, 2),
            "gain": round(each.gain, 3),
            "prepared": {str(configuration): round(rate, 2) for configuration, rate in each.prepared.items()},
        }
        for name, each in surveys.items()
    }
    others = ", ".join(f"{other} {each.gain:.2f}" for other, each in surveys.items() if other != name)
    limit = f"{name}'s convolutions ({worst.best}); {others}"
    return Figure(worst.prepared[worst.best], worst.eager, "images/s", worst.gain, limit, details)


def survey(bench: Workbench, name: str) -> Survey:
    """Measure a backbone's forward pass, once."""
    return bench.once(("survey", name), lambda: _survey(bench, name))


def backbone(bench: Workbench, name: str) -> Backbone:
    """Give the prepared backbone as a worker has it."""
    return bench.once(("backbone", name), lambda: backbones.load(bench.space(name), bench.settings))


def rate(bench: Workbench, name: str, configuration: Configuration) -> float:
    """Measure the prepared backbone in one configuration, in images a second."""
    return _rate(backbone(bench, name).embed, configuration, bench.space(name).preprocess.crop, bench.sizes.rate_s)


def configurations(on_gpu: bool) -> list[Configuration]:
    """List what is tried: a lane for each core, or one pass on all cores, by batch size."""
    if on_gpu:
        return [Configuration(1, 1, batch) for batch in GPU_BATCHES]
    lanes = [Configuration(cores(), 1, batch) for batch in CPU_BATCHES]
    return [*lanes, Configuration(1, cores(), JOINT_BATCH)]


def _survey(bench: Workbench, name: str) -> Survey:
    side = bench.space(name).preprocess.crop
    eager = Configuration(1, 1, GPU_BATCHES[0]) if bench.on_gpu else Configuration(1, cores(), 1)
    embed = _eager(bench, name)
    works: dict[Configuration | None, Callable[[], float]] = {
        None: lambda: _rate(embed, eager, side, bench.sizes.rate_s)
    }
    for each in configurations(bench.on_gpu):
        works[each] = lambda each=each: rate(bench, name, each)
    found = timing.in_turns(works, bench.sizes.repetitions)
    return Survey(found.pop(None), {each: value for each, value in found.items() if each is not None})


def _eager(bench: Workbench, name: str) -> Callable[[np.ndarray], object]:
    """Give the network as the libraries have it: float32 NCHW on a CPU, bfloat16 channels_last on a GPU."""
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


def _rate(embed: Callable[[np.ndarray], object], configuration: Configuration, side: int, least_s: float) -> float:
    random = np.random.default_rng(0)
    pixels = random.integers(0, 256, (configuration.batch, side, side, 3), dtype=np.uint8).transpose(0, 3, 1, 2)

    def work() -> int:
        embed(pixels)
        return configuration.batch

    def begin() -> None:
        torch.set_num_threads(configuration.intra_op)

    before = torch.get_num_threads()
    try:
        return timing.rate(work, least_s, configuration.lanes, begin)
    finally:
        torch.set_num_threads(before)
