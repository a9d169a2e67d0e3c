"""Webhook senders, and a receiver on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from imagekin.settings import Settings
from imagekin_worker.process.webhook_sender import WebhookSender
from kit.receiving import SECRET, Receiver, receiver


@pytest.fixture
def settings(settings: Settings) -> Settings:
    return settings.model_copy(update={"webhook_secret": SECRET, "fetch_allow": ("127.0.0.1",)})


@pytest.fixture
def there() -> Iterator[Receiver]:
    with receiver() as received:
        yield received


@pytest.fixture
def webhook_sender(settings: Settings) -> Iterator[Callable[..., WebhookSender]]:
    """Start webhook senders; they stop with the test."""
    started = []

    def start(**changes: Any) -> WebhookSender:
        started.append(WebhookSender(settings.model_copy(update=changes)))
        return started[-1]

    yield start
    for each in started:
        each.stop(timeout_s=30)
