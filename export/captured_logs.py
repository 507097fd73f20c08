"""Turning what libraries only log into something that can be acted on."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def warnings_of(logger_name: str, level: int = logging.WARNING) -> Iterator[list[str]]:
    """Collect the messages that a logger emits at `level` or above, one line each, instead of printing them."""
    messages: list[str] = []
    logger = logging.getLogger(logger_name)
    before = logger.level, logger.propagate
    handler = _Collector(messages, level)
    logger.addHandler(handler)
    logger.setLevel(level)
    logger.propagate = False
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.level, logger.propagate = before


class _Collector(logging.Handler):
    def __init__(self, messages: list[str], level: int) -> None:
        super().__init__(level)
        self._messages = messages

    def emit(self, record: logging.LogRecord) -> None:
        raised = record.exc_info[1] if record.exc_info else None  # says more than the message, where there is one
        self._messages.append((str(raised or record.getMessage()).strip().splitlines() or [record.name])[0][:300])
