"""Transfers yield to metrics, and only while there are metrics."""

from __future__ import annotations

import asyncio
import time

import pytest

from runstream.ingest.gateway.artifacts.pace import Pace

BLOCK = 256 << 10


class Heard:
    def __init__(self) -> None:
        self.seconds: list[float] = []

    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        self.seconds.append(seconds)


async def test_without_metrics_nothing_is_held_back() -> None:
    pace = Pace(urgent=lambda: True)
    async with asyncio.timeout(1):
        for _ in range(10_000):
            await pace(BLOCK)


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0

    def pace(self) -> Pace:
        return Pace(urgent=lambda: False, clock=lambda: self.now, sleep=self.sleep)

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    async def logged(self, pace: Pace, seconds: float, times: int, *, every_s: float = 0.05) -> None:
        """Appends that take ``seconds`` each, beside transfers that move as much as they may."""
        for _ in range(times):
            until = self.now + every_s
            while self.now < until:
                await pace(BLOCK)
                self.now += 1e-5
            pace.appended(seconds)


async def test_slow_appends_slow_the_transfers_at_once_and_fast_ones_let_them_go_slowly() -> None:
    clock = Clock()
    pace = clock.pace()
    heard = Heard()
    telemetry = pace.over(heard)
    for _ in range(200):
        telemetry.appended(1, 0.004, None)
    assert len(heard.seconds) == 200
    rate = pace.bytes_per_s
    await clock.logged(pace, 0.5, 40)  # two seconds
    assert pace.bytes_per_s < rate * 0.4
    await clock.logged(pace, 0.5, 400)
    low = pace.bytes_per_s
    assert low >= 1e6  # never to a standstill
    await clock.logged(pace, 0.003, 200)
    assert 1.1 * low < pace.bytes_per_s < 1.5 * low


async def test_a_slow_append_in_twenty_seconds_does_not_stop_the_transfers() -> None:
    clock = Clock()
    pace = clock.pace()
    rate = pace.bytes_per_s
    for _ in range(10):
        await clock.logged(pace, 0.002, 399)
        await clock.logged(pace, 0.5, 1)
    assert pace.bytes_per_s > rate


async def test_one_stall_counts_once() -> None:
    clock = Clock()
    pace = clock.pace()
    rate = pace.bytes_per_s
    await clock.logged(pace, 0.5, 5, every_s=0.01)
    assert pace.bytes_per_s > rate * 0.6


async def test_a_rate_that_nobody_uses_does_not_rise() -> None:
    clock = Clock()
    pace = clock.pace()
    rate = pace.bytes_per_s
    pace.appended(0.002)
    for _ in range(500):
        clock.now += 0.5
        await pace(1000)
        pace.appended(0.002)
    assert pace.bytes_per_s == rate


async def test_appends_that_are_always_slow_are_not_the_transfers_fault() -> None:
    clock = Clock()
    pace = clock.pace()
    for _ in range(300):
        pace.appended(0.2)
    rate = pace.bytes_per_s
    await clock.logged(pace, 0.2, 100)
    assert pace.bytes_per_s > rate


async def test_a_turn_waits_for_an_append_under_way_but_not_for_ever() -> None:
    under_way = True
    pace = Pace(urgent=lambda: under_way)
    pace.appended(0.001)
    began = time.perf_counter()
    await pace(BLOCK)
    assert time.perf_counter() - began >= 0.009
    async with asyncio.timeout(5):
        await asyncio.gather(*(pace(BLOCK) for _ in range(20)))


@pytest.mark.parametrize("cancelled", [True, False])
async def test_turns_are_fair_and_survive_cancelling(cancelled: bool) -> None:
    pace = Pace(urgent=lambda: False)
    pace.appended(0.001)
    order: list[int] = []

    async def transfer(number: int) -> None:
        for _ in range(3):
            await pace(BLOCK)
            order.append(number)

    tasks = [asyncio.create_task(transfer(number)) for number in range(4)]
    if cancelled:
        await asyncio.sleep(0)
        tasks.pop(1).cancel()
    await asyncio.gather(*tasks)
    numbers = [0, 2, 3] if cancelled else [0, 1, 2, 3]
    for number in numbers:
        assert order.count(number) == 3
    assert set(order[: len(numbers)]) == set(numbers)
