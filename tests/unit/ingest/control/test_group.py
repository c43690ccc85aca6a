"""Changes share transactions, in order, within bounds."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import pytest

from runstream.ingest.control.coalesce import Coalescer
from runstream.ingest.control.group import GroupCommit
from runstream.ingest.control.requests import Change, DeleteRun
from runstream.ingest.control.segment import Outcome
from runstream.schemas.errors import QueueFullError


class Held:
    """Executes when it is let; keeps what it was given together."""

    def __init__(self) -> None:
        self.groups: list[list[str]] = []
        self.begun = threading.Event()
        self.let = threading.Event()

    def __call__(self, changes: Sequence[Change]) -> Sequence[Outcome]:
        self.begun.set()
        assert self.let.wait(30)
        self.groups.append([change.run_id for change in changes if isinstance(change, DeleteRun)])
        return [{"run": name} for name in self.groups[-1]]


async def test_those_that_come_meanwhile_share_the_next() -> None:
    held = Held()
    group = GroupCommit(held)
    first = group.submit(DeleteRun(run_id="0"))
    await asyncio.to_thread(held.begun.wait, 30)
    rest = [group.submit(DeleteRun(run_id=str(number))) for number in range(1, 6)]
    held.let.set()
    assert await first == {"run": "0"}
    assert [await future for future in rest] == [{"run": str(number)} for number in range(1, 6)]
    assert held.groups == [["0"], ["1", "2", "3", "4", "5"]]
    await group.drain()


async def test_those_of_one_moment_share_the_first() -> None:
    held = Held()
    held.let.set()
    group = GroupCommit(held)
    await asyncio.gather(*(group.submit(DeleteRun(run_id=str(number))) for number in range(3)))
    assert held.groups == [["0", "1", "2"]]
    await group.drain()


async def test_what_waits_is_bounded() -> None:
    held = Held()
    group = GroupCommit(held, max_waiting=2)
    futures = [group.submit(DeleteRun(run_id="0"))]
    await asyncio.to_thread(held.begun.wait, 30)
    futures += [group.submit(DeleteRun(run_id=name)) for name in "12"]
    with pytest.raises(QueueFullError):
        group.submit(DeleteRun(run_id="3"))
    held.let.set()
    await asyncio.gather(*futures)
    await group.drain()


async def test_one_that_leaves_harms_no_other() -> None:
    held = Held()
    group = GroupCommit(held)
    first = group.submit(DeleteRun(run_id="0"))
    await asyncio.to_thread(held.begun.wait, 30)
    second, third = (group.submit(DeleteRun(run_id=name)) for name in "12")
    second.cancel()
    held.let.set()
    assert await third == {"run": "2"}
    await first
    await group.drain()


async def test_an_executor_that_breaks_is_everybodys_error() -> None:
    def broken(_: Sequence[Change]) -> Sequence[Outcome]:
        raise ValueError("broken")

    group = GroupCommit(broken)
    assert isinstance(await group.submit(DeleteRun(run_id="0")), ValueError)
    await group.drain()


async def test_questions_asked_together_are_one() -> None:
    asked: list[list[str]] = []
    go = asyncio.Event()

    async def question(keys: Sequence[str]) -> dict[str, str]:
        asked.append(list(keys))
        await go.wait()
        return {key: key.upper() for key in keys if key != "none"}

    coalescer: Coalescer[str, str] = Coalescer(question, at_once=1, max_keys=2)
    first = asyncio.create_task(coalescer.ask("a"))
    await asyncio.sleep(0.01)
    rest = [asyncio.create_task(coalescer.ask(key)) for key in ("b", "b", "none", "c")]
    await asyncio.sleep(0.01)
    assert asked == [["a"]]
    go.set()
    assert await asyncio.gather(first, *rest) == ["A", "B", "B", None, "C"]
    assert asked == [["a"], ["b", "none"], ["c"]]
    await coalescer.close()


async def test_a_question_that_fails_fails_for_those_who_asked() -> None:
    async def question(keys: Sequence[str]) -> dict[str, str]:
        if "bad" in keys:
            raise ValueError("bad")
        return dict.fromkeys(keys, "fine")

    coalescer: Coalescer[str, str] = Coalescer(question, at_once=1, max_keys=1)
    results = await asyncio.gather(coalescer.ask("bad"), coalescer.ask("good"), return_exceptions=True)
    assert isinstance(results[0], ValueError)
    assert results[1] == "fine"
