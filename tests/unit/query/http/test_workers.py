"""The threads for reads: bounded in number, in those waiting, and in time."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading

import pytest

from runstream.query.http.workers import BusyError, Workers


async def test_results_and_errors_come_back() -> None:
    workers = Workers(threads=1, max_waiting=1, timeout_s=10)
    assert await workers.run(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await workers.run(divmod, 1, 0)
    await workers.close()


async def test_no_more_wait_than_allowed() -> None:
    workers = Workers(threads=1, max_waiting=1, timeout_s=10)
    go = threading.Event()
    running = asyncio.create_task(workers.run(go.wait, 10))
    waiting = asyncio.create_task(workers.run(lambda: "second"))
    while workers.waiting < 1:
        await asyncio.sleep(0)
    with pytest.raises(BusyError):
        await workers.run(lambda: "third")
    go.set()
    assert await running
    assert await waiting == "second"
    await workers.close()


async def test_a_slow_call_keeps_its_thread_until_it_ends() -> None:
    workers = Workers(threads=1, max_waiting=4, timeout_s=0.05)
    go = threading.Event()
    with pytest.raises(BusyError):
        await workers.run(go.wait, 10)
    with pytest.raises(BusyError):
        await workers.run(lambda: "needs the thread")
    go.set()
    async with asyncio.timeout(10):
        while True:
            try:
                assert await workers.run(lambda: "free again") == "free again"
                break
            except BusyError:
                continue
    await workers.close()


async def test_what_fails_after_its_caller_left_is_not_shown_as_an_error(
    caplog: pytest.LogCaptureFixture,
) -> None:
    workers = Workers(threads=1, max_waiting=4, timeout_s=10)
    began, go = threading.Event(), threading.Event()

    def fail() -> None:
        began.set()
        go.wait(10)
        raise ZeroDivisionError

    asking = asyncio.create_task(workers.run(fail))
    await asyncio.to_thread(began.wait, 10)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    del asking
    go.set()
    await workers.close()
    gc.collect()
    await asyncio.sleep(0)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
