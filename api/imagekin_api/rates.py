"""How fast an owner may ask: a token bucket for each, in this process.

Each API process counts for itself: a count that all share would make every request wait for Redis, which may be away.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable

from imagekin import errors

# What an idle owner may ask at once, in seconds of the rate.
BURST_S = 10.0


class Rates:
    """The buckets of all owners; `per_s` tokens a second flow into each, and 0 is no limit.

    Only owners whose key is known get a bucket, so there are no more of them than owners.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = max(1.0, per_s * BURST_S)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, owner: str) -> None:
        """Take a token out of the owner's bucket; raises RateLimited, with the seconds until there is one."""
        if not self._per_s:
            return
        with self._lock:
            now = self._clock()
            tokens, at = self._buckets.get(owner, (self._burst, now))
            tokens = min(self._burst, tokens + (now - at) * self._per_s)
            if tokens < 1:
                raise errors.RateLimited(retry_after_s=math.ceil((1 - tokens) / self._per_s))
            self._buckets[owner] = (tokens - 1, now)
