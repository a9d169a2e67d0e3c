"""Batches on an NVIDIA GPU: page-locked uint8 is copied while the batch before is computed from a recorded graph."""

from __future__ import annotations

from collections.abc import Callable

import structlog
import torch
from torch import Tensor

from imagekin_worker.network.slots import Rows

log = structlog.get_logger()

WARM_UPS = 3
"""Runs before a graph is recorded: in them cuDNN searches for its fastest kernels, which cannot be recorded."""


class Queue:
    """The streams of one network on one device: one for copies to it, one for kernels."""

    def __init__(self, network: Callable[[Tensor], Tensor], device: torch.device) -> None:
        self.network = network
        self.device = device
        self.copies = torch.cuda.Stream(device)
        self.kernels = torch.cuda.Stream(device)
        # its graphs run one after the other, so they may share what they compute in
        self.pool = torch.cuda.graph_pool_handle()


class CudaSlot:
    """A slot on a GPU; see streams.Slot. Everything after `start` happens without the CPU."""

    def __init__(self, queue: Queue, batch: int, shape: tuple[int, int]) -> None:
        self._queue = queue
        self._host = torch.zeros((batch, *shape, 3), dtype=torch.uint8, pin_memory=True)
        self.pixels = self._host.numpy()
        self._there = self._host.to(queue.device)
        self._arrived, self._done = torch.cuda.Event(), torch.cuda.Event()
        self._compute = self._recorded()
        self._rows = torch.empty(self._compute().shape, dtype=torch.float32, pin_memory=True)
        torch.cuda.synchronize(queue.device)

    @torch.inference_mode()
    def start(self) -> None:
        """Begin to copy and to embed the pixels; see streams.Slot."""
        queue = self._queue
        with torch.cuda.stream(queue.copies):
            self._there.copy_(self._host, non_blocking=True)
            self._arrived.record(queue.copies)
        with torch.cuda.stream(queue.kernels):
            queue.kernels.wait_event(self._arrived)
            self._rows.copy_(self._compute(), non_blocking=True)
            self._done.record(queue.kernels)

    def finish(self) -> Rows:
        """Wait for the embeddings; see streams.Slot."""
        self._done.synchronize()
        return self._rows.numpy().copy()

    @torch.inference_mode()
    def _recorded(self) -> Callable[[], Tensor]:
        """Record the network's kernels as one graph, which the CPU starts with one call; otherwise run it as it is."""
        queue = self._queue
        with torch.cuda.stream(queue.kernels):
            for _ in range(WARM_UPS):
                queue.network(self._there)
        queue.kernels.synchronize()
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, queue.pool, queue.kernels, capture_error_mode="thread_local"):
                embeddings = queue.network(self._there)
        except RuntimeError as error:
            log.warning("graph_not_recorded", error=str(error).splitlines()[0])
            return lambda: queue.network(self._there)

        def replay() -> Tensor:
            graph.replay()
            return embeddings

        return replay
