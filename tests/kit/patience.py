"""Waiting for what other threads and processes do."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# A start on a busy machine with two cores takes long: PyTorch alone takes seconds to import.
PATIENCE_S = 90.0


def until(condition: Callable[[], T | None], what: str = "", timeout_s: float = PATIENCE_S) -> T:
    """Wait until the condition gives something true, and return that; raises TimeoutError."""
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout_s:g} s for {what or condition}")
        time.sleep(0.01)
    return found
