"""Who waits for the writer, and for how much of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum


class Step(IntEnum):
    """How far a record has come."""

    POLLED = 0
    INSERTED = 1  # readable in ClickHouse, or a dead letter
    SETTLED = 2  # newest values written too, and its offset committed


@dataclass(slots=True, eq=False)
class _Waiter:
    offsets: Mapping[int, int]
    step: Step
    done: asyncio.Future[bool]


class Waiters:
    """Tasks that wait until everything below some offsets has come to a step.

    ``positions`` says, per partition, up to where everything has come to a step now. For one event loop.
    """

    def __init__(self, positions: Callable[[Step], Mapping[int, int]]) -> None:
        self._positions = positions
        self._waiters: list[_Waiter] = []

    def __bool__(self) -> bool:
        return bool(self._waiters)

    def reached(self, offsets: Mapping[int, int], step: Step) -> bool:
        """Whether there is nothing to wait for."""
        return _reached(self._positions(step), offsets)

    async def wait(self, offsets: Mapping[int, int], step: Step) -> bool:
        """Wait for a ``notify`` that finds the offsets reached; ``False`` after ``release``."""
        waiter = _Waiter(offsets, step, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        try:
            return await waiter.done
        finally:
            self._waiters.remove(waiter)

    def notify(self) -> None:
        """The positions have changed: let go who has reached them."""
        for waiter in self._waiters:
            if not waiter.done.done() and self.reached(waiter.offsets, waiter.step):
                waiter.done.set_result(True)

    def release(self) -> None:
        """Nothing will change any more: let everybody go."""
        for waiter in self._waiters:
            if not waiter.done.done():
                waiter.done.set_result(False)

    def wanted(self, step: Step) -> bool:
        """Whether somebody who is not there yet needs what has come to the step before to come to ``step``."""
        if not self._waiters:
            return False
        there, next_in_line = self._positions(step), self._positions(Step(step - 1))
        return any(
            waiter.step >= step
            and _reached(next_in_line, waiter.offsets)
            and not _reached(there, waiter.offsets)
            for waiter in self._waiters
        )


def _reached(positions: Mapping[int, int], offsets: Mapping[int, int]) -> bool:
    return all(positions.get(partition, -1) >= offset for partition, offset in offsets.items())
