"""``python -m benchmarks crosscheck``: the same load by our generator and by wrk, on one Runstream server.

Prints both rates, in turns, so that a reader need not trust the generator that the table was made with.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import results, workloads
from benchmarks.harness.client import Client
from benchmarks.harness.load import Job, Load
from benchmarks.harness.rows import SEED
from benchmarks.harness.workloads import Shape
from benchmarks.systems.runstream import Runstream

_SECONDS = 5
_TURNS = 2
_LOADS = {
    "log-batch of 1,000": (Shape(200, 50, 1000, 6000), 32),
    "log-metric": (Shape(200, 10, 1, 150_000, single=True), 64),
}


def _by_wrk(wrk: str, job: Job) -> dict[str, float]:
    """One turn of wrk; its CPU seconds are added to what it prints."""
    environment = {
        "BENCH_BODIES": job.bodies,
        "BENCH_INDEX": job.index,
        "BENCH_RUNS": ",".join(job.run_ids),
        "BENCH_PATH": job.path,
    }
    script = Path(__file__).resolve().parents[1] / "harness" / "wrk.lua"
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            *(wrk, "-t1", f"-c{job.connections}", f"-d{_SECONDS}", "--timeout", "60", "-s", str(script)),
            f"http://{job.host}:{job.port}",
        ],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        check=True,
        timeout=_SECONDS + 60,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    facts: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return facts | {"cpu_us": 1e6 * cpu_s / max(facts["requests"], 1)}


def main() -> int:
    """0 if both ran; what they say is for the reader to compare."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks crosscheck", description=__doc__)
    results.add_option(parser)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    wrk = shutil.which("wrk")
    if wrk is None:
        print("wrk is not installed (apt-get install wrk)", file=sys.stderr)
        return 1
    folder = Path(tempfile.mkdtemp(prefix="runstream-crosscheck-"))
    server = Runstream(folder / "server")
    try:
        server.start()
        with Client(server.host, server.port) as client:
            for title, (shape, connections) in _LOADS.items():
                requests = workloads.build(shape, folder / title, SEED)
                for turn in range(_TURNS):
                    # Runs of its own for each turn: every point is new.
                    for name in ("ours", "wrk"):
                        experiment = client.create_experiment(f"{title} {name} {turn}")
                        job = Job(
                            host=server.host,
                            port=server.port,
                            path=requests.path,
                            bodies=str(requests.bodies),
                            index=str(requests.index_file),
                            run_ids=client.create_runs(experiment, shape.runs),
                            connections=connections,
                            seconds=_SECONDS,
                            out=str(folder / "out"),
                        )
                        if name == "wrk":
                            facts = _by_wrk(wrk, job)
                        else:
                            result = Load(job).result()
                            facts = {
                                "requests": result.steady,
                                "seconds": result.steady_s,
                                "not_2xx": result.refused + result.failed,
                                "p50_ms": result.percentile(50) or 0.0,
                                "p99_ms": result.percentile(99) or 0.0,
                                "cpu_us": 1e6 * result.cpu_s / max(result.sent, 1),
                            }
                        rows.append({"load": title, "by": name, "turn": turn, **facts})
                        again = " (bodies ran out)" if facts["requests"] >= shape.requests else ""
                        print(
                            f"{title:20} {name:5} {facts['requests'] / facts['seconds']:9,.0f} requests/s,"
                            f" p50 {facts['p50_ms']:.2f} ms, p99 {facts['p99_ms']:.2f} ms,"
                            f" {facts['cpu_us']:.1f} µs of generator CPU a request,"
                            f" {facts['not_2xx']:.0f} not answered 200{again}",
                            flush=True,
                        )
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
    results.keep("crosscheck", {"rows": rows}, options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
