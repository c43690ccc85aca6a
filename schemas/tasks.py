"""Work in the background that must go on: whoever starts it through here need not watch it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

_log = logging.getLogger(__name__)
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
