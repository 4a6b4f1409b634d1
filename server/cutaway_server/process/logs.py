"""The server's log."""

import sys
from collections.abc import MutableMapping
from typing import Any

import structlog
from structlog.tracebacks import ExceptionDictTransformer

from cutaway_server.process.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Structured lines on standard error: JSON for machines, columns on a terminal. Tracebacks hold no values of a caller's."""
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    traceback = structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False))
    form: list[structlog.typing.Processor] = (
        [traceback, structlog.processors.JSONRenderer()]
        if as_json
        else [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    )
    structlog.configure(
        processors=shared + form,
        wrapper_class=structlog.make_filtering_bound_logger(settings.log_level),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def log_for_people() -> None:
    """A line on standard error for what is amiss, and no traceback: for commands that end soon."""
    structlog.configure(
        processors=[_line],
        wrapper_class=structlog.make_filtering_bound_logger("warning"),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _line(_: object, level: str, said: MutableMapping[str, Any]) -> str:
    error = said.pop("exc_info", None)
    facts = [f"{name}: {value}" for name, value in said.items() if name != "event"]
    if isinstance(error, BaseException):
        facts.append(f"{type(error).__name__}: {' '.join(str(error).split())}")
    return "; ".join([f"{level}: {said['event']}", *facts])
