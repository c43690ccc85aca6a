"""Small metric histories read one after another, beside stock MLflow in the same minute.

    python -m benchmarks small_reads [--set production] [--reads 2000] [--runs 100] [--keys 20] [--points 20]

``--set production`` has every role in a process of its own, on Kafka, ClickHouse's engine over HTTP and PostgreSQL,
with stock MLflow on a database of the same PostgreSQL. Both servers hold the same runs. Each series is read over one
kept connection and through ``MlflowClient``, a hundred reads of one server and a hundred of the other in turn. Servers
and reader share the machine; compare ratios, and the CPU time that the servers took.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.harness import results  # noqa: E402
from support.cluster import RunstreamCluster  # noqa: E402
from support.runstream_server import RunstreamServer  # noqa: E402
from support.stock import stock_server  # noqa: E402

API = "/api/2.0/mlflow"
TURN = 100
Read = Callable[[str, str], int]


def main() -> None:
    """Print a table, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--set", choices=("embedded", "production"), default="embedded")
    parser.add_argument("--reads", type=int, default=2000, help="of each kind and server")
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--keys", type=int, default=20)
    parser.add_argument("--points", type=int, default=20, help="of each series")
    parser.add_argument("--no-stock", action="store_true")
    results.add_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        database = None
        if options.set == "production":
            cluster = stack.enter_context(RunstreamCluster(folder / "set", gateways=1, writers=1))
            assert cluster.postgres is not None
            database = cluster.postgres.create_database("stock")
            roles = {name.split("-")[0]: role.process for name, role in cluster.roles.items()}
            sides = {"runstream": Side(cluster.url, {name: one.pid for name, one in roles.items() if one})}
        else:
            server = stack.enter_context(RunstreamServer(folder / "data"))
            sides = {"runstream": Side(server.url, {"other": server.pid})}
        if not options.no_stock:
            stock = stack.enter_context(stock_server(folder / "stock", backend_store_uri=database))
            sides["stock"] = Side(stock.url, {"other": stock.pid})
        for side in sides.values():
            side.log(options.runs, options.keys, options.points)
        found = [
            _measure(kind, times, sides, options.reads)
            for kind, times in (("http", "first"), ("http", "again"), ("client", "again"))
        ]
    name = "small_reads" if options.set == "embedded" else "small_reads_production"
    results.keep(name, {"rows": found}, options.out, suite="small_reads")


class Side:
    """One server, and the series that it holds. ``roots`` are the processes whose trees do its work, by part; what is
    ``other`` names its children itself."""

    def __init__(self, url: str, roots: Mapping[str, int]) -> None:
        self.url = url
        self.roots = roots
        self.series: list[tuple[str, str]] = []
        self._connection = http.client.HTTPConnection(urlsplit(url).netloc, timeout=120)

    def connect(self) -> None:
        """Another connection: the last may have been idle for too long while the other server was asked."""
        self._connection.close()
        self._connection.connect()

    def log(self, runs: int, keys: int, points: int) -> None:
        """Log points for each key of each run."""
        for number in range(runs):
            info = self._ask("POST", "runs/create", {"experiment_id": "0", "start_time": number})
            run_id = info["run"]["info"]["run_id"]
            metrics = [
                {
                    "key": f"key-{key}",
                    "value": 0.1 * step,
                    "timestamp": 1_700_000_000_000 + step,
                    "step": step,
                }
                for key in range(keys)
                for step in range(points)
            ]
            for at in range(0, len(metrics), 1000):
                self._ask("POST", "runs/log-batch", {"run_id": run_id, "metrics": metrics[at : at + 1000]})
            self.series += [(run_id, f"key-{key}") for key in range(keys)]

    def by_http(self) -> Read:
        """Reads over one kept connection."""

        def read(run_id: str, key: str) -> int:
            path = f"{API}/metrics/get-history?run_uuid={run_id}&run_id={run_id}&metric_key={key}"
            self._connection.request("GET", f"{path}&max_results=25000")
            answer = self._connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            return len(json.loads(body)["metrics"])

        return read

    def by_client(self) -> Read:
        """Reads through MLflow's own client."""
        from mlflow import MlflowClient

        client = MlflowClient(self.url)
        return lambda run_id, key: len(client.get_metric_history(run_id, key))

    def cpu_s(self) -> dict[str, float]:
        """CPU time so far, by part."""
        used: dict[str, float] = defaultdict(float)
        for part, root in self.roots.items():
            for process in (psutil.Process(root), *psutil.Process(root).children(recursive=True)):
                with contextlib.suppress(psutil.Error):
                    line = " ".join(process.cmdline())
                    named = (one for one in ("gateway", "storage") if f"runstream {one}" in line)
                    times = process.cpu_times()
                    used[next(named, part)] += times.user + times.system
        return used

    def _ask(self, method: str, path: str, body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, f"{API}/{path}", json.dumps(body), headers)
        answer = self._connection.getresponse()
        text = answer.read()
        assert answer.status == 200, text
        return json.loads(text)


def _measure(kind: str, times: str, sides: dict[str, Side], reads: int) -> dict[str, Any]:
    """Seconds and CPU seconds of that many reads of each server, in turns."""
    took: dict[str, float] = defaultdict(float)
    readers = {name: side.by_http() if kind == "http" else side.by_client() for name, side in sides.items()}
    before = {name: side.cpu_s() for name, side in sides.items()}
    for turn in _turns(reads):
        for name, side in sides.items():
            side.connect()
            began = time.perf_counter()
            for place in turn:
                run_id, key = side.series[place % len(side.series)]
                assert readers[name](run_id, key) > 0
            took[name] += time.perf_counter() - began
    found: dict[str, Any] = {"reads": kind, "times": times, "count": reads}
    for name, side in sides.items():
        after = side.cpu_s()
        cpu = {part: round((after[part] - before[name][part]) * 1000 / reads, 3) for part in after}
        found[name] = {"ms": round(took[name] * 1000 / reads, 3), "cpu_ms": cpu}
        print(f"{kind} {times} {name}: {found[name]['ms']} ms a read, CPU {sum(cpu.values()):.2f} ms {cpu}")
    if len(sides) == 2:
        ratio = took["stock"] / took["runstream"]
        print(f"{kind} {times}: {ratio:.2f} times as fast as stock", flush=True)
        found["times_as_fast"] = round(ratio, 2)
    return found


def _turns(reads: int) -> Iterator[tuple[int, ...]]:
    places = iter(range(reads))
    while turn := tuple(itertools.islice(places, TURN)):
        yield turn


if __name__ == "__main__":
    main()
