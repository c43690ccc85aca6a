"""Bounds what all transfers of one process hold in memory, and sees to it that slow clients do not keep it from others.

A client earns its time: it may keep a transfer waiting for ``stall_s``, and each ``LEAST_BYTES_PER_S`` that it moves
give it a second back. A transfer that has used its time up ends. While others wait for memory, one that has used up
``_PATIENCE_S`` of it does.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import OrderedDict, deque
from collections.abc import AsyncIterator, Hashable, Iterator
from dataclasses import dataclass, field

from runstream.ingest.artifacts.errors import BusyError

LEAST_BYTES_PER_S = 16 << 10
# How long a transfer may keep others waiting for its client.
_PATIENCE_S = 5.0
_LOOK_S = 0.5


class Turn:
    """The time that a client has for one transfer."""

    def __init__(self, stall_s: float) -> None:
        self._stall_s = stall_s
        self._left_s = stall_s
        self._since = 0.0
        self._waiting: asyncio.Timeout | None = None

    def moved(self, size: int) -> None:
        """The client has sent or taken so many bytes."""
        self._left_s = min(self._stall_s, self._left_s + size / LEAST_BYTES_PER_S)

    @contextlib.asynccontextmanager
    async def waiting(self) -> AsyncIterator[None]:
        """Around every wait for the client. Raises ``TimeoutError`` when its time is used up."""
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        try:
            async with asyncio.timeout(self._left_s) as self._waiting:
                yield
        finally:
            self._waiting = None
            self._left_s = max(0.0, self._left_s - (loop.time() - self._since))

    def give_up_if_slow(self, now: float) -> None:
        """End the transfer if its client keeps it waiting, and has for long."""
        if self._waiting is None or self._waiting.expired():
            return
        left_s = self._left_s - (now - self._since)
        if self._stall_s - left_s >= min(_PATIENCE_S, self._stall_s):
            self._waiting.reschedule(now)


@dataclass(eq=False, slots=True)
class _Claim:
    size: int
    granted: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class TransferBudget:
    """Gives out bytes: to callers in turn, and to one caller in the order in which it asks. Belongs to one event loop.

    ``max_waiting`` transfers may wait, half of them one caller's, each for ``wait_s``.
    """

    def __init__(self, max_bytes: int, *, max_waiting: int, wait_s: float) -> None:
        self._max_bytes = max_bytes
        self._free = max_bytes
        self._max_waiting = max_waiting
        self._wait_s = wait_s
        self._queues: OrderedDict[Hashable, deque[_Claim]] = OrderedDict()
        self._turns: set[Turn] = set()
        self._looking: asyncio.TimerHandle | None = None

    @property
    def held_bytes(self) -> int:
        """Bytes given out now."""
        return self._max_bytes - self._free

    @contextlib.asynccontextmanager
    async def hold(self, size: int, caller: Hashable = None, turn: Turn | None = None) -> AsyncIterator[None]:
        """Hold ``size`` bytes (at most all there are) for the time of a transfer. Waits for them within the bound;
        raises ``BusyError`` past it, or at once if too many wait already. ``turn`` may be cut short for others."""
        size = min(size, self._max_bytes)
        if size:
            await self._take(size, caller)
        try:
            with self._watched(turn):
                yield
        finally:
            self._give(size)

    @contextlib.contextmanager
    def _watched(self, turn: Turn | None) -> Iterator[None]:
        if turn is None:
            yield
            return
        self._turns.add(turn)
        try:
            yield
        finally:
            self._turns.discard(turn)

    async def _take(self, size: int, caller: Hashable) -> None:
        if not self._queues and size <= self._free:
            self._free -= size
            return
        queue = self._queues.get(caller, ())
        if sum(map(len, self._queues.values())) >= self._max_waiting or len(queue) >= max(
            1, self._max_waiting // 2
        ):
            raise BusyError("too many artifact transfers are under way; try again")
        claim = _Claim(size)
        self._queues.setdefault(caller, deque()).append(claim)
        self._look_soon()
        try:
            async with asyncio.timeout(self._wait_s):
                await claim.granted
        except BaseException as error:
            if claim.granted.done() and not claim.granted.cancelled():
                self._give(size)
            else:
                self._withdraw(caller, claim)
                self._serve()
            if isinstance(error, TimeoutError):
                raise BusyError("too many artifact transfers are under way; try again") from None
            raise

    def _withdraw(self, caller: Hashable, claim: _Claim) -> None:
        queue = self._queues.get(caller)
        if queue is None or claim not in queue:
            return
        queue.remove(claim)
        if not queue:
            del self._queues[caller]

    def _give(self, size: int) -> None:
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            if queue[0].size > self._free:
                return
            claim = queue.popleft()
            if queue:
                self._queues.move_to_end(caller)  # the others' turn
            else:
                del self._queues[caller]
            if not claim.granted.done():
                self._free -= claim.size
                claim.granted.set_result(None)

    def _look_soon(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(_LOOK_S, self._look)

    def _look(self) -> None:
        """Slow clients first go, while others wait."""
        self._looking = None
        if not self._queues:
            return
        now = asyncio.get_running_loop().time()
        for turn in self._turns:
            turn.give_up_if_slow(now)
        self._look_soon()
