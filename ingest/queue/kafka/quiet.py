"""Keeps aiokafka's log readable while a broker is away."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

_LOGGERS = (
    "aiokafka",
    "aiokafka.cluster",
    "aiokafka.conn",
    "aiokafka.consumer.fetcher",
    "aiokafka.consumer.group_coordinator",
    "aiokafka.producer.sender",
)
_EVERY_S = 10.0


class RepeatFilter(logging.Filter):
    """Lets a message of a kind (same place in the code) pass once every ``every_s`` seconds, saying how many were
    left out. aiokafka reports each failed try, ten times a second for each connection."""

    def __init__(self, every_s: float = _EVERY_S, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._every_s = every_s
        self._clock = clock
        self._kinds: dict[tuple[str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this one is to be logged."""
        if record.levelno < logging.WARNING:
            return True
        kind = (record.pathname, record.lineno)
        last, left_out = self._kinds.get(kind, (float("-inf"), 0))
        now = self._clock()
        if now - last < self._every_s:
            self._kinds[kind] = (last, left_out + 1)
            return False
        self._kinds[kind] = (now, 0)
        if left_out:
            record.msg = f"{record.msg} (and {left_out} like it)"
        return True


def quieten() -> None:
    """Install the filter, once."""
    for name in _LOGGERS:
        found = logging.getLogger(name)
        if not any(isinstance(present, RepeatFilter) for present in found.filters):
            found.addFilter(RepeatFilter())
