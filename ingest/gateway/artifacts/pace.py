"""Metrics first: how fast artifacts may move while metrics are being logged.

A gateway process has one event loop, and its machine one disk. While metric appends come in, transfers take turns,
pause while an append is under way, and keep below a rate that is learnt: it falls when an append takes clearly longer
beside transfers than all but the slowest do without, or when the loop is late, and rises again, much more slowly,
while it holds transfers back. With no metrics coming in, nothing is held back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from runstream.ingest.gateway.telemetry import AppendTelemetry

# Metrics count as coming in for this long after the last append.
_ACTIVE_S = 1.0
# A turn waits for an append under way, but no longer than this.
_MAX_PAUSE_S = 0.01
_LOOK_S = 0.002
# Appends beside transfers may take this much longer than the slowest hundredth of those without.
_TOLERANCE = 1.5
_TOLERANCE_S = 0.001
_FIRST_GUESS_S = 0.005
# Its estimate goes up by 99 steps where an append is slower, and down by one where it is not.
_STEP = 0.001
# A transfer's turn may come this much too early, to make up for one that came too late; or so late without a fault.
_EARLY_S = 0.004
_LATE_S = 0.008
# One slow moment in eighteen seconds keeps the rate where it is.
_SLOWER = 0.7
_FASTER_PER_S = 1.02
# What is slow at one moment has one cause.
_SETTLE_S = 0.5
_MIN_RATE = 16e6
_MAX_RATE = 4e9
_FIRST_RATE = 64e6


class Pace:
    """The pace of one process's transfers: a ``Yield`` for them. ``urgent`` says whether an append is under way."""

    def __init__(
        self,
        urgent: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._urgent = urgent
        self._clock = clock
        self._sleep = sleep
        self._turn = asyncio.Lock()
        self._active_until = 0.0
        self._moved_at = 0.0
        self._next_at = 0.0
        self._rate = _FIRST_RATE
        self._usual_s = _FIRST_GUESS_S
        self._slowed_at = self._raised_at = float("-inf")
        self._held_back = False

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
            self._usual_s *= 1 + 99 * _STEP if seconds > self._usual_s else 1 - _STEP
            return
        self._judge(slow=seconds > self._usual_s * _TOLERANCE + _TOLERANCE_S)

    async def __call__(self, size: int) -> None:
        """Wait for the next turn of a transfer that has moved ``size`` bytes."""
        now = self._clock()
        if now >= self._active_until:
            self._moved_at = now
            return
        async with self._turn:
            until = self._clock() + _MAX_PAUSE_S
            while self._urgent() and self._clock() < until:  # nobody says when the last one ends
                await self._sleep(_LOOK_S)
            now = self._clock()
            wait_s = self._next_at - now
            await self._sleep(max(0.0, wait_s))  # if only to let the loop look at its sockets
            if wait_s > 0:
                self._held_back = True
                if self._clock() - self._next_at > _LATE_S:
                    self._judge(slow=True)
            self._moved_at = self._clock()
            self._next_at = max(self._next_at, self._moved_at - _EARLY_S) + size / self._rate

    def _judge(self, *, slow: bool) -> None:
        now = self._clock()
        if slow:
            if now - self._slowed_at >= _SETTLE_S:
                self._rate = max(_MIN_RATE, self._rate * _SLOWER)
                self._slowed_at = self._raised_at = now
        elif self._held_back:
            # A rate that nobody comes near to is no rate that is known to do no harm.
            since_s = min(now - self._raised_at, _ACTIVE_S)
            self._rate = min(_MAX_RATE, self._rate * _FASTER_PER_S**since_s)
            self._raised_at = now
            self._held_back = False


class _Listening:
    def __init__(self, pace: Pace, telemetry: AppendTelemetry) -> None:
        self._pace = pace
        self._telemetry = telemetry

    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        self._pace.appended(seconds)
        self._telemetry.appended(points, seconds, error)
