"""A bounded set of threads for database calls, off the event loop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from runstream.schemas.errors import RunstreamError

_log = logging.getLogger(__name__)
P = ParamSpec("P")
T = TypeVar("T")


class BusyError(RunstreamError):
    """Too many reads wait for a thread, or this one ran out of time."""

    retryable = True


class Workers:
    """Runs blocking calls in ``threads`` threads; at most ``max_waiting`` more wait for one.

    Belongs to one event loop. ``timeout_s`` bounds waiting and running together; a call that is over time
    keeps its thread until the database gives up, so the database's own time limit must not be longer.
    """

    def __init__(self, *, threads: int, max_waiting: int, timeout_s: float) -> None:
        self._executor = ThreadPoolExecutor(threads, thread_name_prefix="query")
        self._free = asyncio.Semaphore(threads)
        self._max_waiting = max_waiting
        self._waiting = 0
        self._timeout_s = timeout_s

    @property
    def waiting(self) -> int:
        """Calls that wait for a thread."""
        return self._waiting

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The result of the call. Raises ``BusyError`` past a bound, else what the call raises."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(await self._start(lambda: call(*args, **kwargs)))
        except TimeoutError as error:
            raise BusyError("the read took too long") from error

    async def run_unbounded(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Like ``run``, but only the wait for a thread is bounded: for answers that go on as long as they
        are read."""
        try:
            async with asyncio.timeout(self._timeout_s):
                future = await self._start(lambda: call(*args, **kwargs))
        except TimeoutError as error:
            raise BusyError("no thread became free") from error
        return await asyncio.shield(future)

    async def _start(self, call: Callable[[], T]) -> asyncio.Future[T]:
        if self._waiting >= self._max_waiting:
            raise BusyError("too many reads are waiting")
        self._waiting += 1
        try:
            await self._free.acquire()
        finally:
            self._waiting -= 1
        future = asyncio.get_running_loop().run_in_executor(self._executor, call)
        # The slot is the thread's: it is free when the thread is, not when the caller gives up.
        future.add_done_callback(self._ended)
        return future

    def _ended(self, future: asyncio.Future[Any]) -> None:
        self._free.release()
        # Whoever asked may have left: then nobody else looks at what went wrong.
        if not future.cancelled() and (error := future.exception()) is not None:
            _log.debug("a read failed", extra={"error": str(error)})

    async def close(self) -> None:
        """Wait for calls under way, then end the threads."""
        await asyncio.to_thread(self._executor.shutdown, wait=True, cancel_futures=True)
