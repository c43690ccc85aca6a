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
