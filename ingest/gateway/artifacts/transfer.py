"""Moves the bytes of one artifact between a client's connection and a store, at the pace of the slower one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from aiohttp import web

from runstream.ingest.artifacts.errors import (
    ArtifactTooLargeError,
    BrokenUploadError,
    StoreUnavailableError,
)
from runstream.ingest.artifacts.protocol import Reader
from runstream.ingest.gateway.artifacts import responses
from runstream.ingest.gateway.artifacts.budget import Turn
from runstream.ingest.gateway.artifacts.room import EACH_BYTES, Room
from runstream.ingest.gateway.artifacts.telemetry import ArtifactTelemetry
from runstream.schemas.errors import MlflowError

# Awaited before each piece of work of a transfer: a place to let more urgent work go first.
Yield = Callable[[int], Awaitable[None]]

_WRITE_BYTES = 256 << 10
_BOUNDLESS = Room()
# So much of an upload arrives before it takes a share of the memory for transfers.
_FIRST_BYTES = 16 << 10


class Body:
    """The body of an upload, as an iterator of blocks.

    ``turn`` is the client's time. Raises ``BrokenUploadError`` when the client goes, stalls, is too slow or sends
    another length than it announced, ``ArtifactTooLargeError`` past ``max_bytes``, and ``StoreUnavailableError`` where
    ``room`` has none.
    """

    def __init__(
        self,
        request: web.Request,
        *,
        max_bytes: int | None,
        turn: Turn,
        give_way: Yield,
        room: Room = _BOUNDLESS,
    ) -> None:
        self._request = request
        self._max_bytes = max_bytes
        self._room = room
        self._turn = turn
        self._give_way = give_way
        self._first: list[bytes] = []
        self.received = 0

    async def begun(self) -> bool:
        """Wait for the first bytes: a client that sends none takes nothing from others. Whether these were all."""
        size = 0
        while size < _FIRST_BYTES:
            block = await self._next(_FIRST_BYTES)
            if not block:
                return True
            self._first.append(block)
            size += len(block)
        return False

    async def _next(self, size: int = -1) -> bytes:
        content = self._request.content
        try:
            async with self._turn.waiting():
                block = await (content.readany() if size < 0 else content.read(size))
        except TimeoutError as error:
            raise BrokenUploadError("the upload stalled or is too slow; nothing was stored") from error
        except MlflowError:
            raise
        except Exception as error:
            raise BrokenUploadError("the upload ended early; nothing was stored") from error
        self._turn.moved(len(block))
        return block

    async def __aiter__(self) -> AsyncIterator[bytes]:
        announced = self._request.content_length
        looked_at = 0
        while True:
            block = self._first.pop(0) if self._first else await self._next()
            if not block:
                break
            self.received += len(block)
            if self._max_bytes is not None and self.received > self._max_bytes:
                raise too_large(self._max_bytes)
            if self.received - looked_at >= EACH_BYTES:
                self._room.check()
                looked_at = self.received
            yield block
            await self._give_way(len(block))
        if announced is not None and self.received != announced:
            raise BrokenUploadError("the upload has another length than it announced; nothing was stored")


def too_large(max_bytes: int) -> ArtifactTooLargeError:
    """The refusal of one artifact for its size."""
    return ArtifactTooLargeError(f"The artifact is larger than the server's limit of {max_bytes} bytes")


async def send(
    request: web.Request,
    path: str,
    reader: Reader,
    *,
    turn: Turn,
    give_way: Yield,
    telemetry: ArtifactTelemetry,
) -> web.StreamResponse:
    """Answer a download: whole, a range, or that the client has it already. ``turn`` is the client's time."""
    info = reader.info
    headers = responses.file_headers(path)
    if info.etag is not None:
        headers["ETag"] = info.etag
    if responses.not_modified(request.headers, info.etag):
        return web.Response(status=304, headers={name: headers[name] for name in ("ETag", "Cache-Control")})
    span = responses.wanted_range(request.headers, info.size, info.etag)
    start, end = span or (0, info.size)
    response = web.StreamResponse(status=200 if span is None else 206, headers=headers)
    response.last_modified = info.modified
    if span is not None:
        response.headers["Content-Range"] = f"bytes {start}-{end - 1}/{info.size}"
    response.content_length = end - start
    await response.prepare(request)
    if request.method == "HEAD":
        return response
    sent = 0
    telemetry.began("down")
    try:
        async for block in reader.read(start, end):
            view = memoryview(block)
            for at in range(0, len(view), _WRITE_BYTES):
                piece = view[at : at + _WRITE_BYTES]
                await give_way(len(piece))
                async with turn.waiting():
                    await response.write(piece)
                turn.moved(len(piece))
                sent += len(piece)
        async with turn.waiting():
            await response.write_eof()
    except (StoreUnavailableError, TimeoutError, ConnectionError) as error:
        # The answer has begun: all that is left is to break the connection, so that the client sees it is not whole.
        if request.transport is not None:
            request.transport.abort()
        raise asyncio.CancelledError from error
    finally:
        telemetry.ended("down", sent)
    return response
