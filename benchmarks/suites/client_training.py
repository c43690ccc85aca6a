"""A training that logs 10 metrics a step to a server 50 ms away: ``python -m benchmarks client_training``.

Server and training are on this machine, with a proxy between them that holds every byte for half the distance in each
direction. Blocks of steps with and without logging take turns in one process, so that what else the machine does meets
both; the step is arithmetic of numpy, as long as asked for. ``after`` is how long the process takes to deliver what is
left when the last step is done. Stock MLflow that waits for each call takes minutes for a thousand steps: it is given
fewer (``--stock-steps``). The stored points are counted through the server.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

from benchmarks.harness import results
from benchmarks.harness.distance import away
from benchmarks.systems.runstream import Runstream

KEYS = 10
WAYS = ("run.log", "mlflow over the spool", "stock, asynchronous", "stock")

_TRAINING = """
import json, sys, time
import numpy as np
way, url, spool = sys.argv[1:4]
steps, step_ms, block = int(sys.argv[4]), float(sys.argv[5]), int(sys.argv[6])
left, right = np.random.default_rng(0).random((2, 96, 96))
def turn(times):
    for _ in range(times):
        np.tanh(left @ right)
turn(100)
began = time.perf_counter()
turn(500)
times = max(1, round(step_ms / 1000 / ((time.perf_counter() - began) / 500)))
values = {f"train/metric{at}": at / 7 for at in range(10)}
if way == "run.log":
    import runstream
    run = runstream.start_run(uri=url, spool=spool, experiment="training")
    run_id, log = run.run_id, lambda step: run.log(values, step)
else:
    import mlflow
    mlflow.set_tracking_uri(url)
    mlflow.set_experiment("training")
    run_id = mlflow.start_run().info.run_id
    waits = None if way.startswith("mlflow") else way == "stock"
    log = lambda step: mlflow.log_metrics(values, step=step, synchronous=waits)
took = {True: 0.0, False: 0.0}
cpu = {True: 0.0, False: 0.0}
for first in range(0, steps, block):
    size = min(block, steps - first)
    for logging in ((True, False) if first // block % 2 else (False, True)):
        began, used = time.perf_counter(), time.process_time()
        for step in range(first, first + size):
            turn(times)
            if logging:
                log(step)
        took[logging] += time.perf_counter() - began
        cpu[logging] += time.process_time() - used
began = time.perf_counter()
if way == "run.log":
    run.end()
else:
    mlflow.flush_async_logging() if way != "stock" else None
    mlflow.end_run()
print("FIGURES " + json.dumps({
    "run_id": run_id, "step_ms": took[False] / steps * 1e3, "with_s": took[True], "without_s": took[False],
    "longer_percent": (took[True] / took[False] - 1) * 100, "call_us": (took[True] - took[False]) / steps * 1e6,
    "cpu_longer_percent": (cpu[True] / cpu[False] - 1) * 100, "after_s": time.perf_counter() - began,
}), flush=True)
"""


def _stored(url: str, run_id: str, steps: int) -> int:
    """How many of a run's points the server has, by each key's whole history."""
    found = 0
    for at in range(KEYS):
        page = ""
        while True:
            path = f"metrics/get-history?run_id={run_id}&metric_key=train/metric{at}&max_results=25000{page}"
            with urllib.request.urlopen(f"{url}/api/2.0/mlflow/{path}", timeout=60) as answer:
                body = json.load(answer)
            found += len({point["step"] for point in body.get("metrics", [])})
            if not body.get("next_page_token"):
                break
            page = f"&page_token={body['next_page_token']}"
    return found


def measured(
    way: str, url: str, direct: str, folder: Path, steps: int, options: argparse.Namespace
) -> dict[str, float]:
    """The figures of one way to log."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")}
    spool = str(folder / "spool")
    if way.startswith("mlflow"):
        environment["RUNSTREAM_SPOOL"] = spool
    environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    arguments = [way, url, spool, str(steps), str(options.step_ms), str(min(250, max(1, steps // 4)))]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _TRAINING, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
        env=environment,
    )
    if "FIGURES " not in done.stdout:
        raise RuntimeError(done.stderr[-2000:])
    found = json.loads(done.stdout.rpartition("FIGURES ")[2])
    return {**found, "steps": steps, "missing": steps * KEYS - _stored(direct, found.pop("run_id"), steps)}


def main() -> None:
    """Print a table, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--stock-steps", type=int, default=200)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--away-ms", type=float, default=50.0)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    results.add_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as name:
        server = Runstream(Path(name))
        try:
            server.start()
            with away(server.port, options.away_ms) as port:
                url, direct = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{server.port}"
                print(
                    "| way | steps | step, ms | longer, % | CPU longer, % | a call, µs | delivered after, s | missing |"
                )
                print("|---|--:|--:|--:|--:|--:|--:|--:|")
                for at, way in enumerate(options.ways):
                    steps = options.stock_steps if way == "stock" else options.steps
                    folder = Path(name) / f"way{at}"
                    folder.mkdir()
                    row = measured(way, url, direct, folder, steps, options)
                    print(
                        f"| {way} | {steps:,} | {row['step_ms']:.2f} | {row['longer_percent']:.2f} "
                        f"| {row['cpu_longer_percent']:.2f} | {row['call_us']:.1f} | {row['after_s']:.2f} "
                        f"| {row['missing']} |",
                        flush=True,
                    )
                    results.keep(
                        f"client_training, {way}",
                        {"away_ms": options.away_ms, **row},
                        options.out,
                        suite="client_training",
                    )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
