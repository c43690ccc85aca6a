"""The ClickHouse engine of a test process: chDB, which a process can open for one folder only."""

from __future__ import annotations

import atexit
import functools
import shutil
import struct
import tempfile
from collections.abc import Iterable

from runstream.clickhouse import connect
from runstream.clickhouse.embedded import EmbeddedDatabase
from runstream.clickhouse.migrate import migrate
from runstream.schemas.migrations import Flavour
from runstream.schemas.ports.database import Database

Point = tuple[int, int, float]  # step, timestamp, value


@functools.cache
def shared_database() -> EmbeddedDatabase:
    """The engine, with the metrics table and merges stopped: repeats stay in the table until somebody reads
    it.

    Closed when the process ends. Tests keep apart by run ids of their own.
    """
    folder = tempfile.mkdtemp(prefix="runstream-clickhouse-")
    database = connect(f"chdb://{folder}")
    assert isinstance(database, EmbeddedDatabase)
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    atexit.register(database.close)
    migrate(database, Flavour())
    database.execute("SYSTEM STOP MERGES metrics")
    return database


def insert_points(database: Database, run_id: str, key: str, points: Iterable[Point]) -> None:
    """Insert a series as one part; values keep every bit."""
    rows = list(points)
    if not rows:
        return
    database.execute(
        "INSERT INTO metrics (run_id, key, step, timestamp, value) SELECT {run:String}, {key:String},"
        " point.1, point.2, reinterpretAsFloat64(point.3) FROM (SELECT arrayJoin(arrayZip("
        "{steps:Array(Int64)}, {timestamps:Array(Int64)}, {bits:Array(UInt64)})) AS point)",
        {
            "run": run_id,
            "key": key,
            "steps": [step for step, _, _ in rows],
            "timestamps": [timestamp for _, timestamp, _ in rows],
            "bits": [struct.unpack("<Q", struct.pack("<d", value))[0] for _, _, value in rows],
        },
    )
