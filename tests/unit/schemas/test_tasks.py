"""Work in the background goes on after whatever it raises, and says so."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runstream.schemas.tasks import keep_running


async def test_what_fails_begins_again(caplog: pytest.LogCaptureFixture) -> None:
    starts = 0

    async def work() -> None:
        nonlocal starts
        starts += 1
        if starts < 3:
            raise ZeroDivisionError("nobody foresaw this")

    await keep_running("figures", work, pause_s=0)
    assert starts == 3
    failures = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert len(failures) == 2
    assert all(record.exc_info for record in failures)


async def test_it_ends_when_it_is_cancelled() -> None:
    began = asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(keep_running("figures", work))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
