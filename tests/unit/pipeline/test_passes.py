"""Single passes learn how many threads make them quickest."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
import torch

from imagekin_worker.network.backbones import Backbone, Batch
from imagekin_worker.pipeline.single import Passes


class Network:
    """A network whose passes take what is said for each number of threads, by a clock of its own."""

    space = SimpleNamespace(fingerprint="a space")
    compiled_from: Path | None = None

    def __init__(self, seconds: dict[int, float], on_gpu: bool = False) -> None:
        self.seconds, self.on_gpu = seconds, on_gpu
        self.now = 0.0
        self.seen: list[int] = []

    def embed(self, batch: Batch) -> np.ndarray:
        self.seen.append(torch.get_num_threads())
        self.now += self.seconds[self.seen[-1]] * len(batch)
        return np.zeros((len(batch), 2), np.float32)


def batch(size: int = 1) -> Batch:
    return np.zeros((size, 3, 4, 4), np.uint8)


@pytest.mark.parametrize(
    ("seconds", "best"), [({1: 1, 2: 2, 3: 3}, 1), ({1: 3, 2: 1, 3: 2}, 2), ({1: 3, 2: 2, 3: 1}, 3)]
)
def test_each_number_is_tried_and_the_quickest_stays(seconds: dict[int, float], best: int) -> None:
    network = Network(seconds)
    passes = Passes(3, clock=lambda: network.now)
    before = torch.get_num_threads()
    for _ in range(10):
        assert passes.embed(cast(Backbone, network), batch()).shape == (1, 2)
    assert sorted(network.seen[:6]) == [1, 1, 2, 2, 3, 3]
    assert network.seen[6:] == [best] * 4
    assert torch.get_num_threads() == before
    # a batch of another size is another matter
    for _ in range(6):
        passes.embed(cast(Backbone, network), batch(4))
    assert sorted(network.seen[10:]) == [1, 1, 2, 2, 3, 3]
    # and so is the network once it is compiled
    network.compiled_from = Path("network.xml")
    for _ in range(6):
        passes.embed(cast(Backbone, network), batch(4))
    assert sorted(network.seen[16:]) == [1, 1, 2, 2, 3, 3]


def test_a_pass_that_fails_leaves_the_threads_as_they_were() -> None:
    network = Network({})
    before = torch.get_num_threads()
    with pytest.raises(KeyError):
        Passes(before + 1).embed(cast(Backbone, network), batch())
    assert torch.get_num_threads() == before


def test_a_gpus_passes_are_left_alone() -> None:
    before = torch.get_num_threads()
    network = Network({before: 1}, on_gpu=True)
    Passes(before + 5).embed(cast(Backbone, network), batch())
    assert network.seen == [before]
