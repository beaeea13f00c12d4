"""Structured logs on standard error, or in a file: one JSON object a line, or readable lines for a terminal.

Rule: a log call gets ids, codes and counts, and never a request, a reply or a settings object.
"""

import logging
import sys
from typing import Any, Literal

import structlog

Form = Literal["json", "console"]

_LEVELS = logging.getLevelNamesMapping()


def configure_logging(level: str, form: Form, file: str | None = None) -> None:
    """Format our logs and those of the libraries alike.

    Args:
        level: the lowest that is written.
        form: of each line.
        file: where lines are appended; `None` for standard error.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level.upper()]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                *_renderers(form),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def rendered(form: Form, level: str, logger: str, event: str) -> str:
    """One line, for where a logger cannot be used: in a signal handler."""
    line: Any = {"event": event, "level": level, "logger": logger}
    processors: list[structlog.typing.Processor] = [structlog.processors.TimeStamper(fmt="iso", utc=True)]
    for processor in processors + _renderers(form):
        line = processor(None, level, line)
    return str(line)


def _renderers(form: Form) -> list[structlog.typing.Processor]:
    if form == "console":
        return [structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
