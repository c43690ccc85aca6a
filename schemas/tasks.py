"""Work in the background that must go on: whoever starts it through here need not watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

_log = logging.getLogger(__name__)
T = TypeVar("T")
PAUSE_S = 5.0


async def keep_running(
    name: str, work: Callable[[], Awaitable[None]], *, pause_s: float | None = None
) -> None:
    """Run ``work`` until it returns or this task is cancelled; what it raises is logged with its traceback, and it is
    begun again after ``pause_s`` (``PAUSE_S``).

    For work that runs beside a service, such as gauges or rollups: an error that nobody foresaw neither ends it for
    good in silence nor takes the service with it.
    """
    while True:
        try:
            return await work()
        except Exception:
            _log.exception("work in the background failed and begins again", extra={"work": name})
        await asyncio.sleep(PAUSE_S if pause_s is None else pause_s)


def kept_running(name: str, work: Callable[[], Awaitable[None]]) -> asyncio.Task[None]:
    """``keep_running`` as a task, for whoever begins it to cancel."""
    return asyncio.create_task(keep_running(name, work), name=name)


def shared(work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
    """A task whose result several wait for, or nobody any more: each waiter has its error, none is lost in silence."""
    task = asyncio.create_task(work)
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


class Tasks:
    """The one owner of tasks that nobody waits for: holds each until it has ended (an event loop holds tasks only
    weakly), and logs what one raises, with its traceback. Belongs to one event loop."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._tasks: set[asyncio.Task[Any]] = set()

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin ``work`` now, and come back."""
        task = asyncio.get_running_loop().create_task(work, name=self._name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def ended(self, timeout_s: float | None = None) -> bool:
        """Wait until all have ended, those too that are begun meanwhile; ``False`` if ``timeout_s`` comes first."""
        try:
            async with asyncio.timeout(timeout_s):
                while self._tasks:
                    await asyncio.wait(set(self._tasks))
        except TimeoutError:
            return False
        return True

    def cancel(self) -> None:
        """Have all of them end."""
        for task in set(self._tasks):
            task.cancel()

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None:
            _log.error("work in the background failed", exc_info=error, extra={"work": self._name})


async def while_wanted(
    work: Coroutine[Any, Any, T], unwanted: Callable[[], bool], *, look_every_s: float = 0.25
) -> T:
    """The result of ``work``; once ``unwanted`` says so it is cancelled, and ``CancelledError`` raised.

    For answers that cost something while they are made: a web server tells a handler that its caller has left only when
    it writes.
    """
    task = asyncio.create_task(work)
    try:
        while not task.done():
            await asyncio.wait((task,), timeout=look_every_s)
            if not task.done() and unwanted():
                raise asyncio.CancelledError("nobody waits for it")
    except BaseException:
        task.cancel()
        await asyncio.wait((task,))
        raise
    return task.result()
