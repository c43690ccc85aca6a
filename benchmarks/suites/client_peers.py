"""A logging call of several clients, offline, and what ``kill -9`` leaves: ``python -m benchmarks client_peers``.

Each contender logs one metric at steps from 0 on, in a process of its own that kills itself right after the last call;
then what its files hold is counted. Stock MLflow cannot work offline: it logs to Runstream's server on this machine,
with fewer calls (``--stock-calls``), and the server is asked what it holds. Packages that are not installed are left
out; give another environment's Python with ``--python`` (the contenders want pydantic and protobuf of their own).
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import results
from benchmarks.systems.runstream import Runstream

_LOG = """
import json, os, sys, time
who, folder, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(folder)
if who == "runstream":
    import runstream
    os.environ["RUNSTREAM_OFFLINE"] = "1"
    run = runstream.start_run(uri="http://127.0.0.1:9", spool=folder)
    log = lambda step: run.log({"loss": step * 0.5}, step)
elif who.startswith("mlflow"):
    import mlflow
    if who == "mlflow, spooled":
        import runstream
        os.environ.update(RUNSTREAM_SPOOL=folder, RUNSTREAM_OFFLINE="1")
    mlflow.set_tracking_uri(sys.argv[4])
    client, waits = mlflow.MlflowClient(), None if who == "mlflow, spooled" else who == "mlflow, stock"
    run_id = client.create_run("0").info.run_id
    print("RUN", run_id, flush=True)
    log = lambda step: client.log_metric(run_id, "loss", step * 0.5, step=step, synchronous=waits)
elif who == "wandb":
    os.environ.update(WANDB_MODE="offline", WANDB_SILENT="true")
    import wandb
    run = wandb.init(project="p", dir=folder)
    log = lambda step: run.log({"loss": step * 0.5}, step=step)
elif who == "neptune_scale":
    from neptune_scale import Run
    run = Run(project="a/b", run_id="r1", mode="offline", log_directory=folder)
    log = lambda step: run.log_metrics({"loss": step * 0.5}, step=step)
elif who == "trackio":
    os.environ.update(TRACKIO_DIR=folder, HF_HUB_OFFLINE="1")
    import trackio
    trackio.init(project="p")
    log = lambda step: trackio.log({"loss": step * 0.5}, step=step)
elif who == "swanlab":
    import swanlab
    swanlab.init(project="p", mode="offline", logdir=folder)
    log = lambda step: swanlab.log({"loss": step * 0.5}, step=step)
took, cpu = [], time.thread_time()
for step in range(calls):
    began = time.perf_counter_ns()
    log(step)
    took.append(time.perf_counter_ns() - began)
cpu = (time.thread_time() - cpu) / calls * 1e6
took.sort()
figures = [cpu, sum(took) / calls / 1000, *(took[int(calls * part)] / 1000 for part in (0.5, 0.99, 0.999))]
print("\\nFIGURES " + json.dumps(figures), flush=True)
os.kill(os.getpid(), 9)
"""


def _runstream(folder: Path) -> int:
    from runstream.ingest.client.sync import examine

    return sum(run.points for run in examine(folder))


def _wandb(folder: Path) -> int:
    """Records of a LevelDB log whose protobuf has field 2, the history."""
    data = next(folder.glob("wandb/offline-run-*/run-*.wandb")).read_bytes()
    at, found, first = 7, 0, b""
    while at + 7 <= len(data):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, at)
        if kind not in (1, 2, 3, 4) or at + 7 + size > len(data):
            break
        first = data[at + 7 : at + 19] if kind in (1, 2) else first
        found += kind in (1, 4) and _is_history(first)
        at += 7 + size
    return found


def _is_history(record: bytes) -> bool:
    at = 0
    if record[:1] == b"\x08":  # field 1, the record's number
        at = 2
        while record[at - 1] & 0x80:
            at += 1
    return record[at : at + 1] == b"\x12"


def _neptune(folder: Path) -> int:
    with sqlite3.connect(next(folder.glob("*/run_operations.sqlite3"))) as database:
        # The first operation creates the run.
        return int(database.execute("select count(*) from run_operations").fetchone()[0]) - 1


def _trackio(folder: Path) -> int:
    with sqlite3.connect(next(folder.glob("*.db"))) as database:
        return int(database.execute("select count(*) from metrics").fetchone()[0])


def _swanlab(folder: Path) -> int:
    # Each scalar's record names its key once.
    return next(folder.glob("run-*/*.swanlab")).read_bytes().count(b"loss")


def _on_server(url: str, run_id: str) -> int:
    """Points that the server has: what was on its way has arrived when two answers, a second apart, are the same."""
    found = [-1]
    while len(found) < 2 or found[-1] != found[-2]:
        time.sleep(1)
        path = f"runs/get?run_id={run_id}"
        with urllib.request.urlopen(f"{url}/api/2.0/mlflow/{path}", timeout=60):
            """What was acknowledged is readable from here on."""
        path = f"metrics/get-history?run_id={run_id}&metric_key=loss&max_results=25000"
        with urllib.request.urlopen(f"{url}/api/2.0/mlflow/{path}", timeout=60) as answer:
            found.append(len(json.load(answer).get("metrics", [])))
    return found[-1]


_COUNT: dict[str, Callable[[Path], int] | None] = {
    "runstream": _runstream,
    "mlflow, spooled": _runstream,
    "mlflow, stock": None,
    "mlflow, stock, asynchronous": None,
    "wandb": _wandb,
    "neptune_scale": _neptune,
    "trackio": _trackio,
    "swanlab": _swanlab,
}


def measured(who: str, url: str, arguments: argparse.Namespace) -> dict[str, float] | None:
    """A contender's row, printed; ``None`` where it does not run here."""
    count = _COUNT[who]
    ours = who == "runstream" or who.startswith("mlflow")
    calls = arguments.calls if count else arguments.stock_calls
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [
                sys.executable if ours else arguments.python,
                "-W",
                "ignore",
                "-c",
                _LOG,
                who,
                folder,
                str(calls),
                url,
            ],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env={name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")},
        )
        if "FIGURES " not in done.stdout:
            print(f"| {who} | not measured: {(done.stderr.strip().splitlines() or ['?'])[-1][:80]} |")
            return None
        cpu, *quantiles = json.loads(done.stdout.rpartition("FIGURES ")[2])
        run_id = done.stdout.partition("RUN ")[2].partition("\n")[0]
        held = count(Path(folder)) if count else _on_server(url, run_id)
    lost = calls - held
    shown = " | ".join(f"{one:.1f}" for one in quantiles)
    print(f"| {who} | {calls:,} | {cpu:.1f} | {shown} | {lost:,} |", flush=True)
    return {
        "calls": calls,
        "cpu": cpu,
        **dict(zip(("mean", "p50", "p99", "p999"), quantiles, strict=True)),
        "lost": lost,
    }


def main() -> None:
    """Run each contender, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--stock-calls", type=int, default=2_000, help="of MLflow without a spool")
    parser.add_argument("--python", default=sys.executable, help="for all but runstream")
    results.add_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    print("| client | calls | CPU, µs a call | mean | p50 | p99 | p99.9 | lost after `kill -9` |")
    print("|---|--:|--:|--:|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as home:
        server = Runstream(Path(home))
        try:
            server.start()
            for who in _COUNT:
                if (row := measured(who, f"http://127.0.0.1:{server.port}", arguments)) is not None:
                    rows[who] = row
        finally:
            server.stop()
    results.keep("client_peers", {"us_a_call": rows}, arguments.out)


if __name__ == "__main__":
    main()
