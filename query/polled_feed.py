"""New points for the hub where nothing hands them over: found by looking for new parts of the table.

For a query service apart from the writer. While somebody listens, each round makes the writer flush, looks
which parts have appeared since the last round, and reads the listened runs' rows of them. A part that was
merged out of new and known ones shows known points again; of those only recent ones are passed on, and
listeners that care drop repeats. A cluster's Distributed table has no parts here: there each round reads the runs'
recent points and passes on those that the round before did not show.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from query.consistency import Barrier
from query.distributed import distributed_table
from query.live import Hub
from query.parts import Coverage, active_parts, coverage
from query.workers import BusyError, Workers
from schemas.database import Database, DatabaseError
from schemas.record import PointColumns

_log = logging.getLogger(__name__)
_MAX_ROWS = 200_000
# How far back a point of a merged part may be dated to count as new.
_RECENT_MS = 10 * 60 * 1000
_FLUSH_S = 1.0


class PolledFeed:
    """Publishes new points of the hub's runs, every ``interval_s`` while there are any."""

    def __init__(
        self,
        database: Database,
        workers: Workers,
        barrier: Barrier,
        hub: Hub,
        *,
        interval_s: float = 0.1,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._database = database
        self._workers = workers
        self._barrier = barrier
        self._hub = hub
        self._interval_s = interval_s
        self._wall_clock = wall_clock
        self._seen: Coverage | None = None
        self._distributed: bool | None = None
        self._shown: dict[str, set[int]] = {}

    async def run(self) -> None:
        """Work until cancelled; what goes wrong is logged and tried again."""
        while True:
            if not self._hub.runs():
                self._seen, self._shown = None, {}
            runs = await self._hub.wanted()
            try:
                # Whoever has just come waits for the first look at its runs: what is flushed before it is not new.
                if self._hub.all_watched(runs):
                    await self._barrier.wait(runs, _FLUSH_S, newest=False)
                points = await self._workers.run(self._new_points, runs)
                if points is not None:
                    self._hub.publish(points)
                self._hub.watching(runs)
            except (DatabaseError, BusyError) as error:
                _log.warning("live points are late", extra={"error": str(error)})
            await asyncio.sleep(self._interval_s)

    def _new_points(self, runs: list[str]) -> PointColumns | None:
        if self._distributed is None:
            self._distributed = distributed_table(self._database) is not None
        return self._unseen_recent(runs) if self._distributed else self._of_new_parts(runs)

    def _unseen_recent(self, runs: list[str]) -> PointColumns | None:
        found = self._database.arrow(
            "SELECT DISTINCT run_id, key, step, timestamp, value, sipHash64(key, step, timestamp, value) AS name"
            " FROM metrics WHERE run_id IN {runs:Array(String)} AND timestamp >= {recent:Int64}"
            " ORDER BY timestamp DESC LIMIT {rows:UInt64}",
            {"runs": runs, "recent": int(self._wall_clock() * 1000) - _RECENT_MS, "rows": _MAX_ROWS},
        )
        rows = list(zip(found.column("run_id").to_pylist(), found.column("name").to_pylist(), strict=True))
        before, self._shown = self._shown, {run: set() for run in runs}
        for run, name in rows:
            self._shown[run].add(name)
        # Of a run that was not listened to before, everything is old.
        fresh = [run in before and name not in before[run] for run, name in rows]
        unseen = found.filter(pa.array(fresh, pa.bool_()))
        order = [(name, "ascending") for name in ("run_id", "key", "step", "timestamp")]
        return _columns(unseen.sort_by(order)) if unseen.num_rows else None

    def _of_new_parts(self, runs: list[str]) -> PointColumns | None:
        parts = active_parts(self._database)
        seen, self._seen = self._seen, coverage(parts, self._seen)
        if seen is None:
            return None
        fresh = [part for part in parts if not seen.holds(part)]
        if not fresh:
            return None
        merged = [part.name for part in fresh if part.merged]
        found = self._database.arrow(
            "SELECT DISTINCT run_id, key, step, timestamp, value FROM metrics"
            " WHERE _part IN {parts:Array(String)} AND run_id IN {runs:Array(String)}"
            " AND (NOT has({merged:Array(String)}, toString(_part)) OR timestamp >= {recent:Int64})"
            " ORDER BY run_id, key, step, timestamp LIMIT {rows:UInt64}",
            {
                "parts": [part.name for part in fresh],
                "merged": merged,
                "runs": runs,
                "recent": int(self._wall_clock() * 1000) - _RECENT_MS,
                "rows": _MAX_ROWS,
            },
        )
        return _columns(found) if found.num_rows else None


def _columns(found: pa.Table) -> PointColumns:
    runs = found.column("run_id").combine_chunks().dictionary_encode()
    keys = found.column("key").combine_chunks().dictionary_encode()

    def codes(names: Any) -> Any:
        return names.indices.to_numpy().astype(np.uint32)

    return PointColumns(
        runs=runs.dictionary.to_pylist(),
        keys=keys.dictionary.to_pylist(),
        run_codes=codes(runs),
        key_codes=codes(keys),
        steps=found.column("step").to_numpy(),
        timestamps=found.column("timestamp").to_numpy(),
        values=found.column("value").to_numpy(),
        created_at_ms=0,
    )
