"""Makes the rollups of long series in the background, part by part."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from runstream.query.http.workers import BusyError, Workers
from runstream.query.points.parts import Part, active_parts
from runstream.query.points.rollups import forget_rollups, make_rollups, rolled_up
from runstream.schemas.ports.database import Database, DatabaseError

_log = logging.getLogger(__name__)
# Shutting down waits for the part under way, and for this long at most.
_MAX_STATEMENT_S = 15
_FORGET_EVERY_S = 3600.0
_ERROR_PAUSE_S = 60.0


class RollupBuilder:
    """Looks every ``interval_s`` for a large part that has been there for ``settled_s``, one at a time.

    Younger ones are about to be merged away, unless they are huge: then a scan of them hurts most. Costs a statement
    a round while there is nothing to do. Nothing depends on it: what has no rollup is scanned.
    """

    def __init__(
        self,
        database: Database,
        *,
        min_rows: int = 1 << 19,
        interval_s: float = 2.0,
        settled_s: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._min_rows = min_rows
        self._huge_rows = 16 * min_rows
        self._interval_s = interval_s
        self._settled_s = settled_s
        self._clock = clock
        self._done: set[str] | None = None
        self._since: dict[str, float] = {}
        self._forget_at = clock() + _FORGET_EVERY_S

    async def run(self) -> None:
        """Work until cancelled; what goes wrong is logged and tried again."""
        worker = Workers(threads=1, max_waiting=1, timeout_s=2 * _MAX_STATEMENT_S)
        try:
            while True:
                try:
                    pause_s = 0.0 if await worker.run_unbounded(self.step) else self._interval_s
                except (DatabaseError, BusyError) as error:
                    _log.warning("long series have no rollups yet", extra={"error": str(error)})
                    pause_s = _ERROR_PAUSE_S
                await asyncio.sleep(pause_s)
        finally:
            await worker.close()

    def step(self) -> bool:
        """Make the rollups of one part; whether there was one. Blocks; raises ``DatabaseError``."""
        large = [part for part in active_parts(self._database) if part.rows >= self._min_rows]
        if not large:
            return False
        if self._done is None:
            self._done = rolled_up(self._database)
        now = self._clock()
        self._since = {part.content: self._since.get(part.content, now) for part in large}
        self._done &= self._since.keys()
        due = [
            part
            for part in large
            if part.content not in self._done
            and (part.rows >= self._huge_rows or now - self._since[part.content] >= self._settled_s)
        ]
        if not due:
            self._forget(large)
            return False
        part = max(due, key=lambda part: part.rows)
        # Whatever comes of it: a part that cannot be rolled up must not be tried for ever.
        self._done.add(part.content)
        make_rollups(self._database, part, _MAX_STATEMENT_S)
        return True

    def _forget(self, parts: list[Part]) -> None:
        if self._clock() >= self._forget_at:
            self._forget_at = self._clock() + _FORGET_EVERY_S
            forget_rollups(self._database, parts)
