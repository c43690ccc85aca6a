"""``python -m benchmarks read_speed``: reads of a large table, at rest and while it is being written.

Stock MLflow answers what it can of the same points in the same run. The table (``read_table``) is built once
per ``--dir`` and used again. Every answer is checked against the points that the table was made of. Full size takes
about ten minutes, ``--quick`` about two, after the table is built.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import runstream
from benchmarks.harness import results
from benchmarks.harness.client import Client
from benchmarks.harness.load import Job, Load
from benchmarks.harness.measure import calibrate, machine_facts
from benchmarks.harness.workloads import Shape as LoadShape
from benchmarks.harness.workloads import build as build_bodies
from benchmarks.suites import read_table
from benchmarks.suites.read_live import live_delays
from benchmarks.suites.read_stock import compare
from benchmarks.suites.read_table import KEY, Shape, run_id, run_ids
from benchmarks.systems.base import Server
from benchmarks.systems.mlflow import MlflowSqlite
from benchmarks.systems.runstream import Runstream

_WRITTEN_PER_S = 100_000
_BATCH = 1_000


class Reads:
    """The questions, each with its target and a check of the answer."""

    def __init__(self, server: Server, shape: Shape) -> None:
        self._server = server
        self._shape = shape
        self._client = runstream.connect(f"http://{server.host}:{server.port}")
        self._rest = Client(server.host, server.port)
        self._turn = 0
        self._times, self._values = read_table.ordinary_run(3, shape)
        self._long = read_table.long_series("long", shape.long)[1]
        self._longest = read_table.long_series("longest", shape.longest)[1]
        self._spike = float(np.max(self._longest[np.isfinite(self._longest)]))

    def rows(self) -> list[tuple[str, str, int, Callable[[], int]]]:
        """Name, target, repeats, and the read, which returns its number of points."""
        shape = self._shape
        return [
            ("1,000-point series, get-history", "15 ms", 40, self.history),
            ("1,000-point series into pandas", "15 ms", 40, self.series),
            (f"{shape.long:,}-point series into pandas", "500 ms", 7, self.long),
            ("100 runs x 1 key, get-history-bulk", "60 ms", 15, self.bulk),
            ("100 runs x 1 key into pandas", "60 ms", 15, self.many_runs),
            (f"{shape.longest:,} points to 1,000, new question", "150 ms", 15, self.thinned),
            (f"{shape.longest:,} points to 1,000, repeated", "20 ms", 20, self.thinned_again),
            (f"newest values of {shape.wide_keys:,} keys", "30 ms", 15, self.newest),
            (f"{shape.runs:,} runs x {shape.keys} keys x 100 steps", "5 M points/s", 2, self.everything),
            ("as many points of whole series", "5 M points/s", 2, self.whole_series),
        ]

    def history(self) -> int:
        points = self._rest.history(run_id("run-3"), KEY)
        _same(np.array([value for _, _, value in points]), self._values[:, 0])
        return len(points)

    def series(self) -> int:
        frame = self._client.get_metrics(run_id("run-3"), KEY)
        _same(frame["value"].to_numpy(), self._values[:, 0])
        return len(frame)

    def long(self) -> int:
        frame = self._client.get_metrics(run_id("long"), KEY)
        _same(frame["value"].to_numpy(), self._long)
        return len(frame)

    def bulk(self) -> int:
        found = self._rest.history_bulk(run_ids(100), KEY)
        _same(found, min(25_000, 100 * self._shape.steps))
        return found

    def many_runs(self) -> int:
        frame = self._client.get_metrics(run_ids(100), KEY)
        _same(len(frame), 100 * self._shape.steps)
        return len(frame)

    def thinned(self) -> int:
        # A question that was not asked before is not answered from what was kept.
        self._turn += 1
        return self._thin(1_000 - 2 * (self._turn % 100))

    def thinned_again(self) -> int:
        return self._thin(1_001)

    def _thin(self, max_points: int) -> int:
        frame = self._client.get_metrics(run_id("longest"), KEY, max_points=max_points, method="minmax")
        steps, values = frame["step"].to_numpy(), frame["value"].to_numpy()
        _same(values, self._longest[steps])
        _same((steps[0], steps[-1]), (0, self._shape.longest - 1))
        _same(float(np.max(values[np.isfinite(values)])), self._spike)
        _same(int((~np.isfinite(values)).sum()), 2)
        return len(frame)

    def newest(self) -> int:
        frame = self._client.latest_metrics(run_id("wide"))
        last = np.array([self._shape.wide_steps - 1])
        _same(frame["value"].to_numpy(), read_table.wide_values(last, self._shape.wide_keys)[0])
        return len(frame)

    def everything(self) -> int:
        frame = self._client.get_metrics(run_ids(self._shape.runs), steps=(0, 99), progress=False)
        _same(len(frame), self._shape.runs * self._shape.keys * 100)
        return len(frame)

    def whole_series(self) -> int:
        runs = self._shape.runs * 100 // self._shape.steps
        frame = self._client.get_metrics(run_ids(runs), progress=False)
        _same(len(frame), runs * self._shape.keys * self._shape.steps)
        return len(frame)


def _same(found: Any, expected: Any) -> None:
    if isinstance(expected, np.ndarray):
        right = len(found) == len(expected) and np.array_equal(found, expected, equal_nan=True)
    else:
        right = found == expected
    if not right:
        raise RuntimeError("a read answered something else than what was written")


def _measure(server: Server, name: str, target: str, repeats: int, read: Callable[[], int]) -> dict[str, Any]:
    points = read()
    taken, server_s, own_s = [], _server_cpu_s(server), time.process_time()
    for _ in range(repeats):
        began = time.perf_counter()
        read()
        taken.append((time.perf_counter() - began) * 1000)
    middle = float(np.percentile(taken, 50))
    return {
        "read": name,
        "target": target,
        "points": points,
        "p50_ms": round(middle, 1),
        "best_ms": round(min(taken), 1),
        "p99_ms": round(float(np.percentile(taken, 99)), 1),
        "points_per_s": round(points / middle * 1000),
        "server_cpu_ms": round((_server_cpu_s(server) - server_s) / repeats * 1000, 1),
        "client_cpu_ms": round((time.process_time() - own_s) / repeats * 1000, 1),
    }


def _server_cpu_s(server: Server) -> float:
    """Of the whole process tree; while the table is written this includes the writing."""
    total = 0.0
    for root in server.roots():
        for process in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
            try:
                times = process.cpu_times()
            except psutil.Error:
                continue
            total += times.user + times.system
    return total


class _Writing:
    """100,000 points a second into runs of their own, until the block ends."""

    def __init__(self, server: Server, folder: Path, seconds: float) -> None:
        requests = build_bodies(
            LoadShape(50, 50, _BATCH, int(seconds * _WRITTEN_PER_S / _BATCH)), folder / "bodies", 1
        )
        with Client(server.host, server.port) as client:
            runs = client.create_runs(client.create_experiment(f"load {time.time()}"), 50)
        self._job = Job(
            host=server.host,
            port=server.port,
            path=requests.path,
            bodies=str(requests.bodies),
            index=str(requests.index_file),
            run_ids=runs,
            connections=16,
            seconds=seconds,
            out=str(folder / "load"),
            rate=_WRITTEN_PER_S / _BATCH,
        )

    def __enter__(self) -> _Writing:
        self._load = Load(self._job)
        time.sleep(3)  # the load's own start
        return self

    def __exit__(self, *_: object) -> None:
        self.ended_early = self._load.process.poll() is not None
        self._load.process.terminate()
        self._load.process.wait(30)


def _all_rows(server: Server, reads: Reads, when: str, say: Callable[[str], None]) -> list[dict[str, Any]]:
    found = []
    for name, target, repeats, read in reads.rows():
        row = {"when": when, **_measure(server, name, target, repeats, read)}
        found.append(row)
        say(f"  {when}: {name}: {row['p50_ms']} ms, server CPU {row['server_cpu_ms']} ms")
    delays = live_delays(server, 200)
    found.append({"when": when, "read": "acknowledged to live listener", "target": "p99 250 ms", **delays})
    say(f"  {when}: live: p50 {delays['p50_ms']} ms, p99 {delays['p99_ms']} ms")
    return found


def _await_rollups(reads: Reads, limit_s: float) -> None:
    """Until long series are answered from rollups, or it takes too long: the service makes them by and by."""
    deadline = time.monotonic() + limit_s
    calm = 0
    while calm < 3 and time.monotonic() < deadline:
        began = time.perf_counter()
        reads.thinned()
        calm = calm + 1 if time.perf_counter() - began < 0.15 else 0
        time.sleep(1)


def run(arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Build or find the table, then measure."""

    def say(line: str) -> None:
        print(line, flush=True)

    shape = read_table.QUICK if arguments.quick else read_table.FULL
    say(f"table of {shape.points:,} points in {folder}")
    table = read_table.build(folder / "data", shape, say)
    outcome: dict[str, Any] = {
        "began_at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": machine_facts(),
        "calibration": vars(calibrate()),
        "table": table,
    }
    if arguments.load_only:
        return outcome
    server = Runstream(folder)
    server.start()
    try:
        reads = Reads(server, shape)
        began = time.perf_counter()
        reads.thinned()
        outcome["first_thinning_ms"] = round((time.perf_counter() - began) * 1000, 1)
        say(f"  the longest series for the first time: {outcome['first_thinning_ms']} ms")
        _await_rollups(reads, 90)
        outcome["rows"] = _all_rows(server, reads, "at rest", say)
        seconds = 45 if arguments.quick else 75
        with tempfile.TemporaryDirectory() as scratch, _Writing(server, Path(scratch), seconds) as writing:
            outcome["rows"] += _all_rows(server, reads, "writing", say)
        outcome["writing_ended_early"] = writing.ended_early
        if not arguments.no_stock:
            stock = MlflowSqlite(folder / "stock")
            shutil.rmtree(stock.folder, ignore_errors=True)
            stock.start()
            try:
                outcome["stock"] = compare(server, stock, shape, say)
            finally:
                stock.stop()
    finally:
        server.stop()
    return outcome


def render(outcome: dict[str, Any]) -> str:
    """The tables as Markdown."""
    table = outcome["table"]
    lines = [
        f"{table['points']:,} points, {table['bytes_per_point']} bytes each; inserting and merging them took"
        f" {table['insert_cpu_ms_per_1000']} ms of CPU per 1,000. {outcome['machine']['cpu']},"
        f" {outcome['machine']['cores']} cores, {outcome['began_at']}.",
        "",
        "| read | target | at rest p50 / p99 ms | CPU server / client ms | while 100,000 points/s are written |",
        "|---|--:|--:|--:|--:|",
    ]
    by_read: dict[str, dict[str, Any]] = {}
    for row in outcome.get("rows", []):
        by_read.setdefault(row["read"], {})[row["when"]] = row
    for read, when in by_read.items():
        rest, writing = when["at rest"], when["writing"]
        lines.append(
            f"| {read} | {rest['target']} | {rest['p50_ms']} / {rest['p99_ms']} |"
            f" {rest.get('server_cpu_ms', '-')} / {rest.get('client_cpu_ms', '-')} |"
            f" {writing['p50_ms']} / {writing['p99_ms']} |"
        )
    if "stock" in outcome:
        lines += ["", "| beside stock MLflow | stock | Runstream | times faster |", "|---|--:|--:|--:|"]
        for row in outcome["stock"]:
            ratio = row["stock_ms"] / row["runstream_ms"]
            lines.append(
                f"| {row['read']} | {row['stock_ms']:,} ms | {row['runstream_ms']:,} ms | {ratio:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main(argv: list[str] | None = None) -> int:
    """0 when everything answered rightly; a wrong answer ends with a traceback."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks read_speed", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a table of 13 million points")
    parser.add_argument("--dir", type=Path, help="keep the table here; temporary if not given")
    parser.add_argument("--load-only", action="store_true", help="only build the table")
    parser.add_argument("--no-stock", action="store_true", help="without stock MLflow")
    results.add_option(parser)
    arguments = parser.parse_args(argv)
    folder = (arguments.dir or Path(tempfile.mkdtemp(prefix="runstream-reads-"))).absolute()
    try:
        outcome = run(arguments, folder)
    finally:
        if arguments.dir is None:
            shutil.rmtree(folder, ignore_errors=True)
    results.keep("read_speed", outcome, arguments.out)
    print(render(outcome))
    return 0


if __name__ == "__main__":
    sys.exit(main())
