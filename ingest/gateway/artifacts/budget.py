"""Bounds what all transfers of one process hold in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from runstream.ingest.artifacts.errors import BusyError


class TransferBudget:
    """Gives out bytes in the order in which they are asked for. Belongs to one event loop."""

    def __init__(self, max_bytes: int, *, max_waiting: int, wait_s: float) -> None:
        self._max_bytes = max_bytes
        self._free = max_bytes
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._queue: deque[tuple[int, asyncio.Future[None]]] = deque()

    @property
    def held_bytes(self) -> int:
        """Bytes given out now."""
        return self._max_bytes - self._free

    @contextlib.asynccontextmanager
    async def hold(self, size: int) -> AsyncIterator[None]:
        """Hold ``size`` bytes (at most all there are) for the time of a transfer. Waits for them within the bound;
        raises ``BusyError`` past it, or at once if too many wait already."""
        size = min(size, self._max_bytes)
        await self._take(size)
        try:
            yield
        finally:
            self._give(size)

    async def _take(self, size: int) -> None:
        if not self._queue and size <= self._free:
            self._free -= size
            return
        if len(self._queue) >= self._max_waiting:
            raise BusyError("too many artifact transfers are under way; try again")
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (size, turn)
        self._queue.append(entry)
        try:
            async with asyncio.timeout(self._wait_s):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._give(size)
            else:
                with contextlib.suppress(ValueError):
                    self._queue.remove(entry)
                self._serve()
            if isinstance(error, TimeoutError):
                raise BusyError("too many artifact transfers are under way; try again") from None
            raise

    def _give(self, size: int) -> None:
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._queue and self._queue[0][0] <= self._free:
            size, turn = self._queue.popleft()
            if not turn.done():
                self._free -= size
                turn.set_result(None)
