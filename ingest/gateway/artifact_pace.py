"""Metrics first: how fast artifacts may move while metrics are being logged.

A gateway process has one event loop, and its machine one disk. While metric appends come in, transfers take turns,
pause while an append is under way, and keep below a rate that is learnt: it falls when appends take clearly longer
beside transfers than they did without, or when the loop is late, and rises again when they do not. With no metrics
coming in, nothing is held back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from ingest.gateway.telemetry import AppendTelemetry

# Metrics count as coming in for this long after the last append.
_ACTIVE_S = 1.0
# A turn waits for an append under way, but no longer than this.
_MAX_PAUSE_S = 0.01
_LOOK_S = 0.002
# Appends beside transfers may take this much longer than the slowest tenth of those without.
_TOLERANCE = 1.5
_TOLERANCE_S = 0.001
_LATE_S = 0.004
_FIRST_GUESS_S = 0.005
_SLOWER = 0.7
_FASTER = 1.08
_MIN_RATE = 16e6
_MAX_RATE = 4e9
_FIRST_RATE = 200e6


class Pace:
    """The pace of one process's transfers: a ``Yield`` for them. ``urgent`` says whether an append is under way."""

    def __init__(self, urgent: Callable[[], bool], clock: Callable[[], float] = time.monotonic) -> None:
        self._urgent = urgent
        self._clock = clock
        self._turn = asyncio.Lock()
        self._active_until = 0.0
        self._moved_at = 0.0
        self._next_at = 0.0
        self._rate = _FIRST_RATE
        self._usual_s = _FIRST_GUESS_S

    @property
    def bytes_per_s(self) -> float:
        """The rate that holds while metrics come in."""
        return self._rate

    def over(self, telemetry: AppendTelemetry) -> AppendTelemetry:
        """The same telemetry, with the pace listening."""
        return _Listening(self, telemetry)

    def appended(self, seconds: float) -> None:
        """An append took this long."""
        now = self._clock()
        self._active_until = now + _ACTIVE_S
        if now - self._moved_at > _ACTIVE_S:
            # Its own slowest tenth: up by 9 steps or down by 1, which settles where 1 in 10 lies above.
            self._usual_s *= 1.09 if seconds > self._usual_s else 0.99
            return
        self._judge(seconds > self._usual_s * _TOLERANCE + _TOLERANCE_S)

    async def __call__(self, size: int) -> None:
        """Wait for the next turn of a transfer that has moved ``size`` bytes."""
        now = self._clock()
        if now >= self._active_until:
            self._moved_at = now
            return
        async with self._turn:
            until = self._clock() + _MAX_PAUSE_S
            while self._urgent() and self._clock() < until:  # noqa: ASYNC110  # nobody says when the last one ends
                await asyncio.sleep(_LOOK_S)
            now = self._clock()
            wait_s = self._next_at - now
            await asyncio.sleep(max(0.0, wait_s))  # if only to let the loop look at its sockets
            if wait_s > 0 and self._clock() - self._next_at > _LATE_S:
                self._judge(True)
            self._moved_at = self._clock()
            self._next_at = max(self._next_at, self._moved_at - _LATE_S) + size / self._rate

    def _judge(self, slow: bool) -> None:
        rate = self._rate * (_SLOWER if slow else _FASTER)
        self._rate = min(_MAX_RATE, max(_MIN_RATE, rate))


class _Listening:
    def __init__(self, pace: Pace, telemetry: AppendTelemetry) -> None:
        self._pace = pace
        self._telemetry = telemetry

    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        self._pace.appended(seconds)
        self._telemetry.appended(points, seconds, error)
