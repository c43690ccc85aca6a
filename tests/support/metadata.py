"""A metadata database with the two of MLflow's tables that the writer touches."""

from __future__ import annotations

import sqlite3
from pathlib import Path


def writers_tables(path: Path, *runs: str) -> Path:
    """Make the SQLite file ``path``, in which MLflow knows of ``runs``."""
    connection = sqlite3.connect(path)
    with connection:
        connection.executescript(
            "CREATE TABLE runs (run_uuid VARCHAR(32) PRIMARY KEY);"
            "CREATE TABLE latest_metrics (key VARCHAR(250), value FLOAT NOT NULL, timestamp BIGINT,"
            " step BIGINT NOT NULL, is_nan BOOLEAN NOT NULL, run_uuid VARCHAR(32), PRIMARY KEY (key, run_uuid));"
        )
        connection.executemany("INSERT INTO runs VALUES (?)", [(run,) for run in runs])
    connection.close()
    return path
