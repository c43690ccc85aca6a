"""Users' SQL on an engine that keeps its own house: a ClickHouse server, in threads that do nothing else."""

from __future__ import annotations

import asyncio
import logging
import threading
import uuid
from typing import Any

from runstream.query.http.workers import BusyError, Workers
from runstream.query.sql.statement import answer
from runstream.query.sql.turns import Turns
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.ports.statements import Statement
from runstream.schemas.tasks import Tasks

_log = logging.getLogger(__name__)
_THREADS = 2
_KILL_EACH_S = 1.0
_KILL = "KILL QUERY WHERE query_id = {id:String} ASYNC"


class SqlThreads:
    """``schemas.ports.statements.Statements`` over ``database``, which should have connections, and best a user, of its
    own: what one user may cost a server is for the server to say.

    With ``named`` a statement whose caller leaves is killed by its name; without, it keeps its thread until it ends by
    ``max_query_s``.
    """

    def __init__(
        self,
        database: Database,
        *,
        max_query_s: float,
        named: bool = False,
        max_waiting: int = 8,
        wait_s: float = 30.0,
    ) -> None:
        self._database = database
        self._max_query_s = max_query_s
        self._named = named
        self._turns = Turns(_THREADS, max_waiting=max_waiting, wait_s=wait_s)
        self._threads = Workers(threads=_THREADS, max_waiting=_THREADS, timeout_s=wait_s + max_query_s)
        self._killers = Workers(threads=1, max_waiting=100, timeout_s=10.0)
        self._killing = Tasks("killing a query")

    async def answer(self, statement: Statement) -> bytes:
        """See ``Statements.answer``."""
        async with self._turns.one():
            name = uuid.uuid4().hex
            settings: dict[str, Any] = {"query_id": name} if self._named else {}
            ended = threading.Event()

            def run() -> bytes:
                try:
                    return answer(self._database, statement, max_query_s=self._max_query_s, settings=settings)
                finally:
                    ended.set()

            try:
                return await self._threads.run(run)
            except asyncio.CancelledError:
                if self._named:
                    self._killing.start(self._kill(name, ended))
                raise

    async def _kill(self, name: str, ended: threading.Event) -> None:
        """Kill a query, again and again until it has ended: it may come to the server after what kills it."""
        for _ in range(int(self._max_query_s / _KILL_EACH_S) + 1):
            if ended.is_set():
                return
            try:
                await self._killers.run(self._database.execute, _KILL, {"id": name})
            except (DatabaseError, BusyError) as error:
                _log.warning("a query that nobody waits for goes on", extra={"error": str(error)})
            await asyncio.sleep(_KILL_EACH_S)

    async def close(self) -> None:
        """See ``Statements.close``."""
        await self._killing.ended()
        await self._threads.close()
        await self._killers.close()
