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
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from runstream.query.http.workers import BusyError, Workers
from runstream.query.live.hub import Hub
from runstream.query.points.distributed import distributed_table
from runstream.query.points.parts import Coverage, active_parts, coverage
from runstream.schemas.ports.barrier import Barrier
from runstream.schemas.ports.database import Database, DatabaseError
from runstream.schemas.record import PointColumns

_log = logging.getLogger(__name__)
_MAX_ROWS = 200_000
# How far back a point of a merged part may be dated to count as new.
_RECENT_MS = 10 * 60 * 1000
_FLUSH_S = 1.0


@dataclass(frozen=True, slots=True)
class _Look:
    """New points, and what has been seen with them."""

    points: PointColumns | None
    seen: Coverage | None
    shown: dict[str, set[int]]


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
                look = await self._workers.run(self._look, runs)
                self._seen, self._shown = look.seen, look.shown
                if look.points is not None:
                    self._hub.publish(look.points)
                self._hub.watching(runs)
            except (DatabaseError, BusyError) as error:
                _log.warning("live points are late", extra={"error": str(error)})
            await asyncio.sleep(self._interval_s)

    def _look(self, runs: list[str]) -> _Look:
        if self._distributed is None:
            self._distributed = distributed_table(self._database) is not None
        return self._unseen_recent(runs) if self._distributed else self._of_new_parts(runs)

    def _unseen_recent(self, runs: list[str]) -> _Look:
        found = self._database.arrow(
            "SELECT DISTINCT run_id, key, step, timestamp, value, sipHash64(key, step, timestamp, value) AS name"
            " FROM metrics WHERE run_id IN {runs:Array(String)} AND timestamp >= {recent:Int64}"
            " ORDER BY timestamp DESC LIMIT {rows:UInt64}",
            {"runs": runs, "recent": int(self._wall_clock() * 1000) - _RECENT_MS, "rows": _MAX_ROWS},
        )
        rows = list(zip(found.column("run_id").to_pylist(), found.column("name").to_pylist(), strict=True))
        before: dict[str, set[int]] = self._shown
        shown: dict[str, set[int]] = {run: set() for run in runs}
        for run, name in rows:
            shown[run].add(name)
        # Of a run that was not listened to before, everything is old.
        fresh = [run in before and name not in before[run] for run, name in rows]
        unseen = found.filter(pa.array(fresh, pa.bool_()))
        order = [(name, "ascending") for name in ("run_id", "key", "step", "timestamp")]
        return _Look(_columns(unseen.sort_by(order)) if unseen.num_rows else None, None, shown)

    def _of_new_parts(self, runs: list[str]) -> _Look:
        parts, seen = active_parts(self._database), self._seen
        # Seen once it has been read: a reading that fails is made up for by the next.
        then = coverage(parts, seen)
        known = [part.name for part in parts if seen is not None and seen.holds(part)]
        if seen is None or len(known) == len(parts):
            return _Look(None, then, {})
        new = [part.name for part in parts if not part.merged and not seen.holds(part)]
        # Not "in the new ones": a part that has just been merged into another would be left out.
        found = self._database.arrow(
            "SELECT DISTINCT run_id, key, step, timestamp, value FROM metrics"
            " WHERE _part NOT IN {known:Array(String)} AND run_id IN {runs:Array(String)}"
            " AND (has({new:Array(String)}, toString(_part)) OR timestamp >= {recent:Int64})"
            " ORDER BY run_id, key, step, timestamp LIMIT {rows:UInt64}",
            {
                "known": known,
                "new": new,
                "runs": runs,
                "recent": int(self._wall_clock() * 1000) - _RECENT_MS,
                "rows": _MAX_ROWS,
            },
        )
        return _Look(_columns(found) if found.num_rows else None, then, {})


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
