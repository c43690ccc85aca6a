"""A logging call of several clients, offline, and what ``kill -9`` leaves: ``python -m benchmarks client_peers``.

Each contender logs one metric at steps from 0 on, in a process of its own that kills itself right after the last call;
then what its files hold is counted. Packages that are not installed are left out; give another environment's Python
with ``--python`` (the contenders want pydantic and protobuf of their own).
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
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness import results

_LOG = """
import json, os, sys, time
who, folder, calls = sys.argv[1], sys.argv[2], int(sys.argv[3])
os.chdir(folder)
if who == "runstream":
    import runstream
    os.environ["RUNSTREAM_OFFLINE"] = "1"
    run = runstream.start_run(uri="http://127.0.0.1:9", spool=folder)
    log = lambda step: run.log({"loss": step * 0.5}, step)
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
print("\\nFIGURES " + json.dumps([cpu] + [took[int(calls * part)] / 1000 for part in (0.5, 0.99, 0.999)]), flush=True)
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


_COUNT: dict[str, Callable[[Path], int]] = {
    "runstream": _runstream,
    "wandb": _wandb,
    "neptune_scale": _neptune,
    "trackio": _trackio,
    "swanlab": _swanlab,
}


def main() -> None:
    """Run each contender, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=20_000)
    parser.add_argument("--python", default=sys.executable, help="for all but runstream")
    results.add_option(parser)
    arguments = parser.parse_args()
    rows: dict[str, dict[str, float]] = {}
    print("| client | CPU, µs a call | p50 | p99 | p99.9 | lost after `kill -9` |\n|---|--:|--:|--:|--:|--:|")
    for who, count in _COUNT.items():
        with tempfile.TemporaryDirectory() as folder:
            python = sys.executable if who == "runstream" else arguments.python
            done = subprocess.run(
                [python, "-W", "ignore", "-c", _LOG, who, folder, str(arguments.calls)],
                capture_output=True,
                text=True,
                timeout=600,
                check=False,
                env={name: value for name, value in os.environ.items() if not name.startswith("RUNSTREAM_")},
            )
            if "FIGURES " not in done.stdout:
                print(f"| {who} | not measured: {(done.stderr.strip().splitlines() or ['?'])[-1][:80]} |")
                continue
            cpu, *quantiles = json.loads(done.stdout.rpartition("FIGURES ")[2])
            lost = arguments.calls - count(Path(folder))
            rows[who] = dict(zip(("p50", "p99", "p999"), quantiles, strict=True)) | {"cpu": cpu, "lost": lost}
            print(
                f"| {who} | {cpu:.1f} | " + " | ".join(f"{one:.1f}" for one in quantiles) + f" | {lost:,} |"
            )
    results.keep("client_peers", {"us_a_call": rows}, arguments.out)


if __name__ == "__main__":
    main()
