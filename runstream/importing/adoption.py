"""A database of MLflow's that is adopted in place: its points, while they are not all in ClickHouse yet.

``runstream import`` moves them part by part and notes in a table of our own how far it has come. Until it is through,
a read of a run first brings that run's points over, so that readers see both sides: what was logged before and after
Runstream took over. Bringing points twice is harmless, for identical points are one point.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

import sqlalchemy as sa
from cachetools import LRUCache

from runstream.importing.metrics_table import MetricsTable, SourceError, open_table
from runstream.ingest.writer.blocks import merge, native_block
from runstream.schemas.errors import ConfigError, RunstreamError
from runstream.schemas.migrations import METRICS_COLUMNS, METRICS_TABLE
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.ports.database import Database
from runstream.schemas.record import PointColumns
from runstream.schemas.tasks import shared

logger = logging.getLogger(__name__)

_TABLE = "runstream_adoption"
_LOOK_EVERY_S = 1.0
_KNOWN_RUNS = 200_000
_BLOCK_ROWS = 500_000


class AdoptionState:
    """How far the move has come, in the adopted database itself. Blocking; raises ``SourceError``.

    The table can be dropped: then everything is moved again, which changes nothing.
    """

    def __init__(self, uri: str) -> None:
        try:
            self._engine = sa.create_engine(sa.make_url(uri), poolclass=sa.NullPool)
        except (sa.exc.SQLAlchemyError, ImportError) as error:
            raise ConfigError(f"the metadata URI cannot be used: {error}") from error
        self._table = sa.Table(
            _TABLE,
            sa.MetaData(),
            sa.Column("name", sa.String(32), primary_key=True),
            sa.Column("place", sa.BigInteger, nullable=False),
        )

    def read(self) -> tuple[int, bool]:
        """The place in the table of points up to which everything is moved, and whether all of it is."""
        try:
            if not sa.inspect(self._engine).has_table(_TABLE):
                return 0, False
            with self._engine.connect() as connection:
                rows = connection.execute(sa.select(self._table)).all()
        except sa.exc.SQLAlchemyError as error:
            raise SourceError(f"the metadata database does not answer: {error}") from error
        found = {str(row.name): int(row.place) for row in rows}
        return found.get("moved", 0), bool(found.get("complete", 0))

    def write(self, place: int, *, complete: bool) -> None:
        """Note it."""
        try:
            with self._engine.begin() as connection:
                self._table.create(connection, checkfirst=True)
                connection.execute(sa.delete(self._table))
                wanted = [
                    {"name": "moved", "place": place},
                    {"name": "complete", "place": int(complete)},
                ]
                connection.execute(sa.insert(self._table), wanted)
        except sa.exc.SQLAlchemyError as error:
            raise SourceError(
                f"the metadata database does not take the state of the move: {error}"
            ) from error


class AdoptingBarrier:
    """A barrier that also brings over the points of the runs that are to be read, until all are moved.

    Belongs to one event loop. What may show any run is answered with what is there, and marked stale. Points are put
    into the table inside ``changing``: for who keeps rows in memory.
    """

    def __init__(
        self,
        inner: Barrier,
        uri: str,
        database: Database,
        *,
        changing: Callable[[], AbstractContextManager[None]] = nullcontext,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._inner = inner
        self._database = database
        self._changing = changing
        self._monotonic = monotonic
        self._uri = uri
        self._points: MetricsTable | None = None
        self._state: AdoptionState | None = None
        self._over = False
        self._looked_at = float("-inf")
        self._looking: asyncio.Task[None] | None = None
        self._brought: LRUCache[str, None] = LRUCache(_KNOWN_RUNS)
        self._bringing: dict[str, asyncio.Task[None]] = {}
        # One at a time: reads of other runs go on meanwhile.
        self._turn = asyncio.Semaphore(2)

    async def wait(self, run_ids: Sequence[str] | None, timeout_s: float, *, newest: bool = True) -> bool:
        """See ``Barrier``. Newest values are in the database already, so ``newest`` alone brings nothing."""
        if newest or self._over:
            return await self._inner.wait(run_ids, timeout_s, newest=newest)
        deadline = self._monotonic() + timeout_s
        fresh = await self._inner.wait(run_ids, timeout_s, newest=newest)
        return await self._bring(run_ids, deadline - self._monotonic()) and fresh

    async def _bring(self, run_ids: Sequence[str] | None, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(max(timeout_s, 0.05)):
                await self._look()
                if self._over:
                    return True
                if run_ids is None:
                    return False
                tasks = [task for run_id in run_ids if (task := self._task(run_id)) is not None]
                if tasks:
                    # What takes longer goes on without this reader, for the next one.
                    await asyncio.shield(asyncio.gather(*tasks))
                return True
        except TimeoutError:
            return False
        except RunstreamError as error:
            logger.warning("points of an adopted database cannot be brought over: %s", error)
            return False

    async def _look(self) -> None:
        if self._looking is None:
            if self._monotonic() - self._looked_at < _LOOK_EVERY_S:
                return
            self._looking = asyncio.create_task(self._look_now())
        await asyncio.shield(self._looking)

    async def _look_now(self) -> None:
        try:
            self._over = await asyncio.to_thread(self._is_over)
            self._looked_at = self._monotonic()
        finally:
            self._looking = None
        if self._over:
            self._brought.clear()

    def _is_over(self) -> bool:
        if self._points is None or self._state is None:
            self._points, self._state = open_table(self._uri), AdoptionState(self._uri)
        # In this order: asking for the state would make a file of SQLite's that is not there.
        return self._points.empty() or self._state.read()[1]

    def _task(self, run_id: str) -> asyncio.Task[None] | None:
        if run_id in self._brought:
            self._brought[run_id] = None  # used
            return None
        task = self._bringing.get(run_id)
        if task is None:
            task = self._bringing[run_id] = shared(self._bring_run(run_id))
        return task

    async def _bring_run(self, run_id: str) -> None:
        try:
            async with self._turn:
                await asyncio.to_thread(self._copy, run_id)
            self._brought[run_id] = None
        finally:
            del self._bringing[run_id]

    def _copy(self, run_id: str) -> None:
        assert self._points is not None
        held: list[PointColumns] = []
        rows = 0
        for points in self._points.of_run(run_id):
            held.append(points)
            rows += len(points)
            if rows >= _BLOCK_ROWS:
                self._insert(held)
                held, rows = [], 0
        if held:
            self._insert(held)

    def _insert(self, held: list[PointColumns]) -> None:
        with self._changing():
            self._database.insert_native(METRICS_TABLE, METRICS_COLUMNS, native_block(merge(held)))
