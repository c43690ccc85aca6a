"""A line on standard error about transfers that take long."""

from __future__ import annotations

import sys
import time
from types import TracebackType

_QUIET_S = 1.0
_INTERVAL_S = 0.2


class Progress:
    """Counts what arrives; after a second it begins to say so, and takes the line back at the end.

    ``shown`` is ``None`` for a terminal or a notebook only.
    """

    def __init__(self, shown: bool | None) -> None:
        self._shown = _interactive() if shown is None else shown
        self._started = time.monotonic()
        self._said = 0.0
        self._width = 0
        self._rows = 0
        self._bytes = 0

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._width:
            sys.stderr.write("\r" + " " * self._width + "\r")
            sys.stderr.flush()

    def received(self, size: int) -> None:
        """So many bytes more have come over the wire."""
        self._bytes += size

    def rows(self, count: int) -> None:
        """So many points more have been read."""
        self._rows += count
        now = time.monotonic()
        if not self._shown or now - self._started < _QUIET_S or now - self._said < _INTERVAL_S:
            return
        self._said = now
        spent_s = now - self._started
        line = f"{self._rows:,} points, {self._bytes / 1e6:,.1f} MB, {self._rows / spent_s:,.0f} points/s"
        sys.stderr.write("\r" + line.ljust(self._width))
        sys.stderr.flush()
        self._width = max(self._width, len(line))


def _interactive() -> bool:
    return "ipykernel" in sys.modules or sys.stderr.isatty()
