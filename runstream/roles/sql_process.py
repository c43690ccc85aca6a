"""Users' SQL in a process of its own, for an engine that is embedded in this one."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import socket
import sys
import uuid
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from runstream.clickhouse.linked import table_parts
from runstream.query.http.workers import BusyError, Workers
from runstream.query.sql.statement import MAX_THREADS
from runstream.query.sql.turns import Turns
from runstream.schemas.errors import MlflowError
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.ports.statements import Statement
from runstream.schemas.sql_wire import (
    LENGTH,
    Ask,
    Failed,
    PartsGone,
    Ready,
    Refused,
    Reply,
    Result,
    frame,
    reply_of,
)
from runstream.schemas.tasks import Tasks
from runstream.serve.lifeline import PARENT_VARIABLE

_log = logging.getLogger(__name__)
_START_S = 60.0
# Taking over a table's parts, and writing a result, on top of the statement's own time.
_GRACE_S = 5.0
_TRIES = 4
# After this without a statement the process ends: it keeps memory, and parts that were merged away keep their space.
_IDLE_S = 120.0


class SqlProcess:
    """``schemas.ports.statements.Statements`` on one process, which runs one statement at a time.

    It is started by the first statement, and ended when a statement takes longer than ``max_query_s`` (and some grace),
    when its caller leaves, and after a while without any. ``folder`` is on the file system of the engine's own and
    belongs to this object.
    """

    def __init__(
        self,
        database: Database,
        folder: Path,
        *,
        max_query_s: float,
        grace_s: float = _GRACE_S,
        max_waiting: int = 8,
        wait_s: float = 30.0,
        idle_s: float = _IDLE_S,
    ) -> None:
        self._database = database
        self._folder = folder
        self._max_query_s = max_query_s
        self._deadline_s = max_query_s + grace_s
        self._idle_s = idle_s
        self._turns = Turns(1, max_waiting=max_waiting, wait_s=wait_s)
        self._threads = Workers(threads=1, max_waiting=1, timeout_s=_START_S)
        self._worker: _Worker | None = None
        self._idle: asyncio.TimerHandle | None = None
        self._ending = Tasks("ending a process of SQL")
        self._cleared = False

    @property
    def pid(self) -> int | None:
        """The process that runs now."""
        return self._worker.process.pid if self._worker is not None else None

    async def answer(self, statement: Statement) -> bytes:
        """See ``Statements.answer``."""
        async with self._turns.one():
            if self._idle is not None:
                self._idle.cancel()
            try:
                reply = await self._asked(statement)
            except BaseException:
                # Whatever it is busy with, nobody waits for it.
                self._end()
                raise
            if isinstance(reply, Failed):
                self._end()  # the next one begins with an engine that nothing has happened to
            self._idle = asyncio.get_running_loop().call_later(self._idle_s, self._end)
        if isinstance(reply, Result):
            return reply.body
        if isinstance(reply, Refused):
            raise MlflowError(reply.message, reply.code)
        if isinstance(reply, Failed):
            raise DatabaseError(reply.message, code=reply.code, retryable=reply.retryable)
        raise BusyError("the table changes faster than it can be looked at")

    async def close(self) -> None:
        """See ``Statements.close``."""
        if self._idle is not None:
            self._idle.cancel()
        self._end()
        await self._ending.ended()
        await self._threads.close()

    async def _asked(self, statement: Statement) -> Reply:
        worker = self._worker
        if worker is None:
            worker = self._worker = await self._start()
        reply: Reply = PartsGone()
        for _ in range(_TRIES):
            if not isinstance(reply, PartsGone):
                break
            parts = await self._threads.run(table_parts, self._database)
            ask = Ask(statement, parts, self._max_query_s, MAX_THREADS * self._deadline_s)
            try:
                async with asyncio.timeout(self._deadline_s):
                    reply = await worker.ask(ask)
            except TimeoutError as error:
                raise MlflowError(f"This query takes longer than {self._max_query_s:g} s") from error
            except (OSError, asyncio.IncompleteReadError) as error:
                raise MlflowError(
                    "This query was ended: it takes more time or memory than a query may have"
                ) from error
        return reply

    async def _start(self) -> _Worker:
        folder = self._folder / uuid.uuid4().hex
        try:
            await self._threads.run(self._prepare, folder)
            async with asyncio.timeout(_START_S):
                return await _Worker.started(folder, self._later)
        except (OSError, asyncio.IncompleteReadError, TimeoutError) as error:
            self._later(self._removed(folder))
            _log.warning("the process for SQL did not start", extra={"error": repr(error)})
            raise BusyError("the process for SQL did not start") from error

    def _prepare(self, folder: Path) -> None:
        if not self._cleared:
            # Links that a process left which could not clean up.
            shutil.rmtree(self._folder, ignore_errors=True)
            self._cleared = True
        folder.mkdir(parents=True, mode=0o700)

    def _end(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            self._later(self._ended(worker))

    async def _ended(self, worker: _Worker) -> None:
        await worker.end()
        await self._removed(worker.folder)

    async def _removed(self, folder: Path) -> None:
        await asyncio.to_thread(shutil.rmtree, folder, ignore_errors=True)

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self._ending.start(work)


class _Worker:
    """A process that has said that it is ready, and this end of its socket."""

    def __init__(
        self,
        folder: Path,
        process: asyncio.subprocess.Process,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        self.folder = folder
        self.process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def started(cls, folder: Path, later: Callable[[Coroutine[Any, Any, None]], None]) -> _Worker:
        """Start a process and wait until it is ready. Raises ``OSError`` and ``IncompleteReadError``."""
        ours, theirs = socket.socketpair()
        with theirs:
            ours.setblocking(False)
            reader, writer = await asyncio.open_connection(sock=ours)
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "runstream.roles.sql_worker"),
                    *(str(folder), str(theirs.fileno())),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    pass_fds=[theirs.fileno()],
                    # Signals of a terminal are for the server, which ends this process itself.
                    start_new_session=True,
                    env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                )
            except BaseException:
                writer.close()
                raise
        worker = cls(folder, process, reader, writer)
        try:
            if not isinstance(await worker._next(), Ready):
                raise OSError("the process for SQL says something else than that it is ready")
        except BaseException:
            later(worker.end())
            raise
        return worker

    async def ask(self, ask: Ask) -> Reply:
        """The answer to one request. Raises ``OSError`` and ``IncompleteReadError`` when the process ends."""
        self._writer.write(frame(ask))
        await self._writer.drain()
        return await self._next()

    async def _next(self) -> Reply:
        (count,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
        return reply_of(await self._reader.readexactly(count))

    async def end(self) -> None:
        """Kill it, whatever it does."""
        self._writer.close()
        with suppress(ProcessLookupError):
            self.process.kill()
        await self.process.wait()
