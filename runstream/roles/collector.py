"""Removes the points of runs that are gone from MLflow's database."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from runstream.ingest.writer.latest import LatestUnavailableError
from runstream.ingest.writer.removed import RemovedRuns
from runstream.query.points.distributed import delete_runs
from runstream.schemas.ports.database import Database, DatabaseError

_log = logging.getLogger(__name__)
_LOOK_S = 0.5
_ERROR_PAUSE_S = 10.0
# Points may arrive for as long as a gateway remembers that a run may be written to, and then through the queue.
_AGAIN_EVERY_S = 60.0
_UNTIL_S = 1200.0


class Collector:
    """Looks for removed runs and removes their points, at once and again while some may still arrive. Any number of
    processes may do so."""

    def __init__(
        self, database: Database, removed: RemovedRuns, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._database = database
        self._removed = removed
        self._clock = clock
        # When a run was first seen to be gone, and when its points were last looked for.
        self._since: dict[str, float] = {}
        self._looked: dict[str, float] = {}

    async def run(self) -> None:
        """Work until cancelled; what goes wrong is logged and tried again."""
        try:
            while True:
                pause_s = _LOOK_S
                try:
                    await asyncio.to_thread(self.step)
                except (LatestUnavailableError, DatabaseError) as error:
                    _log.warning("points of removed runs stay for now", extra={"error": str(error)})
                    pause_s = _ERROR_PAUSE_S
                await asyncio.sleep(pause_s)
        finally:
            self._removed.close()

    def step(self) -> None:
        """Look once. Blocks; raises ``LatestUnavailableError`` and ``DatabaseError``."""
        now = self._clock()
        if not self._removed.watch():
            return
        gone = self._removed.pending()
        self._since = {run: self._since.get(run, now) for run in gone}
        self._looked = {run: at for run, at in self._looked.items() if run in self._since}
        due = [run for run in gone if now - self._looked.get(run, float("-inf")) >= _AGAIN_EVERY_S]
        if due:
            self._delete(due)
            self._looked |= dict.fromkeys(due, now)
        done = [run for run in due if now - self._since[run] >= _UNTIL_S]
        if done:
            self._removed.forget(done)

    def _delete(self, runs: list[str]) -> None:
        found = self._database.arrow(
            "SELECT DISTINCT run_id FROM metrics WHERE run_id IN {runs:Array(String)}", {"runs": runs}
        )
        with_points = found.column("run_id").to_pylist()
        if with_points:
            delete_runs(self._database, with_points)
            _log.info("points of removed runs are removed", extra={"runs": len(with_points)})
