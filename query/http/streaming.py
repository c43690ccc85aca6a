"""Answers that are produced in a thread and sent as they come, with backpressure from the reader."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator
from contextlib import closing

from aiohttp import web

from runstream.query.http.workers import Workers

_log = logging.getLogger(__name__)
_CHUNKS_AHEAD = 4
_WRITE_BYTES = 256 << 10
# How often a thread that waits for the reader looks whether there still is one.
_LOOK_S = 5.0


class _GoneError(Exception):
    """Nobody reads any more."""


class _Pipe:
    """Chunks from one thread to one task of the loop; the thread waits when it is ahead."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._chunks: asyncio.Queue[bytes | Exception | None] = asyncio.Queue(_CHUNKS_AHEAD)
        self.closed = False

    def fill(self, make: Callable[[], Generator[bytes]]) -> None:
        """In the thread: hand over all chunks, then the end or the error."""
        end: Exception | None = None
        try:
            with closing(make()) as chunks:
                for chunk in chunks:
                    if chunk:
                        self._put(chunk)
        except _GoneError:
            return
        except Exception as error:
            end = error
        try:
            self._put(end)
        except _GoneError:
            pass

    def _put(self, item: bytes | Exception | None) -> None:
        if self.closed:
            raise _GoneError
        future = asyncio.run_coroutine_threadsafe(self._chunks.put(item), self._loop)
        # As long as it takes: the other end closes when nothing is read any more.
        while True:
            try:
                return future.result(_LOOK_S)
            except TimeoutError:
                if self.closed:
                    future.cancel()
                    raise _GoneError from None

    async def take(self) -> bytes | None:
        """In the loop: the next chunk, ``None`` at the end. Raises what the thread raised."""
        item = await self._chunks.get()
        if isinstance(item, Exception):
            raise item
        return item

    def close(self) -> None:
        """Let the thread go, even if it waits."""
        self.closed = True
        while not self._chunks.empty():
            self._chunks.get_nowait()


async def send_stream(
    request: web.Request,
    workers: Workers,
    make: Callable[[], Generator[bytes]],
    *,
    headers: dict[str, str],
    stall_s: float = 30.0,
) -> web.StreamResponse:
    """Run ``make`` in a thread and send its chunks; a reader that takes nothing for ``stall_s`` is cut off.

    What is raised before the first chunk propagates, to be answered with a status of its own; after that the
    connection is broken, so that nobody takes half an answer for a whole one.
    """
    pipe = _Pipe(asyncio.get_running_loop())
    producing = asyncio.create_task(workers.run_unbounded(pipe.fill, make))
    try:
        first = asyncio.create_task(pipe.take())
        await asyncio.wait((first, producing), return_when=asyncio.FIRST_COMPLETED)
        if not first.done():
            # The producer ended: either its chunk is on its way here, or it never got a thread.
            if producing.exception() is not None:
                first.cancel()
                await producing
            await first
        chunk = first.result()
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        try:
            while chunk is not None:
                view = memoryview(chunk)
                # In pieces: whoever takes some of it, however slowly, is reading.
                for at in range(0, len(view), _WRITE_BYTES):
                    async with asyncio.timeout(stall_s):
                        await response.write(view[at : at + _WRITE_BYTES])
                chunk = await pipe.take()
            await response.write_eof()
        except (ConnectionError, TimeoutError):
            _break(request)
        except Exception as error:
            _log.warning("an answer broke off", extra={"path": request.path, "error": str(error)})
            _break(request)
        return response
    finally:
        pipe.close()


def _break(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()
