"""Counters of processes that have ended stay in the sums, without a file each."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from runstream.process.prometheus import forget_process

COUNT = """
import os
from prometheus_client import Counter, Gauge, Histogram
Counter("points", "text", ["route"]).labels("log").inc(3)
Histogram("seconds", "text", buckets=(1, 2)).observe(1.5)
Gauge("depth", "text", multiprocess_mode="livesum").set(7)
print(os.getpid())
"""
EXPOSE = "from runstream.process.prometheus import exposer; print(exposer()().decode())"


def run(code: str, folder: Path) -> str:
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=60
    ).stdout


def test_files_of_ended_processes_become_one(tmp_path: Path) -> None:
    for _ in range(3):
        forget_process(int(run(COUNT, tmp_path)), tmp_path)
    (tmp_path / "counter_77.db").write_bytes(b"\1")  # killed while it began
    forget_process(77, tmp_path)
    assert sorted(file.name for file in tmp_path.glob("*.db")) == ["counter_ended.db", "histogram_ended.db"]
    run(COUNT, tmp_path)
    shown = run(EXPOSE, tmp_path).splitlines()
    assert 'points_total{route="log"} 12.0' in shown
    assert "seconds_count 4.0" in shown
    assert 'seconds_bucket{le="2.0"} 4.0' in shown
    assert "depth 7.0" in shown
