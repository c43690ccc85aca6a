"""Memory for transfers: shared in turn between callers, and not kept by clients that send nothing."""

from __future__ import annotations

import asyncio

import pytest

from runstream.ingest.artifacts.errors import BusyError
from runstream.ingest.gateway.artifacts import budget as module
from runstream.ingest.gateway.artifacts.budget import LEAST_BYTES_PER_S, TransferBudget, Turn


async def test_callers_take_turns() -> None:
    budget = TransferBudget(1, max_waiting=100, wait_s=30)
    order: list[str] = []

    async def transfer(caller: str) -> None:
        async with budget.hold(1, caller):
            order.append(caller)

    async with budget.hold(1, "first"):
        tasks = [asyncio.create_task(transfer("many")) for _ in range(20)]
        await asyncio.sleep(0)
        tasks += [asyncio.create_task(transfer(caller)) for caller in ("one", "two")]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert max(order.index("one"), order.index("two")) <= 2
    assert order.count("many") == 20


async def test_one_caller_cannot_take_all_places_in_the_queue() -> None:
    budget = TransferBudget(1, max_waiting=4, wait_s=30)
    async with budget.hold(1):
        waiting = [asyncio.create_task(budget.hold(1, "many").__aenter__()) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(BusyError):
            await budget.hold(1, "many").__aenter__()
        other = asyncio.create_task(budget.hold(1, "other").__aenter__())
        await asyncio.sleep(0)
        assert not other.done()
        for task in (*waiting, other):
            task.cancel()
        await asyncio.gather(*waiting, other, return_exceptions=True)
    assert budget.held_bytes == 0
    async with budget.hold(1, "many"):
        pass


async def test_a_client_earns_its_time() -> None:
    turn = Turn(stall_s=0.2)
    turn.moved(LEAST_BYTES_PER_S)  # no more than it had
    with pytest.raises(TimeoutError):
        async with turn.waiting():
            await asyncio.sleep(30)
    with pytest.raises(TimeoutError):
        async with turn.waiting():
            await asyncio.sleep(30)
    turn.moved(LEAST_BYTES_PER_S * 100)
    async with turn.waiting():
        pass


async def test_trickling_is_no_progress() -> None:
    turn = Turn(stall_s=0.3)
    moved = 0

    async def trickle() -> None:
        nonlocal moved
        while moved < 1000:
            async with turn.waiting():
                await asyncio.sleep(0.01)
            turn.moved(1)
            moved += 1

    with pytest.raises(TimeoutError):
        await trickle()
    assert 0 < moved < 100


async def test_who_sends_nothing_makes_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(module, "_LOOK_S", 0.01)
    budget = TransferBudget(2, max_waiting=10, wait_s=30)
    sends = asyncio.Event()

    async def silent() -> str:
        turn = Turn(stall_s=1000)
        try:
            async with budget.hold(1, "silent", turn), turn.waiting():
                await asyncio.sleep(1000)
        except TimeoutError:
            return "ended"
        return "done"

    async def busy() -> str:
        turn = Turn(stall_s=1000)
        async with budget.hold(1, "busy", turn):
            while not sends.is_set():
                async with turn.waiting():
                    await asyncio.sleep(0.01)
                turn.moved(LEAST_BYTES_PER_S)
        return "done"

    held = [asyncio.create_task(silent()), asyncio.create_task(busy())]
    async with asyncio.timeout(30):
        await asyncio.sleep(0.2)
        assert not held[0].done(), "nobody waits: it may go on"
        async with budget.hold(1, "other"):
            assert await held[0] == "ended"
        sends.set()
        assert await held[1] == "done"
    assert budget.held_bytes == 0
