"""One connection: whose its bytes are, what is under way on it, and when it has cost too much.

Requests of both kinds (handled here, or by the aiohttp server behind) may follow one another in any order; those of a
connection are answered in order. See ``door``.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, cast

from runstream.ingest.gateway.http import behind
from runstream.ingest.gateway.http.arriving import LARGE_BYTES, too_many
from runstream.ingest.gateway.http.bodies import Body, Chunked, Counted, split
from runstream.ingest.gateway.http.framing import NotPlainError
from runstream.ingest.gateway.http.handling import OK, Outcome, written
from runstream.ingest.gateway.http.inbox import Inbox
from runstream.ingest.gateway.http.states import (
    ANSWERING,
    CLOSED,
    FORWARDING,
    GIVEN_AWAY,
    READING,
    Slowness,
    State,
    move,
)
from runstream.schemas.errors import MlflowError

if TYPE_CHECKING:
    from aiohttp.web_protocol import RequestHandler

    from runstream.ingest.gateway.http.door import Door, Meaning

# Read ahead no more than this while a request of the connection is under way.
_READ_AHEAD_BYTES = 256 << 10
_TICK_S = 5.0
# How long what still comes is thrown away after a refusal.
_LINGER_S = 2.0
# How long the answer has to leave where nothing more is taken: its sender then cannot send on, and reads it.
_LEAVE_S = 0.05


class Connection(asyncio.Protocol):
    """The protocol of one connection. ``_inbox`` holds what has arrived and is not handled; ``_body`` is
    the last one that was passed on. ``began`` is when the request that is arriving did, ``last_active``
    when the connection last did anything: times of the loop's clock, in seconds."""

    __slots__ = (
        "_behind",
        "_body",
        "_close_after",
        "_door",
        "_head",
        "_inbox",
        "_loop",
        "_partial",
        "_slowness",
        "_state",
        "_task",
        "_timer",
        "_transport",
        "_waits_to_read",
        "_waits_to_write",
        "began",
        "finished",
        "last_active",
    )

    def __init__(self, door: Door) -> None:
        self._door = door
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._state = READING
        self._behind: RequestHandler | None = None
        self._inbox = Inbox(door.arriving, self)
        self._head: Meaning | None = None  # of the request whose body is arriving
        self._body: Body | None = None
        self._partial = False  # whether the server behind has a part of a head
        self._waits_to_read = False
        self._waits_to_write = False
        self._close_after = False
        self._task: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._slowness = Slowness()
        self.began = self.last_active = self._loop.time()
        self.finished: asyncio.Future[None] | None = None

    @property
    def busy(self) -> bool:
        """Whether a request is being handled here."""
        return self._state is ANSWERING

    @property
    def is_idle(self) -> bool:
        """Whether there is no request, nor a part of one."""
        return self._state is CLOSED or (
            self._state in (READING, GIVEN_AWAY)
            and not self._inbox.data
            and not self._partial
            and (self._behind is None or behind.is_idle(self._behind))
        )

    def _move(self, to: State) -> None:
        self._state = move(self._state, to)

    # --- the transport's calls -------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See ``asyncio.Protocol``."""
        # uvloop's transports are not registered as asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        if not self._door.admit(self):
            self._transport.close()
            return
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """See ``asyncio.Protocol``."""
        self._door.connections.pop(self, None)
        self._inbox.clear()
        if self._state is not CLOSED:
            self._move(CLOSED)
        self._tell_finished()
        if self._timer is not None:
            self._timer.cancel()
        if self._behind is not None:
            self._behind.connection_lost(exc)

    def pause_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        # A caller who does not read its answers gets no further ones.
        self._waits_to_write = True
        self._slowness.seconds = 0.0
        if self._behind is not None:
            self._behind.pause_writing()

    def resume_writing(self) -> None:
        """See ``asyncio.Protocol``."""
        self._waits_to_write = False
        if self._behind is not None:
            self._behind.resume_writing()
        if self._state is READING and self._inbox.data:
            self._advance()
            self._read_on()

    def eof_received(self) -> bool | None:
        """See ``asyncio.Protocol``."""
        if self._behind is not None:
            self._behind.eof_received()
        return False

    def data_received(self, data: bytes) -> None:
        """See ``asyncio.Protocol``."""
        self._slowness.arrived += len(data)
        state = self._state
        if state is READING:
            if not self._inbox.data:
                if not self._waits_to_write and self._take_whole(data):
                    return
                self.began = self._loop.time()
        elif state is FORWARDING:
            data = self._forward(data)
            if not data:
                return
            self.began = self._loop.time()
        elif state is GIVEN_AWAY:
            self._pass_on(data)
            return
        elif state is CLOSED:
            return
        self.last_active = self._loop.time()
        self._inbox.add(data)
        if self._state is READING and not self._waits_to_write:
            self._advance()
        elif len(self._inbox.data) > _READ_AHEAD_BYTES and not self._waits_to_read:
            self._waits_to_read = True
            self._transport.pause_reading()

    # --- requests ----------------------------------------------------------------------------------------------

    def _take_whole(self, data: bytes) -> bool:
        """Handle a request that came whole and alone, as nearly all small ones do, without the buffer."""
        try:
            head = self._door.heads.read(data)
        except (NotPlainError, MlflowError):
            return False
        if head is None or head.route is None or len(data) != head.size + head.body_bytes:
            return False
        if not self._may_answer() or self._transport.is_closing():
            return False
        self._handle(head, data[head.size :])
        return True

    def _may_answer(self) -> bool:
        """Whether no answer of aiohttp's is still on its way: that has to go first."""
        return self._behind is None or behind.is_idle(self._behind)

    def _advance(self) -> None:
        """Handle what is whole in the buffer, until a request is under way or more bytes are needed."""
        while self._inbox.data and self._state is READING and not self._waits_to_write:
            if self._transport.is_closing():
                return
            head = self._head
            if head is None:
                try:
                    head = self._door.heads.read(self._inbox.data, self._inbox.looked_at)
                except NotPlainError:
                    self._give_away()
                    return
                except MlflowError as error:
                    self.end(error)
                    return
                if head is None:
                    self._inbox.looked_at = len(self._inbox.data)
                    return
                self._inbox.looked_at = 0
            if head.route is None or not self._may_answer():
                self._head = None
                self._pass_on(self._cut(head.size))
                if head.chunked or head.body_bytes:
                    self._body = Chunked() if head.chunked else Counted(head.body_bytes)
                    self._move(FORWARDING)
                    if self._inbox.data and (rest := self._forward(self._cut(len(self._inbox.data)))):
                        self._inbox.add(rest)
                continue
            whole = head.size + head.body_bytes
            if len(self._inbox.data) < whole:
                if self._head is None and whole > LARGE_BYTES and not self._inbox.keep_place(whole):
                    self.end(too_many(), drain=False)
                    return
                self._head = head
                return
            self._head = None
            body = self._cut(whole, head.size)
            self._handle(head, body)

    def _cut(self, end: int, begin: int = 0) -> bytes:
        part = self._inbox.cut(end, begin)
        if self._inbox.data:
            self.began = self._loop.time()
        return part

    def _handle(self, head: Meaning, body: bytes) -> None:
        assert head.route is not None
        routes = self._door.routes
        self.last_active = self._loop.time()
        if head.closes:
            self._close_after = True
        try:
            result = routes.begin(head.route, head.headers, head.identity, head.query, body)
        except Exception as error:
            self._answer(routes.refused(error))
            return
        self._move(ANSWERING)
        if isinstance(result, asyncio.Future):
            result.add_done_callback(self._durable)
        else:
            self._task = self._loop.create_task(self._wait_for(result))

    async def _wait_for(self, result: Coroutine[Any, Any, Outcome]) -> None:
        try:
            outcome = await result
        except Exception as error:
            outcome = self._door.routes.refused(error)
        self._finish(outcome)

    def _durable(self, future: asyncio.Future[None]) -> None:
        error = RuntimeError("cancelled") if future.cancelled() else future.exception()
        self._finish(self._door.routes.refused(cast(Exception, error)) if error is not None else OK)

    def _finish(self, outcome: Outcome) -> None:
        self._task = None
        if self._state is not ANSWERING:
            return  # the caller has gone
        self._move(READING)
        self._answer(outcome)
        self._tell_finished()
        self._advance()
        self._read_on()

    def _read_on(self) -> None:
        # What is left is part of a request, however large, and its rest has to come.
        if self._waits_to_read and self._state is not ANSWERING and not self._waits_to_write:
            self._waits_to_read = False
            self._transport.resume_reading()

    def _answer(self, outcome: Outcome) -> None:
        if self._transport.is_closing():
            return
        closing = self._close_after or self._door.closing
        self._transport.write(written(outcome, closing=closing))
        if closing:
            self._transport.close()

    # --- the server behind ---------------------------------------------------------------------------------

    def _forward(self, data: bytes) -> bytes:
        """Pass on a part of a body; what is left comes after it."""
        assert self._body is not None
        now, rest, followed = split(self._body, data)
        if not followed:
            self._move(GIVEN_AWAY)
        elif self._body.ended:
            self._move(READING)
            self._slowness.seconds = 0.0
        self._pass_on(now)
        return rest

    def _pass_on(self, data: bytes) -> None:
        if self._behind is None:
            self._behind = self._door.make_handler()
            self._behind.connection_made(self._transport)
        self.last_active = self._loop.time()
        self._behind.data_received(data)
        behind.end_broken_body(self._behind)
        if self._state is GIVEN_AWAY:
            partial = behind.is_idle(self._behind)  # no request came of it: it is a part of a head
            if partial and not self._partial:
                self.began = self.last_active
            self._partial = partial

    def _give_away(self) -> None:
        self._move(GIVEN_AWAY)
        self._read_on()
        self._pass_on(self._cut(len(self._inbox.data)))

    # --- bounds and ending -----------------------------------------------------------------------------------

    def _watch(self) -> None:
        bounds, now = self._door.bounds, self._loop.time()
        tick_s = min(_TICK_S, bounds.idle_s / 4, bounds.head_s / 2, bounds.slow_s / 2)
        slow_s = self._slowness.turn(tick_s, self._due_rate())
        partial = self._state is GIVEN_AWAY and self._partial
        reads_head = partial or (self._state is READING and self._inbox.data and self._head is None)
        if slow_s >= bounds.slow_s or (reads_head and now - self.began >= bounds.head_s):
            self.end(MlflowError("The request did not arrive in time", "REQUEST_TIMEOUT"))
        elif not self.is_idle:
            self.last_active = now
        elif now - self.last_active >= bounds.idle_s:
            self.close()
        if self._state is not CLOSED:
            self._timer = self._loop.call_later(tick_s, self._watch)

    def _due_rate(self) -> float:
        """How many bytes a second have to come: none unless it is the caller who holds a request up."""
        if self._waits_to_write:
            # Answers of ours are not read. aiohttp's handlers have bounds of their own.
            return math.inf if self._may_answer() else 0
        if self._state is READING:
            arriving = self._head is not None
        elif self._state is FORWARDING:
            arriving = self._transport.is_reading()
        elif self._state is GIVEN_AWAY and self._behind is not None:
            arriving = self._transport.is_reading() and behind.awaits_body(self._behind)
        else:
            arriving = False
        return self._door.bounds.least_rate if arriving else 0

    def end(self, error: MlflowError, *, drain: bool = True) -> None:
        """Refuse the request that is arriving, and close the connection; ``drain`` tells whether to throw away
        what still comes of it, so that its sender reads the answer, or not even to take it."""
        answers = self._state is READING and not self._waits_to_write and self._may_answer()
        if self._state is not CLOSED:
            self._move(CLOSED)
        self._inbox.clear()
        if self._transport.is_closing():
            return
        if not answers:
            self._transport.abort()
            return
        outcome = self._door.routes.refused(error)
        self._transport.write(written(outcome, closing=True))
        # Closed at once, the kernel would answer what still comes with a reset, and the caller lose the answer.
        if self._transport.can_write_eof():  # TLS has no half-closed connections
            self._transport.write_eof()
        if not drain:
            self._transport.pause_reading()
        elif self._waits_to_read:
            self._transport.resume_reading()
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(_LINGER_S if drain else _LEAVE_S, self._transport.abort)

    def close(self) -> None:
        """Close a connection that has no request."""
        if self._state is not CLOSED:
            self._move(CLOSED)
        self._transport.close()

    def close_when_idle(self) -> None:
        """Close now if nothing is under way; aiohttp's own shutdown sees to what lies behind."""
        if not self.busy and self._behind is None:
            self._transport.close()

    def _tell_finished(self) -> None:
        if self.finished is not None and not self.finished.done():
            self.finished.set_result(None)
