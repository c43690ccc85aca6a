"""Work in the background goes on after whatever it raises, and says so."""

from __future__ import annotations

import asyncio
import logging

import pytest

from runstream.schemas.tasks import Tasks, keep_running, shared


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


async def test_what_nobody_waits_for_is_held_and_its_failure_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    tasks = Tasks("a chore")
    over = asyncio.Event()

    async def fail() -> None:
        raise ZeroDivisionError("nobody foresaw this")

    tasks.start(fail())
    tasks.start(over.wait())
    assert not await tasks.ended(0.01)
    over.set()
    assert await tasks.ended()
    (failure,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert failure.exc_info is not None
    assert failure.__dict__["work"] == "a chore"


async def test_all_of_an_owner_end_when_it_says_so() -> None:
    tasks = Tasks("a chore")
    tasks.start(asyncio.Event().wait())
    tasks.cancel()
    assert await tasks.ended(60)


async def test_waiters_of_a_shared_task_have_its_error() -> None:
    async def fail() -> None:
        raise ZeroDivisionError

    task = shared(fail())
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            await task
