"""Logs: one line an event, as JSON or for people, with job, chunk and attempt where there are any, without secrets."""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Callable
from contextvars import copy_context
from typing import Any
from urllib.parse import unquote, urlsplit

import structlog

from imagekin.settings import Settings

# Celery's word for each ring, the empty ones too, and our client's for each request: what they led to, our own events
# and results say.
CHATTY = ("celery.worker.strategy", "celery.app.trace", "httpx2")
# At debug they write down the headers of their requests, session tokens too.
TELLTALES = ("aiobotocore", "botocore", "s3fs")
HIDDEN = "***"
_PASSWORD_IN_URL = re.compile(r"(://[^\s/:@]*:)[^\s/@]+@")
# wherever it stands: the console puts a color right before it, which ends in a letter
_API_KEY = re.compile(r"ik_[A-Za-z0-9_-]{43}")
# Shorter ones would be found in ordinary words.
_SHORTEST_SECRET = 6


def configure(settings: Settings) -> None:
    """Send our events, those of the libraries and warnings to stderr in the settings' format; safe to call again."""
    console = settings.log_format == "console" or (settings.log_format == "auto" and sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    # tracebacks without local variables: those hold settings, and settings hold secrets
    renderer = (
        structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
        if console
        else structlog.processors.JSONRenderer()
    )
    format_exception = [] if console else [structlog.processors.format_exc_info]
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *format_exception,
                renderer,
                _hiding(settings),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(settings.log_level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.NOTSET if settings.log_level == "debug" else logging.WARNING)
    for name in TELLTALES:
        logging.getLogger(name).setLevel(max(logging.INFO, root.level))
    logging.captureWarnings(True)
    threading.excepthook = _log_thread


def in_context(work: Callable[[], None]) -> Callable[[], None]:
    """Return `work` with the job, chunk and attempt that are bound here: a thread begins with none."""
    context = copy_context()
    return lambda: context.run(work)


def _log_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is not SystemExit and args.exc_value is not None:
        name = args.thread.name if args.thread else ""
        structlog.get_logger("imagekin").error("thread_died", thread=name, exc_info=args.exc_value)


def _password(url: str) -> str | None:
    try:
        return urlsplit(url).password
    except ValueError:  # no URL: whoever uses it will say so
        return None


def _hiding(settings: Settings) -> structlog.typing.Processor:
    """Return the last step of a line, which removes secrets wherever they came from."""
    urls = (settings.database_url, settings.redis_url, settings.storage_url)
    passwords = [password for url in urls if (password := _password(url))]
    signing = (settings.webhook_secret, settings.webhook_previous_secret)
    secrets = {settings.first_key, *signing, *passwords, *map(unquote, passwords)}
    # as they are, and as they stand in a line of JSON
    secrets |= {json.dumps(secret)[1:-1] for secret in secrets}
    known = sorted((secret for secret in secrets if len(secret) >= _SHORTEST_SECRET), key=len, reverse=True)

    def hide(_logger: Any, _name: str, line: Any) -> str:
        for secret in known:
            line = line.replace(secret, HIDDEN)
        return _API_KEY.sub(HIDDEN, _PASSWORD_IN_URL.sub(rf"\1{HIDDEN}@", line))

    return hide
