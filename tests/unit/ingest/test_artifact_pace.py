"""Transfers yield to metrics, and only while there are metrics."""

from __future__ import annotations

import asyncio
import time

import pytest

from ingest.gateway.artifact_pace import Pace

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


async def test_slow_appends_beside_transfers_slow_the_transfers_and_fast_ones_let_them_go() -> None:
    now = 1000.0
    pace = Pace(urgent=lambda: False, clock=lambda: now)
    heard = Heard()
    telemetry = pace.over(heard)
    for _ in range(200):
        telemetry.appended(1, 0.004, None)
    rate = pace.bytes_per_s
    await pace(BLOCK)
    for _ in range(3):
        telemetry.appended(1, 0.5, None)
    assert pace.bytes_per_s < rate * 0.4
    for _ in range(1000):
        telemetry.appended(1, 0.5, None)
    assert pace.bytes_per_s >= 1e6  # never to a standstill
    low = pace.bytes_per_s
    for _ in range(100):
        telemetry.appended(1, 0.004, None)
    assert pace.bytes_per_s > 10 * low
    assert len(heard.seconds) == 1303


async def test_appends_that_are_always_slow_are_not_the_transfers_fault() -> None:
    now = 1000.0
    pace = Pace(urgent=lambda: False, clock=lambda: now)
    telemetry = pace.over(Heard())
    for _ in range(300):
        telemetry.appended(1, 0.2, None)
    await pace(BLOCK)
    rate = pace.bytes_per_s
    for _ in range(20):
        telemetry.appended(1, 0.2, None)
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
