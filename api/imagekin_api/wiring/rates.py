"""How fast an owner may send requests: a token bucket for each in Redis, so that all API processes count together.

While Redis is down each process counts for itself: then several processes allow a multiple of the rate, and no request
is refused or delayed because of Redis.
"""

from __future__ import annotations

import hashlib
import math
import threading
import time
from collections.abc import Callable
from typing import Protocol

import redis
import sqlalchemy as sa
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from imagekin import errors
from imagekin.settings import Settings

log = structlog.get_logger()

# What an idle owner may ask at once, in seconds of the rate.
BURST_S = 10.0
REDIS_TIMEOUT_S = 0.1
# How long Redis is left alone after it failed; until then a request would wait for it every time.
PAUSE_S = 5.0

# Redis's own clock, since those of the machines need not agree. A bucket that is full again is forgotten.
_TAKE = """
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
local bucket = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(bucket[1]) or burst
tokens = math.min(burst, tokens + math.max(0, now - (tonumber(bucket[2]) or now)) * rate)
if tokens < 1 then return string.format('%.6f', (1 - tokens) / rate) end
redis.call('HSET', KEYS[1], 'tokens', string.format('%.9f', tokens - 1), 'at', string.format('%.6f', now))
redis.call('PEXPIRE', KEYS[1], math.ceil(1000 * burst / rate))
return '0'
"""


class Buckets(Protocol):
    """The buckets of all owners."""

    def take(self, owner: str) -> float:
        """Take a token out of the owner's bucket and return 0, or the seconds until there is one."""
        ...


class Rates:
    """The request rates of all owners: `shared` buckets if Redis answers, else those of this process."""

    def __init__(
        self, own: Buckets, shared: Buckets | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._own = own
        self._shared = shared
        self._clock = clock
        self._shared_again = -math.inf

    @classmethod
    def of(cls, settings: Settings) -> Rates | None:
        """Return the rates from the settings; None without a limit."""
        rate = settings.rate_limit_per_s
        return cls(OwnBuckets(rate), SharedBuckets(rate, settings)) if rate else None

    def take(self, owner: str) -> None:
        """Count a request; raises RateLimited, with the seconds until one is allowed."""
        wait_s = self._take(owner)
        if wait_s > 0:
            raise errors.RateLimited(retry_after_s=math.ceil(wait_s))

    def _take(self, owner: str) -> float:
        if self._shared is not None and self._clock() >= self._shared_again:
            try:
                return self._shared.take(owner)
            except (redis.RedisError, OSError) as error:
                self._shared_again = self._clock() + PAUSE_S
                log.warning("rates_counted_alone", error=f"{type(error).__name__}: {error}")
        return self._own.take(owner)


class SharedBuckets:
    """Buckets in Redis, shared by all processes that work on one database; raises RedisError while it is down."""

    def __init__(self, per_s: float, settings: Settings) -> None:
        self._arguments = (per_s, _burst(per_s))
        limits = {"socket_timeout": REDIS_TIMEOUT_S, "socket_connect_timeout": REDIS_TIMEOUT_S}
        # nothing is connected yet
        connection = redis.Redis.from_url(settings.redis_url, retry=Retry(NoBackoff(), 0), **limits)
        self._script = connection.register_script(_TAKE)
        # two deployments may share a Redis
        address = sa.make_url(settings.database).set(password=None).render_as_string()
        self._prefix = f"imagekin:rate:{hashlib.sha256(address.encode()).hexdigest()[:8]}:"

    def take(self, owner: str) -> float:
        return float(self._script([self._prefix + owner], self._arguments))


class OwnBuckets:
    """Buckets in this process; `per_s` tokens a second flow into each.

    Only owners with a known key get a bucket, so there are never more buckets than owners.
    """

    def __init__(self, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_s = per_s
        self._burst = _burst(per_s)
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: dict[str, tuple[float, float]] = {}

    def take(self, owner: str) -> float:
        with self._lock:
            now = self._clock()
            tokens, at = self._buckets.get(owner, (self._burst, now))
            tokens = min(self._burst, tokens + (now - at) * self._per_s)
            if tokens < 1:
                return (1 - tokens) / self._per_s
            self._buckets[owner] = (tokens - 1, now)
            return 0.0


def _burst(per_s: float) -> float:
    return max(1.0, per_s * BURST_S)
