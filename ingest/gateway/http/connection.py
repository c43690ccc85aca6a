"""The lean path: metric writes are read from the socket and answered without a request object.

A framework's request costs as much as storing a point, so the two hot routes are served by a small protocol of
their own. It stands before the aiohttp server on every connection: a plain POST to a hot route is taken here, and
the bytes of every other request go to aiohttp's own protocol, which lives behind it on the same connection. Requests
of both kinds may follow one another in any order; those of a connection are answered in order.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from aiohttp.web_protocol import RequestHandler

from runstream.ingest.gateway.http import answers
from runstream.ingest.gateway.http.framing import Head, Heads, NotPlainError
from runstream.ingest.gateway.http.hosts import HostRules
from runstream.ingest.gateway.telemetry import GatewayTelemetry
from runstream.ingest.gateway.writes.admission import IDENTITY_HEADERS, Identity
from runstream.ingest.gateway.writes.intake import PARSERS, Intake
from runstream.ingest.gateway.writes.log_request import LogRequest

_OK = (
    b"HTTP/1.1 200 OK\r\n"
    b"Content-Type: application/json\r\n"
    b"X-Content-Type-Options: nosniff\r\n"
    b"Content-Length: 2\r\n\r\n{}"
)
_CLOSE = b"Connection: close\r\n"
_IDENTITY = tuple((name.lower().encode(), name) for name in IDENTITY_HEADERS)
# Requests that carry one of these are for the full server: it decodes bodies, answers 100, and knows origins.
_NOT_LEAN = (b"origin", b"content-encoding", b"expect")
# Read ahead no more than this while a request of the connection is under way.
_READ_AHEAD_BYTES = 256 << 10


@dataclass(slots=True)
class _Meaning:
    """What the head of a request says. ``route`` is ``None`` where the full server has to answer."""

    size: int
    body_bytes: int
    route: str | None
    content_type: str | None
    identity: Identity
    closes: bool


class LeanServer:
    """What the connections of one process share. ``make_handler`` makes aiohttp's protocol for one connection."""

    def __init__(
        self,
        intake: Intake,
        hosts: HostRules,
        telemetry: GatewayTelemetry,
        make_handler: Callable[[], RequestHandler],
        *,
        prefix: str,
        max_body_bytes: int,
        retry_after_s: int,
        idle_timeout_s: float,
    ) -> None:
        self.intake = intake
        self.hosts = hosts
        self.telemetry = telemetry
        self.make_handler = make_handler
        self.max_body_bytes = max_body_bytes
        self.retry_after_s = retry_after_s
        self.idle_timeout_s = idle_timeout_s
        self.heads = Heads(self._understand)
        self.closing = False
        self.connections: set[LeanConnection] = set()
        self.routes = {
            f"POST {prefix}{api}/runs/{route} HTTP/1.1".encode(): route
            for api in ("/api/2.0/mlflow", "/ajax-api/2.0/mlflow")
            for route in PARSERS
        }

    def __call__(self) -> LeanConnection:
        """The protocol for a new connection."""
        return LeanConnection(self)

    def _understand(self, head: Head) -> _Meaning:
        headers = head.headers
        lean = (
            head.body_bytes <= self.max_body_bytes
            and not any(name in headers for name in _NOT_LEAN)
            and self.hosts.allows(headers.get(b"host", b"").decode("latin-1"))
        )
        content_type = headers.get(b"content-type")
        return _Meaning(
            head.size,
            head.body_bytes,
            self.routes.get(head.line) if lean else None,
            content_type.decode("latin-1") if content_type is not None else None,
            tuple((name, headers[key].decode("latin-1")) for key, name in _IDENTITY if key in headers),
            headers.get(b"connection", b"").lower() == b"close",
        )

    async def drain(self) -> None:
        """Close idle connections, and the others as soon as their request on the lean path is answered."""
        self.closing = True
        for connection in list(self.connections):
            connection.close_when_idle()
        while busy := [connection for connection in self.connections if connection.busy]:
            busy[0].finished = asyncio.get_running_loop().create_future()
            await busy[0].finished


class LeanConnection(asyncio.Protocol):
    """One connection. Bytes not handled yet wait in ``_buffer``; ``_forward`` counts body bytes still to be passed
    on to aiohttp's protocol."""

    def __init__(self, server: LeanServer) -> None:
        self._server = server
        self._transport: asyncio.Transport
        self._behind: RequestHandler | None = None
        self._buffer = bytearray()
        self._forward = 0
        self._given_away = False
        self._paused = False
        self._idle_timer: asyncio.TimerHandle | None = None
        self._last_active = 0.0
        self._close_after = False
        self._task: asyncio.Task[None] | None = None
        self.busy = False
        self.finished: asyncio.Future[None] | None = None

    # --- the transport's calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        # uvloop's transports are not registered as asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._server.connections.add(self)
        self._watch_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._server.connections.discard(self)
        self._tell_finished()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        if self._behind is not None:
            self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        if self._behind is not None:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        if self._behind is not None:
            self._behind.resume_writing()

    def eof_received(self) -> bool | None:
        """See ``asyncio.Protocol``."""
        if self._behind is not None:
            self._behind.eof_received()
        return False

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        if self._given_away:
            self._pass_on(data)
            return
        if self._forward and not self._buffer:
            if len(data) <= self._forward:
                self._forward -= len(data)
                self._pass_on(data)
                return
            now, data = data[: self._forward], data[self._forward :]
            self._forward = 0
            self._pass_on(now)
        if not self._buffer and not self.busy and self._take_whole(data):
            return
        self._buffer += data
        self._last_active = asyncio.get_running_loop().time()
        if not self.busy:
            self._advance()
        elif len(self._buffer) > _READ_AHEAD_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    # --- requests ----------------------------------------------------------------------------------------------

    def _take_whole(self, data: bytes) -> bool:
        """Serve a request that came whole and alone, as nearly all small ones do, without the buffer."""
        try:
            head = self._server.heads.read(data)
        except NotPlainError:
            return False
        if head is None or len(data) != head.size + head.body_bytes:
            return False
        if head.route is None or not self._may_answer() or self._transport.is_closing():
            return False
        self._serve(head.route, head, data[head.size :])
        return True

    def _may_answer(self) -> bool:
        """Whether no answer of aiohttp's is still on its way: that has to go first."""
        return self._behind is None or _is_idle(self._behind)

    def _advance(self) -> None:
        """Handle what is whole in the buffer, until a request is under way or more bytes are needed."""
        while self._buffer and not self.busy and not self._given_away and not self._transport.is_closing():
            if self._forward:
                part = bytes(self._buffer[: self._forward])
                del self._buffer[: len(part)]
                self._forward -= len(part)
                self._pass_on(part)
                continue
            try:
                head = self._server.heads.read(self._buffer)
            except NotPlainError:
                self._give_away()
                return
            if head is None:
                return
            if head.route is None or not self._may_answer():
                self._pass_on(bytes(self._buffer[: head.size]))
                del self._buffer[: head.size]
                self._forward = head.body_bytes
                continue
            whole = head.size + head.body_bytes
            if len(self._buffer) < whole:
                return
            body = bytes(memoryview(self._buffer)[head.size : whole])
            if len(self._buffer) == whole:
                self._buffer = bytearray()
            else:
                del self._buffer[:whole]
            self._serve(head.route, head, body)

    def _serve(self, route: str, head: _Meaning, body: bytes) -> None:
        server = self._server
        server.telemetry.request(route)
        self._last_active = asyncio.get_running_loop().time()
        if head.closes:
            self._close_after = True
        identity = head.identity
        try:
            log = PARSERS[route](body, head.content_type)
            durable = server.intake.accept_nowait(log, identity)
        except Exception as error:
            self._answer(error)
            return
        self.busy = True
        if durable is not None:
            durable.add_done_callback(self._durable)
        else:
            self._task = asyncio.get_running_loop().create_task(self._accept(log, route, identity))

    async def _accept(self, log: LogRequest, route: str, identity: Identity) -> None:
        try:
            await self._server.intake.accept(log, route, identity)
        except Exception as error:
            self._finish(error)
        else:
            self._finish(None)

    def _durable(self, future: asyncio.Future[None]) -> None:
        self._finish(future.exception())

    def _finish(self, error: BaseException | None) -> None:
        self.busy = False
        self._task = None
        self._answer(error)
        self._tell_finished()
        self._advance()
        # What is left is part of a request, however large, and its rest has to come.
        if self._paused and not self.busy:
            self._paused = False
            self._transport.resume_reading()

    def _answer(self, error: BaseException | None) -> None:
        if self._transport.is_closing():
            return
        closing = self._close_after or self._server.closing
        if error is None:
            self._transport.write(_OK.replace(b"\r\n", b"\r\n" + _CLOSE, 1) if closing else _OK)
        else:
            if not isinstance(error, Exception):
                error = RuntimeError("cancelled")
            self._transport.write(_refusal(error, self._server, closing))
        if closing:
            self._transport.close()

    # --- the server behind ---------------------------------------------------------------------------------

    def _pass_on(self, data: bytes) -> None:
        if self._behind is None:
            self._behind = self._server.make_handler()
            self._behind.connection_made(self._transport)
        self._last_active = asyncio.get_running_loop().time()
        self._behind.data_received(data)

    def _give_away(self) -> None:
        self._given_away = True
        data = bytes(self._buffer)
        self._buffer.clear()
        if self._paused:
            self._paused = False
            self._transport.resume_reading()
        self._pass_on(data)

    # --- ending ----------------------------------------------------------------------------------------------

    def close_when_idle(self) -> None:
        """Close now if nothing is under way; aiohttp's own shutdown sees to what lies behind."""
        if not self.busy and self._behind is None:
            self._transport.close()

    def _tell_finished(self) -> None:
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(None)

    def _watch_idle(self) -> None:
        loop = asyncio.get_running_loop()
        now = loop.time()
        quiet = not self.busy and (self._behind is None or _is_idle(self._behind))
        if self._last_active and quiet and now - self._last_active >= self._server.idle_timeout_s:
            self._transport.close()
            return
        if not self._last_active or not quiet:
            self._last_active = now
        self._idle_timer = loop.call_later(self._server.idle_timeout_s / 4, self._watch_idle)


def _is_idle(handler: RequestHandler) -> bool:
    """Whether aiohttp's protocol waits for a request: it has read none that it has not answered."""
    waiter = handler._waiter
    return waiter is not None and not waiter.done() and not handler._messages


def _refusal(error: Exception, server: LeanServer, closing: bool) -> bytes:
    server.telemetry.refused(answers.reason(error))
    status, headers, body = answers.parts(error, server.retry_after_s)
    lines = [f"HTTP/1.1 {status} {answers.phrase(status)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    lines.append(f"Content-Length: {len(body)}")
    if closing:
        lines.append("Connection: close")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
