"""What a call may cost: processor time of this process, which others on the machine do not add to.

Each bound is twenty times or more what the call takes on one slow core: no slow machine reaches it, and what grows with
the square of a hostile input does.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def at_most(cpu_s: float) -> Iterator[None]:
    """Assert that the block takes no more processor time, all threads together."""
    before = time.process_time()
    yield
    took = time.process_time() - before
    assert took < cpu_s, f"{took:.2f} s of processor time"
