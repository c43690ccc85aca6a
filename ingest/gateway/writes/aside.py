"""Understands large and odd bodies in a process beside, so that no other request waits for them.

A thread would not do: a JSON reader keeps Python's lock for as long as it reads. The process starts with the gateway,
because to start one holds everything up as well, and reads one body at a time; in memory and time it is bounded.
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE, Process

import msgspec

from runstream.ingest.gateway.writes.aside_main import LENGTH_BYTES, Question, Reply, framed
from runstream.ingest.gateway.writes.log_request import LogRequest
from runstream.schemas.errors import MlflowError

_MODULE = "runstream.ingest.gateway.writes.aside_main"
_SLICE_BYTES = 64 << 10
_MAX_WAITING_BYTES = 64 << 20
_DEADLINE_S = 20.0


class Aside:
    """The process of one gateway process. Belongs to one event loop; close it once."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._waiting_bytes = 0
        self._process: Process | None = None
        self._replies = msgspec.msgpack.Decoder(Reply)

    async def start(self) -> None:
        """Start the process; one that has ended is started again with the next body."""
        await self._started()

    async def parse(self, route: str, body: bytes, content_type: str | None) -> LogRequest:
        """What ``parse.PARSERS[route]`` makes of a body; raises ``MlflowError`` as it does, RESOURCE_EXHAUSTED if too
        much waits already, and BODY_TOO_LARGE for a body that takes too much time or memory."""
        if self._waiting_bytes and self._waiting_bytes + len(body) > _MAX_WAITING_BYTES:
            raise MlflowError(
                "The server reads as many large requests as it may; try again", "RESOURCE_EXHAUSTED"
            )
        self._waiting_bytes += len(body)
        try:
            async with self._lock:
                reply = await self._ask(Question(route, content_type, len(body)), body)
        finally:
            self._waiting_bytes -= len(body)
        if reply.log is None:
            assert reply.refusal is not None
            raise reply.refusal.error()
        log = reply.log
        deferred = log.deferred_error
        return LogRequest(
            log.run_id,
            log.keys,
            log.steps,
            log.timestamps,
            log.values,
            log.forward,
            deferred.error() if deferred is not None else None,
        )

    async def _ask(self, question: Question, body: bytes) -> Reply:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                process = await self._started()
                assert process.stdin is not None
                assert process.stdout is not None
                process.stdin.write(framed(question))
                view = memoryview(body)
                for at in range(0, len(body), _SLICE_BYTES):
                    process.stdin.write(view[at : at + _SLICE_BYTES])
                    await process.stdin.drain()
                length = await process.stdout.readexactly(LENGTH_BYTES)
                data = await process.stdout.readexactly(int.from_bytes(length, "big"))
        except (OSError, EOFError, TimeoutError) as error:
            self._end()
            raise MlflowError("The request takes too much to read", "BODY_TOO_LARGE") from error
        except BaseException:
            self._end()  # its answer would be taken for that of the next
            raise
        return self._replies.decode(data)

    async def _started(self) -> Process:
        if self._process is None or self._process.returncode is not None:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", _MODULE, stdin=PIPE, stdout=PIPE
            )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None and process.returncode is None:
            process.kill()

    async def close(self) -> None:
        """End the process, and wait for its end."""
        process = self._process
        self._end()
        if process is not None:
            await process.wait()
