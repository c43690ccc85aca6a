"""Streams an upload into an object store with bounded memory, and leaves nothing behind when it fails.

obstore asks its source for the next block, and aborts the upload (a multipart upload on S3, a temporary file in a
folder) when the source raises. It must not be cancelled instead: that would drop the upload without aborting it. So
every upload runs in a task of its own that is always brought to its end, if need be after the request is over.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import obstore

from runstream.ingest.artifacts.errors import StoreUnavailableError
from runstream.ingest.artifacts.failures import scrub, translate
from runstream.schemas.tasks import Tasks

_log = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 20
# S3 and Google take 10,000 parts at most.
_MAX_PARTS = 10_000
# S3's smallest part, the last one excepted.
_LEAST_PART_BYTES = 5 << 20
_SETTLE_S = 30.0
_QUIET_S = 0.1


# Takes away what a failed upload may have left; told whether obstore said that it aborted in good order.
Clean = Callable[[bool], Awaitable[None]]


class UploadDroppedError(Exception):
    """Given to obstore to make it abort."""


class _Pipe:
    """Hands one block at a time from the request to obstore's upload."""

    def __init__(self) -> None:
        self._block: bytes | None = None
        self._over: BaseException | None = None
        self._filled = asyncio.Event()
        self._free = asyncio.Event()
        self._free.set()

    async def send(self, block: bytes) -> None:
        """Wait until the block before is taken, then leave this one. Returns at once after ``release``."""
        await self._free.wait()
        self._block = block
        self._free.clear()
        self._filled.set()

    def end(self, error: BaseException | None = None) -> None:
        """No more blocks; with an error, the upload is aborted and a block still waiting is dropped."""
        if error is not None:
            self._block = None
        self._over = error or StopAsyncIteration()
        self._filled.set()

    def release(self) -> None:
        """The upload is over: nobody takes blocks any more."""
        self._free.set()

    def __aiter__(self) -> _Pipe:
        return self

    async def __anext__(self) -> bytes:
        await self._filled.wait()
        block, self._block = self._block, None
        if block is None:
            assert self._over is not None
            raise self._over
        if self._over is None:
            self._filled.clear()
        self._free.set()
        return block


class Uploader:
    """Uploads into one obstore store; ``close`` waits for those that are being aborted."""

    def __init__(
        self,
        store: Any,
        *,
        part_bytes: int,
        unknown_part_bytes: int,
        parts_under_way: int,
        stall_s: float,
        spread: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._part_bytes = part_bytes
        self._unknown_part_bytes = unknown_part_bytes
        self._parts_under_way = parts_under_way
        self._stall_s = stall_s
        self._spread = spread
        self._settling = Tasks("clearing up after an upload")

    def memory(self, size: int | None) -> int:
        """The most bytes that an upload of this length holds."""
        whole = self._part(size) * (self._parts_under_way + 1) + 2 * BLOCK_BYTES
        return whole if size is None else min(size + 2 * BLOCK_BYTES, whole)

    async def put(
        self,
        key: str,
        blocks: AsyncIterable[bytes],
        *,
        size: int | None,
        attributes: Mapping[str, str] | None = None,
        clean: Clean | None = None,
    ) -> None:
        """Store ``blocks`` at ``key``; see ``ArtifactStore.put``. Whenever this raises, ``clean`` is awaited once
        obstore has come to its end, which can be after the error was raised."""
        pipe = _Pipe()
        task = asyncio.ensure_future(self._run(key, pipe, size, attributes))
        task.add_done_callback(lambda _: pipe.release())
        try:
            async for block in joined(blocks, BLOCK_BYTES):
                async with asyncio.timeout(self._stall_s):
                    await pipe.send(block)
                if task.done():
                    break
            pipe.end()
            async with asyncio.timeout(2 * self._stall_s):
                await asyncio.shield(task)
        except BaseException as error:
            store_failed = task.done() and not task.cancelled() and task.exception() is not None
            pipe.end(UploadDroppedError())
            settle = self._settling.start(self._settle(task, clean, whole=self._is_whole(size)))
            if isinstance(error, TimeoutError):
                raise StoreUnavailableError("the artifact store stalled") from error
            if not isinstance(error, Exception):
                raise
            if store_failed:
                raise translate(error, "store an upload") from error
            # The answer should mean that nothing is left, if that can be had soon.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(_SETTLE_S, self._stall_s)):
                    await asyncio.shield(settle)
            raise

    async def _run(
        self, key: str, pipe: _Pipe, size: int | None, attributes: Mapping[str, str] | None
    ) -> None:
        if self._is_whole(size):
            held = [block async for block in pipe]
            await obstore.put_async(
                self._store, key, b"".join(held), attributes=_given(attributes), use_multipart=False
            )
            return
        await obstore.put_async(
            self._store,
            key,
            pipe,
            attributes=_given(attributes),
            use_multipart=True,
            chunk_size=own_part(self._part(size), size, self._spread()),
            max_concurrency=self._parts_under_way,
        )

    def _is_whole(self, size: int | None) -> bool:
        """Whether an upload goes to the store in one request, which leaves nothing behind when it fails."""
        return size is not None and size <= self._part(size)

    def _part(self, size: int | None) -> int:
        """The most bytes that a part of an upload of this length has."""
        if size is None:
            return self._unknown_part_bytes
        return max(self._part_bytes, -(-_least_part(size) // BLOCK_BYTES) * BLOCK_BYTES)

    async def _settle(self, task: asyncio.Future[None], clean: Clean | None, *, whole: bool) -> None:
        """Bring a failed upload to its end."""
        try:
            await asyncio.wait({task}, timeout=4 * self._stall_s)
            if clean is not None:
                dropped = task.done() and isinstance(task.exception(), UploadDroppedError)
                await clean(dropped or whole)
        except Exception as error:
            _log.warning("an upload could not be cleared away: %s", scrub(str(error)))

    async def close(self) -> None:
        """Wait, with a bound, for uploads that are being aborted."""
        await self._settling.ended(_SETTLE_S)
        # obstore's threads give back the memory of the last blocks just now, for which they need the interpreter's
        # lock. A thread that still waits for it when the interpreter ends aborts the process.
        await asyncio.sleep(_QUIET_S)


def own_part(most: int, size: int | None, fraction: float) -> int:
    """A part size for one upload of ``size`` bytes: at most ``most``, and up to a sixth less, by ``fraction`` (0 to 1).

    Uploads that begin together would otherwise all hand in their parts at the same moments, again and again.
    """
    least = max(_LEAST_PART_BYTES, most - most // 6, _least_part(size))
    return most - int(fraction * max(0, most - least))


def _least_part(size: int | None) -> int:
    """What a part must hold for the store's number of parts to suffice."""
    return 0 if size is None else -(-size // (_MAX_PARTS - 1))


async def joined(blocks: AsyncIterable[bytes], size: int) -> AsyncIterator[bytes]:
    """Collect small blocks into blocks of at least ``size`` bytes."""
    held: list[bytes] = []
    length = 0
    async for block in blocks:
        held.append(block)
        length += len(block)
        if length >= size:
            yield b"".join(held)
            held.clear()
            length = 0
    if held:
        yield b"".join(held)


def _given(attributes: Mapping[str, str] | None) -> dict[str, str] | None:
    return dict(attributes) if attributes else None
