"""Requests that wait in the gateway until the part that they need is back.

A client that is refused tries again by itself, but not for long, and MLflow's (3.18 and later) not at all where the
server may have begun with a request that must not be done twice. So a request that has surely not been processed is
kept here and tried again: for a bounded time, and in bounded number and size. Past that the client is told to come
again.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runstream.schemas.errors import RunstreamError

T = TypeVar("T")

_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 0.5
# A part that has not failed for so long was not away all the time since.
_FORGET_S = 60.0


class Holding:
    """What all requests that are held in one process share: the bounds. Belongs to one event loop.

    Each is held for at most ``max_s``; ``max_requests`` and ``max_bytes`` (their bodies) hold over all.
    """

    def __init__(self, *, max_s: float, max_requests: int, max_bytes: int) -> None:
        self._max_s = max_s
        self._max_requests = max_requests
        self._max_bytes = max_bytes
        self._lines: list[Line] = []
        self.requests = 0
        self.bytes = 0
        self.ended = False

    def line(self) -> Line:
        """A line of those who wait for one part."""
        line = Line(self)
        self._lines.append(line)
        return line

    def deadline(self) -> float:
        """Until when a request that came now may be held, in the loop's time."""
        return asyncio.get_running_loop().time() + self._max_s

    def end(self) -> None:
        """Hold nothing any more: who waits is told at once that its part is away."""
        self.ended = True
        for line in self._lines:
            line.dismiss()

    def take(self, size: int) -> bool:
        """Count a request in, unless a bound is reached."""
        if self.ended or self.requests >= self._max_requests or self.bytes + size > self._max_bytes:
            return False
        self.requests += 1
        self.bytes += size
        return True

    def give(self, size: int) -> None:
        """Count a request out."""
        self.requests -= 1
        self.bytes -= size


class Line:
    """Those who wait for one part. Every half second or so the first in line tries; each success sends two more after
    it, so that the part, when it is back, is found within that time and not overrun."""

    def __init__(self, holding: Holding) -> None:
        self._holding = holding
        self._waiting: deque[asyncio.Future[bool]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._pause_s = _FIRST_PAUSE_S
        self._away_since: float | None = None
        self._failed_at = 0.0

    @property
    def away_s(self) -> float:
        """How long the part has been away; 0 if it is not known to be."""
        if self._away_since is None:
            return 0.0
        return asyncio.get_running_loop().time() - self._away_since

    async def run(
        self, attempt: Callable[[], Awaitable[T]], *, size: int = 0, until: float | None = None
    ) -> T:
        """The result of ``attempt``. While that raises a ``RunstreamError`` that says ``nothing_done``, it is awaited
        again, until the loop's time ``until`` at most. Raises the last error then, with its ``away_s``; any other
        error of ``attempt`` at once. ``size`` is how many bytes are held meanwhile."""
        try:
            return await attempt()
        except RunstreamError as error:
            failure = self.failed(error)
        until = self._holding.deadline() if until is None else until
        if not self._holding.take(size):
            raise failure
        try:
            while await self.turn(until):
                try:
                    result = await attempt()
                except RunstreamError as error:
                    failure = self.failed(error)
                else:
                    self.succeeded()
                    return result
        finally:
            self._holding.give(size)
        raise failure

    def failed(self, error: RunstreamError) -> RunstreamError:
        """Note that the part is away, and note in the error for how long; raise it if it says something else."""
        if not error.nothing_done:
            raise error
        now = asyncio.get_running_loop().time()
        if self._away_since is None or now - self._failed_at > _FORGET_S:
            self._away_since = now
        self._failed_at = now
        error.away_s = now - self._away_since
        return error

    def succeeded(self) -> None:
        """Note that the part is back."""
        self._away_since = None
        self._pause_s = _FIRST_PAUSE_S
        self._release(2)

    async def turn(self, until: float) -> bool:
        """Wait in line. False if ``until`` comes first, or nothing is held any more."""
        loop = asyncio.get_running_loop()
        if self._holding.ended or loop.time() >= until:
            return False
        mine: asyncio.Future[bool] = loop.create_future()
        self._waiting.append(mine)
        self._arm()
        try:
            async with asyncio.timeout_at(until):
                return await mine
        except TimeoutError:
            return False
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine)

    def dismiss(self) -> None:
        """Tell everybody in line not to wait any longer."""
        self._release(len(self._waiting), go=False)

    def _release(self, count: int, *, go: bool = True) -> None:
        while count and self._waiting:
            first = self._waiting.popleft()
            if not first.done():  # else its time is over
                first.set_result(go)
                count -= 1

    def _arm(self) -> None:
        if self._timer is None and self._waiting:
            self._timer = asyncio.get_running_loop().call_later(self._pause_s, self._tick)

    def _tick(self) -> None:
        self._timer = None
        self._pause_s = min(_LONGEST_PAUSE_S, self._pause_s * 1.5)
        self._release(1)
        self._arm()
