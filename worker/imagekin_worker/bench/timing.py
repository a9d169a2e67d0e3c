"""Measuring in turns: what is compared shares the same minutes, and a median forgets a disturbance."""

from __future__ import annotations

import statistics
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import TypeVar

K = TypeVar("K", bound=Hashable)


def seconds(work: Callable[[], object]) -> float:
    """Time one call."""
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def in_turns(works: Mapping[K, Callable[[], float]], repetitions: int) -> dict[K, float]:
    """Call each measurement in turn, `repetitions` times around, and give the median of each."""
    taken: dict[K, list[float]] = {name: [] for name in works}
    for _ in range(repetitions):
        for name, work in works.items():
            taken[name].append(work())
    return {name: statistics.median(values) for name, values in taken.items()}


def rate(work: Callable[[], int], least_s: float, threads: int = 1, begin: Callable[[], None] | None = None) -> float:
    """Return how much `work` does a second, called over and over by some threads for `least_s` each.

    `work` says how much it did; `begin` runs once in each thread before.
    """
    rates: list[float] = []
    together = threading.Barrier(threads)

    def run() -> None:
        if begin is not None:
            begin()
        work()
        together.wait()
        done, started = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - started) < least_s or not done:
            done += work()
        rates.append(done / elapsed)

    running = [threading.Thread(target=run) for _ in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return sum(rates)
