"""Trying again for ever, with growing pauses."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from runstream.ingest.writer.stats import WriterStats
from runstream.schemas.backoff import Backoff
from runstream.schemas.errors import RunstreamError

logger = logging.getLogger(__name__)

T = TypeVar("T")

FIRST_PAUSE_S = 0.1
LONGEST_PAUSE_S = 10.0


class Retry:
    """Repeats what fails with a retryable error, and shows the failure in ``stats`` meanwhile."""

    def __init__(
        self,
        stats: WriterStats,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random_fraction: Callable[[], float] = random.random,
    ) -> None:
        self._stats = stats
        self._sleep = sleep
        self._random_fraction = random_fraction

    async def __call__(self, what: str, attempt: Callable[[], Awaitable[T]]) -> T:
        """The result of the first attempt that does not fail; raises what is not retryable.

        Pauses double from 0.1 to 10 s and are cut to between half and all of that at random, so that many
        writers do not come back at once.
        """
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, spread=0.5, random_fraction=self._random_fraction)
        while True:
            try:
                result = await attempt()
            except RunstreamError as error:
                if not error.retryable:
                    raise
                self._stats.retries += 1
                self._stats.failures[what] = str(error)
                logger.warning("%s failed, trying again: %s", what, error)
                await self._sleep(backoff.next_s())
            else:
                # Its own success only: others may still be failing.
                self._stats.failures.pop(what, None)
                return result
