"""Token buckets, with a clock that the test moves."""

from __future__ import annotations

import threading

import pytest
import redis

from imagekin import errors
from imagekin.settings import Settings
from imagekin_api.wiring.rates import BURST_S, PAUSE_S, OwnBuckets, Rates


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_is_allowed_and_then_the_rate() -> None:
    clock = Clock()
    rates = Rates(OwnBuckets(2, clock))
    for _ in range(int(2 * BURST_S)):
        rates.take("ada")
    with pytest.raises(errors.RateLimited) as caught:
        rates.take("ada")
    assert caught.value.retry_after_s == 1
    clock.now += 0.5
    rates.take("ada")
    with pytest.raises(errors.RateLimited):
        rates.take("ada")


def test_retry_after_is_long_enough() -> None:
    clock = Clock()
    rates = Rates(OwnBuckets(0.1, clock))
    rates.take("ada")
    with pytest.raises(errors.RateLimited) as caught:
        rates.take("ada")
    assert caught.value.retry_after_s == 10
    clock.now += 10
    rates.take("ada")


def test_owners_have_a_bucket_each_which_does_not_overflow() -> None:
    clock = Clock()
    rates = Rates(OwnBuckets(1, clock))
    clock.now += 1000
    for _ in range(int(BURST_S)):
        rates.take("ada")
    clock.now += 1000
    for _ in range(int(BURST_S)):
        rates.take("ada")
    with pytest.raises(errors.RateLimited):
        rates.take("ada")
    rates.take("bob")


def test_zero_is_no_limit() -> None:
    assert Rates.of(Settings(rate_limit_per_s=0)) is None


class Flaky:
    """Shared buckets that refuse everybody, and are away when they are told to."""

    def __init__(self) -> None:
        self.away = False
        self.asked = 0

    def take(self, owner: str) -> float:
        self.asked += 1
        if self.away:
            raise redis.ConnectionError("gone")
        return 7.0


def test_this_process_counts_alone_while_redis_is_away_and_asks_it_again_later() -> None:
    clock, shared = Clock(), Flaky()
    rates = Rates(OwnBuckets(1, clock), shared, clock)
    shared.away = True
    for _ in range(int(BURST_S)):
        rates.take("ada")
    with pytest.raises(errors.RateLimited) as caught:
        rates.take("ada")
    assert caught.value.retry_after_s == 1
    assert shared.asked == 1
    shared.away = False
    clock.now += PAUSE_S
    with pytest.raises(errors.RateLimited) as caught:
        rates.take("ada")
    assert caught.value.retry_after_s == 7


def test_threads_share_a_bucket() -> None:
    rates, taken = Rates(OwnBuckets(10, Clock())), []

    def ask() -> None:
        for _ in range(50):
            try:
                rates.take("ada")
                taken.append(1)
            except errors.RateLimited:
                pass

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(taken) == 10 * BURST_S
