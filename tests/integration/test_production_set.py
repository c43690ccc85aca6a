"""The behaviour suite of the embedded server, unchanged, on a production set: same tests, other settings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = (
    "test_client_runs.py",
    "test_client_metrics.py",
    "test_client_search.py",
    "test_client_models.py",
    "test_client_traces.py",
    "test_client_artifacts.py",
    "test_read_your_writes.py",
    "production_sql.py",
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_suite_passes_on_kafka_clickhouse_over_http_and_postgresql() -> None:
    here = Path(__file__).parent
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            *(str(here / name) for name in SUITE),
        ],
        cwd=here.parents[1],
        env={
            **os.environ,
            "RUNSTREAM_TEST_SET": "production",
            "RUNSTREAM_TEST_READ_YOUR_WRITES": "50",
        },
        capture_output=True,
        text=True,
    )
    print(done.stdout[-2000:])
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
