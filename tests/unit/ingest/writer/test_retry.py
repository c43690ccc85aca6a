"""What is being retried is shown until that very thing succeeds."""

from __future__ import annotations

import asyncio

import pytest

from runstream.ingest.writer.retry import Retry
from runstream.ingest.writer.stats import WriterStats
from runstream.schemas.errors import QueueUnavailableError


async def test_one_success_does_not_hide_another_failure() -> None:
    stats = WriterStats()
    tried, go_on = asyncio.Event(), asyncio.Event()

    async def sleep(_: float) -> None:
        tried.set()
        await go_on.wait()

    retry = Retry(stats, sleep=sleep)
    outcomes = iter([QueueUnavailableError("away"), None])

    async def flaky() -> str:
        error = next(outcomes)
        if error is not None:
            raise error
        return "done"

    async def fine() -> str:
        return "fine"

    failing = asyncio.create_task(retry("latest values", flaky))
    await tried.wait()
    assert await retry("poll", fine) == "fine"
    assert stats.failure == "latest values: away"
    go_on.set()
    assert await failing == "done"
    assert stats.failure is None
    assert stats.retries == 1


async def test_what_cannot_pass_is_not_repeated() -> None:
    async def wrong() -> None:
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        await Retry(WriterStats())("insert", wrong)
