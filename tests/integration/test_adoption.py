"""A database that an older MLflow has filled is adopted in place: its histories are there at once, and move."""

from __future__ import annotations

import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from support import old_mlflow
from support.mlflow_versions import environment
from support.runstream_server import RunstreamServer

_MANY = 1_200_000
_BULK = "b" * 32
_DEADLINE_S = 240.0


class Adopted:
    """A Runstream server over an older MLflow's database."""

    def __init__(self, folder: Path) -> None:
        self.database = folder / "mlflow.db"
        self.uri = f"sqlite:///{self.database}"
        written = subprocess.run(
            [environment("2.22.5", folder), old_mlflow.__file__, self.uri],
            capture_output=True,
            text=True,
            timeout=_DEADLINE_S,
        )
        assert written.returncode == 0, written.stderr[-3000:]
        self.ids: dict[str, Any] = json.loads(written.stdout.splitlines()[-1])
        self._add_bulk()
        self.server = RunstreamServer(folder / "data", environment={"RUNSTREAM_METADATA": self.uri})

    def _add_bulk(self) -> None:
        """One run with so many points that a move can be killed in the middle."""
        with sqlite3.connect(self.database) as connection:
            connection.execute(
                "INSERT INTO runs (run_uuid, name, status, lifecycle_stage, experiment_id, artifact_uri, user_id,"
                " source_type, start_time) SELECT ?, 'bulk', status, 'active', experiment_id, artifact_uri, user_id,"
                " source_type, start_time FROM runs LIMIT 1",
                (_BULK,),
            )
            connection.execute(
                "WITH RECURSIVE n(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < ? - 1)"
                " INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan)"
                " SELECT 'm' || (i % 4), i * 0.1, 1600000000000 + i, ?, i / 4, 0 FROM n",
                (_MANY, _BULK),
            )

    def history(self, run_id: str, key: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        token = None
        while True:
            answer = requests.get(
                f"{self.server.url}/api/2.0/mlflow/metrics/get-history",
                params={"run_id": run_id, "metric_key": key, **({"page_token": token} if token else {})},
                timeout=60,
            )
            answer.raise_for_status()
            found += answer.json().get("metrics", [])
            token = answer.json().get("next_page_token")
            if not token:
                return found

    def start_import(self, *more: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "runstream", "import", self.uri, "--server", self.server.url),
                *("--data-dir", str(self.server.data_dir), *more),
            ],
            env={**os.environ, "RUNSTREAM_METADATA": self.uri},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def place(self) -> int:
        """How far the move has come."""
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as connection:
            try:
                rows = dict(connection.execute("SELECT name, place FROM runstream_adoption"))
            except sqlite3.OperationalError:
                return 0
        return int(rows.get("moved", 0))

    def rows(self) -> list[Any]:
        with sqlite3.connect(f"file:{self.database}?mode=ro", uri=True) as connection:
            return connection.execute(
                "SELECT * FROM metrics WHERE run_uuid != ? ORDER BY rowid", (_BULK,)
            ).fetchall()


@pytest.fixture(scope="module")
def adopted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Adopted]:
    made = Adopted(tmp_path_factory.mktemp("adopted"))
    with made.server:
        yield made


def _check_histories(adopted: Adopted) -> None:
    for number, run_id in enumerate(adopted.ids["runs"]):
        for key in old_mlflow.KEYS:
            found = adopted.history(run_id, key)
            assert [int(point["step"]) for point in found] == [step - 5 for step in range(old_mlflow.STEPS)]
            for step, point in enumerate(found):
                assert int(point["timestamp"]) == 1_600_000_000_000 + step * 10
                wanted = old_mlflow.value(number, key, step)
                if math.isnan(wanted):
                    assert point["value"] == "NaN"
                elif math.isinf(wanted):
                    assert abs(float(point["value"])) == sys.float_info.max
                else:
                    assert float(point["value"]) == wanted


@pytest.mark.timeout(900)
def test_histories_are_read_before_during_and_after_the_move(adopted: Adopted) -> None:
    before = adopted.rows()
    _check_histories(adopted)  # nothing has been moved: the deleted run too
    run_id = adopted.ids["runs"][0]
    # Both sides at once: an old series goes on.
    answer = requests.post(
        f"{adopted.server.url}/api/2.0/mlflow/runs/log-metric",
        json={"run_id": run_id, "key": "continued", "value": 1.5, "timestamp": 5, "step": 1},
        timeout=60,
    )
    answer.raise_for_status()

    dry = adopted.start_import("--dry-run")
    said, _ = dry.communicate(timeout=_DEADLINE_S)
    assert dry.returncode == 0, said
    assert f"{_MANY + len(before):,} points" in said
    assert adopted.place() == 0

    importing = adopted.start_import()
    deadline = time.monotonic() + _DEADLINE_S
    while not adopted.place() and importing.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    importing.send_signal(signal.SIGKILL)
    importing.communicate(timeout=_DEADLINE_S)
    assert 0 < adopted.place() < _MANY
    _check_histories(adopted)

    second = adopted.start_import()
    said, _ = second.communicate(timeout=_DEADLINE_S)
    assert second.returncode == 0, said
    assert "every point is there, bit for bit" in said
    assert f"{_MANY + len(before):,}" in said
    _check_histories(adopted)
    assert [point["value"] for point in adopted.history(run_id, "continued")] == [1.5]
    assert adopted.rows() == before

    third = adopted.start_import()
    said, _ = third.communicate(timeout=_DEADLINE_S)
    assert third.returncode == 0, said
    assert "moved 0 points" in said
