"""What a process does once, at its first read, is done before it serves; what cannot be then waits for that read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from runstream.clickhouse import connect
from runstream.query.mlflow.history import HistoryReader
from runstream.query.warm_up import warm_up

_SCRIPT = """
import sys
from runstream.clickhouse import connect
from runstream.clickhouse.migrate import migrate
from runstream.query.mlflow.history import HistoryReader
from runstream.query.warm_up import warm_up
from runstream.schemas.migrations import Flavour

database = connect("chdb://" + sys.argv[1])
migrate(database, Flavour())
reader = HistoryReader(database)
warm_up(database, reader)
before = set(sys.modules)
reader.history("run", "key", 10)
print("imported by the first read:", sorted(set(sys.modules) - before))
database.close()
"""


def test_the_first_read_imports_nothing(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _SCRIPT, str(tmp_path / "engine")], capture_output=True, text=True, timeout=300
    )
    assert "imported by the first read: []" in done.stdout, done.stdout + done.stderr


def test_an_engine_that_is_away_is_left_to_the_first_caller(caplog: pytest.LogCaptureFixture) -> None:
    database = connect("http://127.0.0.1:9/runstream?connect_timeout=1")
    try:
        warm_up(database, HistoryReader(database))
    finally:
        database.close()
    assert "the first reads will be slow" in caplog.text
