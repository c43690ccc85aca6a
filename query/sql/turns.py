"""A short queue before something that serves few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from runstream.query.http.workers import BusyError


class Turns:
    """``at_once`` have their turn, ``max_waiting`` more may wait for theirs, for ``wait_s`` at most.

    Belongs to one event loop.
    """

    def __init__(self, at_once: int, *, max_waiting: int, wait_s: float) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._waiting = 0

    @property
    def waiting(self) -> int:
        """How many wait."""
        return self._waiting

    @asynccontextmanager
    async def one(self) -> AsyncIterator[None]:
        """A turn, for the length of the block. Raises ``BusyError`` past a bound."""
        if self._free.locked() and self._waiting >= self._max_waiting:
            raise BusyError("too many queries are waiting")
        self._waiting += 1
        try:
            async with asyncio.timeout(self._wait_s):
                await self._free.acquire()
        except TimeoutError as error:
            raise BusyError("the queries before this one took too long") from error
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._free.release()
