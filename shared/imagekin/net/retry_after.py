"""The header Retry-After (RFC 9110, 10.2.3)."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def seconds(value: str) -> int | None:
    """Return the seconds that a Retry-After asks for, by a number or a date; None if it says neither."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        return int(value) if len(value) < 12 else None
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    at = at if at.tzinfo else at.replace(tzinfo=UTC)
    return max(0, round((at - datetime.now(UTC)).total_seconds()))
