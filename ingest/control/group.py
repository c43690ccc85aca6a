"""Group commit: changes that come while a transaction is under way share the next one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from runstream.ingest.control.requests import Change, LogBatch
from runstream.ingest.control.segment import Outcome
from runstream.schemas.errors import QueueFullError

_MAX_TOGETHER = 512


class GroupCommit:
    """One transaction at a time, in a thread of its own. Belongs to one event loop.

    ``execute`` makes the changes that it is given durable, together, and gives an outcome for each; it bounds its own
    time. At most ``max_waiting`` changes wait, of at most ``max_bytes``; a lone change waits for nobody.
    """

    def __init__(
        self,
        execute: Callable[[Sequence[Change]], Sequence[Outcome]],
        *,
        max_waiting: int = 8192,
        max_bytes: int = 64 << 20,
    ) -> None:
        self._execute = execute
        self._max_waiting = max_waiting
        self._max_bytes = max_bytes
        self._bytes = 0
        self._waiting: deque[tuple[Change, asyncio.Future[Outcome]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="metadata-write")
        self._busy = False
        self._loop = asyncio.get_running_loop()
        self._idle = asyncio.Event()
        self._idle.set()

    def submit(self, change: Change) -> asyncio.Future[Outcome]:
        """The future outcome of a change, which nothing takes back any more. Raises ``QueueFullError``."""
        size = _size(change)
        if len(self._waiting) >= self._max_waiting or self._bytes + size > self._max_bytes:
            raise QueueFullError("too many changes of runs wait for the metadata database")
        future: asyncio.Future[Outcome] = self._loop.create_future()
        self._waiting.append((change, future))
        self._bytes += size
        if not self._busy:
            self._busy = True
            self._idle.clear()
            # After the requests that are being read from other connections now.
            self._loop.call_soon(self._next)
        return future

    def _next(self) -> None:
        if not self._waiting:
            self._busy = False
            self._idle.set()
            return
        together = [self._waiting.popleft() for _ in range(min(len(self._waiting), _MAX_TOGETHER))]
        changes = [change for change, _ in together]
        self._bytes -= sum(map(_size, changes))
        futures = [future for _, future in together]
        job = self._loop.run_in_executor(self._thread, self._execute, changes)
        job.add_done_callback(lambda job: self._done(job, futures))

    def _done(self, job: asyncio.Future[Sequence[Outcome]], futures: list[asyncio.Future[Outcome]]) -> None:
        error = job.exception()
        outcomes: Sequence[Outcome] = job.result() if error is None else [_as_exception(error)] * len(futures)
        for future, outcome in zip(futures, outcomes, strict=True):
            if not future.done():
                future.set_result(outcome)
        self._next()

    async def drain(self) -> None:
        """Wait until everything is decided, and end the thread."""
        await self._idle.wait()
        await asyncio.to_thread(self._thread.shutdown)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _size(change: Change) -> int:
    """About how many bytes a change holds."""
    if isinstance(change, LogBatch):
        return (
            500
            + sum(len(pair.value) for pair in change.params)
            + sum(len(pair.value) for pair in change.tags)
        )
    return 1000
