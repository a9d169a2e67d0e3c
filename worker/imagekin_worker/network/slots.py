"""Batches of one fixed size through a network on a device: one is filled while the one before it is computed."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Rows = NDArray[np.float32]


class Slot(Protocol):
    """One batch's place, on the host and on the device. `pixels`: (batch, crop, crop, 3), written before `start`."""

    pixels: Pixels

    def start(self) -> None:
        """Begin to embed the pixels; nothing may be written into them until `finish` came back."""
        ...

    def finish(self) -> Rows:
        """Wait for what was begun and return its embeddings (batch, dim), which are the caller's to keep."""
        ...


class HostSlot:
    """A slot on the CPU, which does all its work in `start`: the logic of a device's stream without a device."""

    def __init__(self, embed: Callable[[Pixels], Rows], batch: int, side: int) -> None:
        self.pixels = np.zeros((batch, side, side, 3), np.uint8)
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
    """Slots used by turns; not for several threads at once.

    Graphs and compiled kernels take one batch size only, so a partial batch goes with whatever its slot held before
    in the places left, and their embeddings are dropped: neighbors change nothing.
    """

    def __init__(self, slots: Sequence[Slot]) -> None:
        self._free = deque(slots)
        self._flying: deque[tuple[Slot, int]] = deque()
        self.batch = len(slots[0].pixels)

    @property
    def full(self) -> bool:
        """Whether a batch must be collected before another one can be begun."""
        return not self._free

    @property
    def flying(self) -> int:
        """How many batches are begun and not collected."""
        return len(self._flying)

    def begin(self, pictures: Sequence[Pixels]) -> None:
        """Begin to embed at most `batch` pictures (crop, crop, 3)."""
        slot = self._free[0]
        for at, pixels in enumerate(pictures):
            slot.pixels[at] = pixels
        slot.start()
        self._flying.append((self._free.popleft(), len(pictures)))

    def collect(self) -> Rows:
        """Wait for the batch that was begun first and return its embeddings (pictures, dim)."""
        slot, count = self._flying.popleft()
        try:
            return slot.finish()[:count]
        finally:
            self._free.append(slot)

    def drop(self) -> None:
        """Wait for what is begun and forget it, so that the next user finds all slots free."""
        while self._flying:
            self.collect()
