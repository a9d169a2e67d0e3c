"""Keeps the memory of a forward pass for the next one; by default the C library returns it to the system.

A pass of four pictures takes and drops tens of megabytes layer by layer; the system clears new memory page by page,
which took 8 % of a lane's time (600 to 1,900 faults an image).
"""

from __future__ import annotations

import ctypes
import os
import sys

MIB = 2**20
KEPT_PER_CORE = 128 * MIB
"""The most memory that a pass of a lane takes, among the networks that are fast enough for this to matter."""

# mallopt(3) of glibc, whose parameters' numbers are part of its interface. Threads' own arenas end at 64 MiB and are
# handed back whole, so all threads use the main one, which takes no time: a pass asks for few and large pieces. Pieces
# beyond a threshold are mapped one by one; 32 MiB is the most that it can be.
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8


def keep_memory() -> bool:
    """Make this process keep freed memory, up to `KEPT_PER_CORE` for each core; False without glibc.

    Call it before other threads start: a thread with an arena of its own leaves that to later threads.
    """
    if sys.platform != "linux" or (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)) is None:
        return False
    kept = min(KEPT_PER_CORE * len(os.sched_getaffinity(0)), 2**31 - 1)
    options = {_ARENA_MAX: 1, _MMAP_THRESHOLD: 32 * MIB, _TRIM_THRESHOLD: kept, _TOP_PAD: 16 * MIB}
    return all(mallopt(name, value) == 1 for name, value in options.items())
