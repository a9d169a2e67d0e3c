"""Single forward passes, for searches, on the number of cores that is fastest."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from imagekin_worker.network.backbones import Backbone, Batch
from imagekin_worker.network.devices import cores

# How often each number of threads is tried before the best of them stays.
TRIALS = 2


class Passes:
    """Runs networks on one batch at a time, and learns the best number of threads.

    More threads are not always faster, since they wait for each other after each layer: one picture can take longer on
    two cores than on one. The best number depends on machine, network and batch, so the first batches of each size try
    one number after the other.
    """

    def __init__(self, threads: int = 0, clock: Callable[[], float] = time.perf_counter) -> None:
        most = threads or cores()
        self._choices = [most] + [2**power for power in range(most.bit_length()) if 2**power < most]
        self._clock = clock
        # by network and size of the batch, then by number of threads
        self._times: dict[tuple[str, Path | None, int], dict[int, list[float]]] = {}

    def embed(self, backbone: Backbone, batch: Batch) -> NDArray[np.float32]:
        """Embed pictures (n, 3, height, width) into (n, dim), as `Backbone.embed` does."""
        if backbone.on_gpu:
            return backbone.embed(batch)
        work = backbone.space.fingerprint, backbone.compiled_from, len(batch)
        times = self._times.setdefault(work, {choice: [] for choice in self._choices})
        untried = [choice for choice in self._choices if len(times[choice]) < TRIALS]
        threads = untried[0] if untried else min(times, key=lambda choice: min(times[choice]))
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            began = self._clock()
            found = backbone.embed(batch)
            if untried:
                times[threads].append(self._clock() - began)
        finally:
            torch.set_num_threads(before)
        return found
