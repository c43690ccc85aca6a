"""Binary ingest, end to end: connections that send columns to an embedded set until every point is readable.

    python -m benchmarks binary_ingest [--form frames plain arrow] [--points 40000] [--seconds 10]

Rates count from the first byte sent until the last acknowledged point of every run has been read back; afterwards
the stopped engine's own count of points is compared with the acknowledged ones. CPU is each process's own, merges
included.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.harness import results  # noqa: E402
from benchmarks.suites import binary_bodies  # noqa: E402
from support.runstream_server import RunstreamServer  # noqa: E402

_READ_LIMIT_S = 120.0


def main() -> None:
    """Print a line for each form, and keep everything."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--form", nargs="+", default=list(binary_bodies.FORMS), choices=binary_bodies.FORMS)
    parser.add_argument("--points", type=int, default=40_000, help="of a request; the client sends so many")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--most", type=float, default=3e6, help="points a second that bodies are built for")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--folder", type=Path)
    results.add_option(parser)
    options = parser.parse_args()
    found: dict[str, Any] = {"load_before": os.getloadavg(), "cores": os.cpu_count(), "rows": []}
    for form in options.form:
        with tempfile.TemporaryDirectory(prefix="runstream-bench-", dir=options.folder) as name:
            row = measure(form, Path(name), options)
        found["rows"].append(row)
        print(json.dumps(row), flush=True)
    found["load_after"] = os.getloadavg()
    results.keep("binary_ingest", found, options.out)


def measure(form: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One form on a fresh server."""
    with RunstreamServer(folder / "data", workers=options.workers) as server:
        runs = _create(server.url, options.runs)
        count = int(options.most * options.seconds / options.points) + options.connections
        bodies = binary_bodies.build(form, runs, count, options.points, folder / "bodies")
        job = folder / "job.json"
        job.write_text(
            json.dumps(
                {
                    "host": "127.0.0.1",
                    "port": server.port,
                    "form": form,
                    "file": str(bodies.file),
                    "offsets": bodies.offsets,
                    "connections": options.connections,
                    "seconds": options.seconds,
                }
            )
        )
        os.sync()  # write-back of the bodies is not the server's
        before = _cpu(server)
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.suites.binary_sender", str(job)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        load = json.loads(done.stdout)
        acknowledged_cpu = _spent(before, _cpu(server))
        for run_id in runs:
            _read(server.url, run_id)
        readable_s = time.monotonic() - load["began"]
        cpu = _spent(before, _cpu(server))
    thousands = max(load["stored"], 1) / 1000
    stored = _count(folder / "data" / "clickhouse")
    if stored["points"] != load["stored"] and not load["not_200"]:
        raise SystemExit(f"{stored['points']} points are stored of {load['stored']}")
    return {
        "form": form,
        "points_a_request": bodies.points,
        "bytes_a_point": round(bodies.offsets[-1] / (bodies.points * count), 2),
        **{name: load[name] for name in ("stored", "not_200", "first_error", "ran_out", "p50_ms", "p99_ms")},
        "acknowledged_per_s": round(load["stored"] / load["seconds"]),
        "readable_per_s": round(load["stored"] / readable_s),
        "drained_s": round(readable_s - load["seconds"], 3),
        "cpu_ms_per_1000": {
            "generator": round(1000 * load["cpu_s"] / thousands, 4),
            **{role: round(1000 * used / thousands, 4) for role, used in cpu.items()},
        },
        "cpu_ms_per_1000_until_acknowledged": {
            role: round(1000 * used / thousands, 4) for role, used in acknowledged_cpu.items()
        },
        "stored_exactly": stored["points"] == load["stored"],
        "parts": stored["parts_before_merges"],
        "bytes_a_point_stored": round(stored["bytes_before_merges"] / max(stored["points"], 1), 2),
    }


def _create(url: str, count: int) -> list[str]:
    def post(path: str, body: dict[str, Any]) -> dict[str, Any]:
        request = urllib.request.Request(
            f"{url}/api/2.0/mlflow/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=60) as response:
            answer: dict[str, Any] = json.load(response)
            return answer

    experiment = post("experiments/create", {"name": "binary"})["experiment_id"]
    created = (
        post("runs/create", {"experiment_id": experiment, "start_time": 1, "run_name": f"run {at}"})
        for at in range(count)
    )
    return [one["run"]["info"]["run_id"] for one in created]


def _read(url: str, run_id: str) -> None:
    """Returns when what was acknowledged of this run can be read, its newest values too."""
    deadline = time.monotonic() + _READ_LIMIT_S
    while True:
        try:
            with urllib.request.urlopen(
                f"{url}/api/2.0/mlflow/runs/get?run_id={run_id}", timeout=60
            ) as answer:
                answer.read()
                return
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > deadline:
                raise
            error.read()


def _cpu(server: RunstreamServer) -> dict[str, float]:
    """CPU seconds by role so far."""
    used: dict[str, float] = {}
    for role, process in server.processes().items():
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        role = role.partition("-")[0]
        used[role] = used.get(role, 0.0) + times.user + times.system
    return used


def _spent(before: dict[str, float], after: dict[str, float]) -> dict[str, float]:
    return {role: used - before.get(role, 0.0) for role, used in after.items()}


def _count(folder: Path) -> dict[str, int]:
    answer = subprocess.run(
        [sys.executable, "-m", "benchmarks.systems.inspect_chdb", str(folder)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
    )
    facts: dict[str, int] = json.loads(answer.stdout.splitlines()[-1])
    return facts


if __name__ == "__main__":
    main()
