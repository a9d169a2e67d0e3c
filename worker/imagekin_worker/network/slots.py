"""Batches of one fixed size on a device: one is filled while the one before it is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]


class Slot(Protocol):
    """The place of one batch, on the host and on the device.

    `pixels`: (batch, height, width, 3), written before `start`.
    """

    pixels: Pixels

    def start(self) -> None:
        """Begin to embed the pixels; do not write into them until `finish` has returned."""
        ...

    def finish(self) -> Rows:
        """Wait for the batch and return its embeddings (batch, dim), which the caller may keep."""
        ...


class HostSlot:
    """A slot on the CPU, which does all its work in `start`: the logic of a device's stream without a device."""

    def __init__(self, embed: Callable[[Pixels], Rows], batch: int, shape: tuple[int, int]) -> None:
        self.pixels = np.zeros((batch, *shape, 3), np.uint8)
        self._embed = embed
        self._rows: Rows | None = None

    def start(self) -> None:
        """Embed the pixels; see Slot."""
        self._rows = self._embed(self.pixels.transpose(0, 3, 1, 2))

    def finish(self) -> Rows:
        """Return the embeddings; see Slot."""
        assert self._rows is not None
        rows, self._rows = self._rows, None
        return rows


class Stream:
    """Slots used in turns; not for several threads at once.

    Graphs and compiled kernels accept one batch size only, so a partial batch keeps old pictures in its free places,
    and their embeddings are dropped: other pictures in a batch change nothing.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._free = deque(slots)
        self._flying: deque[tuple[Slot, int]] = deque()
        self.batch = len(slots[0].pixels)

    @property
    def full(self) -> bool:
        """Whether a batch must be collected before another can begin."""
        return not self._free

    @property
    def flying(self) -> int:
        """The number of batches begun and not yet collected."""
        return len(self._flying)

    def begin(self, pictures: Sequence[Pixels]) -> None:
        """Begin to embed at most `batch` pictures (height, width, 3)."""
        slot = self._free[0]
        for at, pixels in enumerate(pictures):
            slot.pixels[at] = pixels
        slot.start()
        self._flying.append((self._free.popleft(), len(pictures)))

    def collect(self) -> Rows:
        """Wait for the oldest batch and return its embeddings (pictures, dim)."""
        slot, count = self._flying.popleft()
        try:
            return slot.finish()[:count]
        finally:
            self._free.append(slot)

    def drop(self) -> None:
        """Wait for all batches and drop them, so that the next user finds all slots free."""
        while self._flying:
            self.collect()
