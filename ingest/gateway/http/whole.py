"""Bodies that aiohttp's handlers read whole count against the one bound of all that arrives at a process."""

from __future__ import annotations

import asyncio
import functools

from aiohttp import web

from runstream.ingest.gateway.http.arriving import LARGE_BYTES, Arriving, too_many
from runstream.ingest.gateway.http.mount import Server
from runstream.schemas.errors import MlflowError


def count_bodies(server: Server, arriving: Arriving) -> None:
    """Have ``request.read()`` (and what stands on it) count in ``arriving`` for every request of an aiohttp server. It
    raises ``MlflowError`` (REQUEST_TIMEOUT, RESOURCE_EXHAUSTED) where there is no room, as ``arriving`` says."""

    class Counted(web.Request):
        """A request whose body is counted while it is read."""

        async def read(self) -> bytes:
            if self._read_bytes is None:
                holder = _Reading(asyncio.get_running_loop().time())
                try:
                    self._read_bytes = await holder.read(self, arriving)
                finally:
                    arriving.give_back(holder)
            return self._read_bytes

    # Of aiohttp's own, as is ``_read_bytes``: ``tests/unit/ingest/gateway/http/test_whole.py`` fails first where an
    # upgrade changes them.
    server.request_factory = functools.partial(server.request_factory, _cls=Counted)


class _Reading:
    """A ``Holder``: one body that is being read, by the task that waits for it."""

    def __init__(self, now: float) -> None:
        self.began = self.last_active = now
        self._error: MlflowError | None = None
        self._task = asyncio.current_task()

    async def read(self, request: web.Request, arriving: Arriving) -> bytes:
        """The body. Raises as ``web.Request.read``, and ``MlflowError``."""
        loop = asyncio.get_running_loop()
        most = request.client_max_size
        announced = request.content_length or 0
        if most and announced > most:
            raise web.HTTPRequestEntityTooLarge(most, announced)
        kept = announced > LARGE_BYTES
        if kept and not arriving.keep(self, announced):
            raise too_many()
        body = bytearray()
        try:
            while chunk := await request.content.readany():
                self.last_active = loop.time()
                body += chunk
                if most and len(body) > most:
                    raise web.HTTPRequestEntityTooLarge(most, len(body))
                if not kept:
                    arriving.take(self, len(chunk))
                if self._error is not None:
                    raise self._error
        except asyncio.CancelledError:
            # As ``asyncio.timeout`` does it: this end is our own, any other is the caller's.
            if self._error is None or self._task is None or self._task.uncancel() > 0:
                raise
            raise self._error from None
        return bytes(body)

    def end(self, error: MlflowError) -> None:
        """See ``Holder``."""
        self._error = error
        if self._task is not None and self._task is not asyncio.current_task():
            self._task.cancel()
