"""Questions that are asked together are asked once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

from runstream.schemas.tasks import Tasks

K = TypeVar("K")
V = TypeVar("V")


class Coalescer(Generic[K, V]):
    """Collects keys while as many questions as there may be are under way; the next one asks for all of them.

    A question that is put begins after every ``ask`` that it answers: an answer is never older than its question.
    Belongs to one event loop.
    """

    def __init__(
        self, question: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]], *, at_once: int, max_keys: int
    ) -> None:
        self._question = question
        self._free = at_once
        self._max_keys = max_keys
        self._waiting: dict[K, asyncio.Future[V | None]] = {}
        self._tasks = Tasks("a shared question")
        self._scheduled = False

    async def ask(self, key: K) -> V | None:
        """The answer for a key, ``None`` if the question has none for it; raises what the question raises."""
        future = self._waiting.get(key)
        if future is None:
            loop = asyncio.get_running_loop()
            future = self._waiting[key] = loop.create_future()
            if self._free and not self._scheduled:
                self._scheduled = True
                loop.call_soon(self._begin)
        # Others may wait for the same future.
        return await asyncio.shield(future)

    def _begin(self) -> None:
        self._scheduled = False
        while self._free and self._waiting:
            keys = list(self._waiting)[: self._max_keys]
            futures = [self._waiting.pop(key) for key in keys]
            self._free -= 1
            self._tasks.start(self._put(keys, futures))

    async def _put(self, keys: list[K], futures: list[asyncio.Future[V | None]]) -> None:
        try:
            found = await self._question(keys)
        except BaseException as error:
            for future in futures:
                if not future.done():
                    future.set_exception(error if isinstance(error, Exception) else asyncio.CancelledError())
                    future.exception()  # nobody may be left who waits for it
            if not isinstance(error, Exception):
                raise
        else:
            for key, future in zip(keys, futures, strict=True):
                if not future.done():
                    future.set_result(found.get(key))
        finally:
            self._free += 1
            self._begin()

    async def close(self) -> None:
        """End the questions under way."""
        self._tasks.cancel()
        await self._tasks.ended()
