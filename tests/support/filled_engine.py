"""A program: the embedded engine under inserts and merges, with its guard, for a disk that others fill.

``python filled_engine.py FOLDER``. It inserts points without a pause, each block again until it is taken, as the writer
does. For each line of input it answers with one line of JSON, once the engine can read everything: the points that were
inserted, those that are found, and how many writes the disk has refused. It ends with its input.
"""

from __future__ import annotations

import asyncio
import json
import sys
import threading
import time

import numpy as np

from runstream.clickhouse import connect
from runstream.clickhouse.embedded import EmbeddedDatabase
from runstream.clickhouse.migrate import migrate
from runstream.clickhouse.part_guard import PartGuard
from runstream.ingest.writer.blocks import native_block
from runstream.schemas.migrations import METRICS_COLUMNS, METRICS_TABLE, Flavour
from runstream.schemas.ports.database import DatabaseError
from runstream.schemas.record import PointColumns

_BLOCK = 2000
_CACHES = ("MARK CACHE", "UNCOMPRESSED CACHE", "PRIMARY INDEX CACHE")


class Inserts:
    """A thread that inserts one long series; ``count`` points of it are acknowledged."""

    def __init__(self, database: EmbeddedDatabase) -> None:
        self.count = 0
        self._database = database
        self._values = np.random.default_rng(1)
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            steps = np.arange(self.count, self.count + _BLOCK)
            codes = np.zeros(_BLOCK, np.uint32)
            points = PointColumns(
                ["0" * 32], ["k"], codes, codes, steps, steps, self._values.random(_BLOCK), 0
            )
            while not self._taken(native_block(points)):
                time.sleep(0.05)
            self.count += _BLOCK

    def _taken(self, block: bytes) -> bool:
        try:
            self._database.insert_native(METRICS_TABLE, METRICS_COLUMNS, block)
        except DatabaseError as error:
            if not error.retryable:
                raise
            return False
        return True


def found(database: EmbeddedDatabase) -> int:
    """Points that are read from the files, not from memory. Raises ``DatabaseError``."""
    for cache in _CACHES:
        database.execute(f"SYSTEM DROP {cache}")
    table = database.arrow(f"SELECT uniqExact(step) AS points, max(value) AS value FROM {METRICS_TABLE}")
    return int(table["points"][0].as_py())


def main(folder: str) -> None:
    database = connect(f"chdb://{folder}")
    assert isinstance(database, EmbeddedDatabase)
    migrate(database, Flavour())
    guard = PartGuard(database, [METRICS_TABLE, "metric_rollups"])
    threading.Thread(target=lambda: asyncio.run(guard.run()), daemon=True).start()
    inserts = Inserts(database)
    for _ in sys.stdin:
        least = inserts.count
        while True:
            try:
                points = found(database)
                break
            except DatabaseError as error:
                print(error, file=sys.stderr)
                time.sleep(0.2)
        answer = {"inserted": least, "found": points, "refused": database.refused_writes()}
        print(json.dumps(answer), flush=True)
    database.close()


if __name__ == "__main__":
    main(sys.argv[1])
