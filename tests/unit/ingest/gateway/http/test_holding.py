"""Requests are held while a part is away: within bounds, in order, and no longer than they have to be."""

from __future__ import annotations

import asyncio

import pytest

from runstream.ingest.gateway.http import refusals
from runstream.ingest.gateway.http.holding import Holding
from runstream.ingest.gateway.http.upstream import UpstreamUnavailableError
from runstream.schemas.errors import MlflowError, QueueFullError


class Part:
    """Away until it is told to be back; counts who asks."""

    def __init__(self, *, away: bool = True) -> None:
        self.away = away
        self.asked = 0
        self.under_way = 0
        self.most_under_way = 0

    async def ask(self) -> str:
        self.asked += 1
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            if self.away:
                raise UpstreamUnavailableError("the part does not answer")
            return "done"
        finally:
            self.under_way -= 1


def holding(**bounds: float) -> Holding:
    return Holding(
        max_s=bounds.get("max_s", 60),
        max_requests=int(bounds.get("max_requests", 1000)),
        max_bytes=int(bounds.get("max_bytes", 1 << 20)),
    )


async def begun(tasks: list[asyncio.Task[str]], held: Holding) -> None:
    async with asyncio.timeout(30):
        while held.requests < len(tasks):
            await asyncio.sleep(0.001)


async def test_who_comes_while_a_part_is_away_is_served_when_it_is_back() -> None:
    held, part = holding(), Part()
    line = held.line()
    tasks = [asyncio.create_task(line.run(part.ask, size=10)) for _ in range(200)]
    await begun(tasks, held)
    assert (held.bytes, line.away_s > 0) == (2000, True)
    await asyncio.sleep(0.5)
    assert part.asked < 220  # one in line looks, not all of them
    part.away = False
    async with asyncio.timeout(30):
        assert set(await asyncio.gather(*tasks)) == {"done"}
    assert (held.requests, held.bytes, line.away_s) == (0, 0, 0.0)


async def test_past_a_bound_of_number_or_size_nobody_is_held() -> None:
    for bounds, sizes in (({"max_requests": 2}, (0, 0, 0)), ({"max_bytes": 100}, (50, 50, 1))):
        held, part = holding(**bounds), Part()
        line = held.line()
        tasks = [asyncio.create_task(line.run(part.ask, size=size)) for size in sizes[:2]]
        await begun(tasks, held)
        with pytest.raises(UpstreamUnavailableError):
            await line.run(part.ask, size=sizes[2])
        part.away = False
        async with asyncio.timeout(30):
            await asyncio.gather(*tasks)


async def test_nobody_is_held_longer_than_allowed_or_by_one_that_stops() -> None:
    held, part = holding(max_s=0.2), Part()
    with pytest.raises(UpstreamUnavailableError) as given_up:
        await held.line().run(part.ask)
    assert given_up.value.away_s >= 0.1
    held = holding()
    task = asyncio.create_task(held.line().run(part.ask))
    await begun([task], held)
    held.end()
    with pytest.raises(UpstreamUnavailableError):
        await asyncio.wait_for(task, 30)
    asked = part.asked
    with pytest.raises(UpstreamUnavailableError):
        await held.line().run(part.ask)
    assert part.asked == asked + 1


async def test_an_answer_of_its_own_or_a_request_perhaps_done_is_not_held() -> None:
    line = holding().line()
    for error in (
        MlflowError("no"),
        UpstreamUnavailableError("broke off", nothing_done=False),
        KeyError("x"),
    ):
        asked = 0

        async def ask(error: Exception = error) -> None:
            nonlocal asked
            asked += 1
            raise error

        with pytest.raises(type(error)):
            await line.run(ask)
        assert asked == 1


async def test_who_leaves_makes_room() -> None:
    held, part = holding(), Part()
    line = held.line()
    task = asyncio.create_task(line.run(part.ask, size=7))
    await begun([task], held)
    task.cancel()
    await asyncio.wait([task])
    assert (held.requests, held.bytes) == (0, 0)


def test_what_is_told_when_holding_did_not_help() -> None:
    """MLflow's client obeys Retry-After, tries seven times, and creates nothing again after 503."""
    away = UpstreamUnavailableError("the part does not answer")
    waits = 0.0
    for _ in range(7):
        status, headers, body = refusals.parts(away, 5)
        assert (status, b"TEMPORARILY_UNAVAILABLE" in body) == (429, True)
        waits += float(headers["Retry-After"])
        away.away_s = waits
    assert 100 < waits < 240
    assert refusals.parts(QueueFullError("full"), 5)[0] == 429
    assert refusals.parts(UpstreamUnavailableError("broke off", nothing_done=False), 5)[0] == 503
