"""Live points as Server-Sent Events: ``GET /api/1.0/runstream/runs/{id}/metrics/live`` and
``…/live?run_id=…``, or ``POST …/live`` with more runs than an address can name.

Events: ``open`` (what is logged from now on will come), ``points`` (columns of new points of one run), ``gap``
(points between the given ``Last-Event-ID`` and now are not remembered here: query for them), ``dropped`` (the listener
was too slow; the connection ends).
"""

from __future__ import annotations

import asyncio

import orjson
from aiohttp import web

from runstream.query.api.requests import MAX_LIVE_RUNS, LiveRequest, check_keys, check_runs
from runstream.query.http.decode import decode
from runstream.query.http.workers import BusyError
from runstream.query.live.hub import Hub, KeyFilter, Listener, encode
from runstream.schemas.wire import API

_HEARTBEAT_S = 10.0
_RETRY_MS = 1_000
_PIECE_BYTES = 256 << 10
# A listener whose connection takes nothing for so long is cut off: its place is somebody else's.
_STALL_S = 30.0


class LiveRoutes:
    """Handlers of the live stream."""

    def __init__(self, hub: Hub, *, stall_s: float = _STALL_S) -> None:
        self._hub = hub
        self._stall_s = stall_s
        self._closing = False
        self._open: set[Listener] = set()

    def add_to(self, app: web.Application) -> None:
        """Mount the routes."""
        app.router.add_get(f"{API}/runs/{{run_id}}/metrics/live", self.of_run, allow_head=False)
        app.router.add_get(f"{API}/live", self.of_runs, allow_head=False)
        app.router.add_post(f"{API}/live", self.of_many_runs)
        app.on_shutdown.append(self._close)

    async def _close(self, _: web.Application) -> None:
        self._closing = True
        for listener in self._open:
            listener.wake()

    async def of_run(self, request: web.Request) -> web.StreamResponse:
        """New points of one run."""
        runs = check_runs([request.match_info["run_id"]], MAX_LIVE_RUNS)
        return await self._stream(request, runs, _named_keys(request))

    async def of_runs(self, request: web.Request) -> web.StreamResponse:
        """New points of several runs."""
        runs = check_runs(request.query.getall("run_id", []), MAX_LIVE_RUNS)
        return await self._stream(request, runs, _named_keys(request))

    async def of_many_runs(self, request: web.Request) -> web.StreamResponse:
        """New points of runs that the body names."""
        wanted = await decode(request, LiveRequest)
        return await self._stream(request, wanted.runs, wanted.keys)

    async def _stream(
        self, request: web.Request, runs: list[str], named: list[str] | None
    ) -> web.StreamResponse:
        keys = KeyFilter(named)
        listener = self._hub.listen(runs)
        if listener is None:
            raise BusyError("too many listeners")
        self._open.add(listener)
        try:
            response = web.StreamResponse(
                headers={
                    "Content-Type": "text/event-stream; charset=utf-8",
                    "Cache-Control": "no-store",
                    "X-Accel-Buffering": "no",
                }
            )
            await response.prepare(request)
            await self._write(response, f"retry: {_RETRY_MS}\n".encode())
            while not self._closing and not await self._hub.watched(runs, _HEARTBEAT_S):
                await self._write(response, b": not yet\n\n")
            await self._write(response, self._opening(request, runs, keys))
            await self._send(response, listener, keys)
        except ConnectionError:
            pass
        except TimeoutError:
            if request.transport is not None:
                request.transport.abort()
        finally:
            self._open.discard(listener)
            self._hub.leave(listener)
        return response

    async def _write(self, response: web.StreamResponse, data: bytes) -> None:
        # In pieces: whoever takes some of it, however slowly, is reading.
        for at in range(0, len(data), _PIECE_BYTES):
            async with asyncio.timeout(self._stall_s):
                await response.write(data[at : at + _PIECE_BYTES])

    def _opening(self, request: web.Request, runs: list[str], keys: KeyFilter) -> bytes:
        """What was missed since ``Last-Event-ID``, or a word that it is not known."""
        last = request.headers.get("Last-Event-ID") or request.query.get("last_event_id")
        here = f"{self._hub.epoch}-{self._hub.sequence}"
        if last is None:
            return f"id: {here}\nevent: open\ndata: {{}}\n\n".encode()
        epoch, _, sequence = last.partition("-")
        missed = None
        if epoch == self._hub.epoch and sequence.isdecimal():
            missed = self._hub.missed(runs, int(sequence))
        if missed is None:
            return f"id: {here}\nevent: gap\ndata: {{}}\n\n".encode()
        chunks = [f"id: {last}\nevent: open\ndata: {{}}\n\n".encode()]
        for event in missed:
            data = encode(event, keys)
            if data is not None:
                chunks.append(self._points(event.sequence, data))
        return b"".join(chunks)

    async def _send(self, response: web.StreamResponse, listener: Listener, keys: KeyFilter) -> None:
        while not self._closing:
            events = await listener.take(_HEARTBEAT_S)
            chunks = [
                self._points(event.sequence, data)
                for event in events
                if (data := encode(event, keys)) is not None
            ]
            if listener.dropped:
                reason = orjson.dumps({"reason": "too slow: points were left unread"})
                chunks.append(b"event: dropped\ndata: " + reason + b"\n\n")
            await self._write(response, b"".join(chunks) or b": still here\n\n")
            if listener.dropped:
                return

    def _points(self, sequence: int, data: bytes) -> bytes:
        return f"id: {self._hub.epoch}-{sequence}\nevent: points\ndata: ".encode() + data + b"\n\n"


def _named_keys(request: web.Request) -> list[str] | None:
    named = request.query.getall("key", None)
    return None if named is None else check_keys(named)
