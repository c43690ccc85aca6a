"""The control plane: requests a second and latency, beside stock MLflow on the same database in the same minute.

    python -m benchmarks control [--postgres] [--seconds 5] [--connections 64] [--no-stock]

Needs ``wrk`` (``make system``). Server, database and generator share the machine; compare ratios.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.harness import results  # noqa: E402
from support.postgres import postgres_server  # noqa: E402
from support.raw_http import RawClient  # noqa: E402
from support.runstream_server import RunstreamServer  # noqa: E402
from support.stock import stock_server  # noqa: E402

KINDS = ("create", "log-parameter", "set-tag", "update", "params-50", "get")
RUNS = 64


def main() -> None:
    """Print a table, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--seconds", type=int, default=5)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--no-stock", action="store_true")
    parser.add_argument("--kinds", default=",".join(KINDS))
    results.add_option(parser)
    options = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="runstream-bench-") as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        own, stock = stack.enter_context(_databases(folder, options.postgres))
        servers = {}
        environment = {"RUNSTREAM_METADATA": own} if options.postgres else {}
        server = RunstreamServer(folder / "data", workers=options.workers, environment=environment)
        servers["runstream"] = stack.enter_context(server).url
        if not options.no_stock:
            servers["stock"] = stack.enter_context(
                stock_server(folder / "stock", backend_store_uri=stock)
            ).url
        prepared = {name: _prepare(url) for name, url in servers.items()}
        for kind in options.kinds.split(","):
            found[kind] = {}
            for name, url in servers.items():
                found[kind][name] = _measure(kind, url, prepared[name], options)
            _show(kind, found[kind])
        found["start"] = {name: _starts(url, options) for name, url in servers.items()}
        _show("start", found["start"])
    results.keep("control", found, options.out)


@contextlib.contextmanager
def _databases(folder: Path, postgres: bool) -> Iterator[tuple[str, str | None]]:
    if not postgres:
        yield "", None
        return
    with postgres_server() as server:
        yield server.create_database("own"), server.create_database("stock")


def _prepare(url: str) -> dict[str, str]:
    """An experiment and runs, each with 100 metrics and 50 params."""
    client = RawClient(url)
    made = client.call("experiments/create", {"name": f"bench {uuid.uuid4().hex[:6]}"})
    experiment = str(made["experiment_id"])
    runs = []
    for _ in range(RUNS):
        run = client.call("runs/create", {"experiment_id": experiment, "user_id": "u", "start_time": 1})
        runs.append(run["run"]["info"]["run_id"])
        client.call(
            "runs/log-batch",
            {
                "run_id": runs[-1],
                "metrics": [
                    {"key": f"metric_{n}", "value": n / 7, "timestamp": 1700000000000, "step": n}
                    for n in range(100)
                ],
                "params": [{"key": f"param_{n}", "value": str(n / 3)} for n in range(50)],
            },
        )
    client.close()
    return {"CONTROL_EXPERIMENT": experiment, "CONTROL_RUNS": ",".join(runs)}


def _measure(kind: str, url: str, prepared: dict[str, str], options: argparse.Namespace) -> dict[str, Any]:
    if kind == "get":
        # The others have left runs with thousands of params.
        prepared = _prepare(url)
    environment = {**prepared, "CONTROL_KIND": kind, "CONTROL_TOKEN": uuid.uuid4().hex[:6]}
    done = subprocess.run(
        [
            *("wrk", "-t1", f"-c{options.connections}", f"-d{options.seconds}s", "--timeout", "30s"),
            *("-s", str(ROOT / "benchmarks" / "suites" / "control.lua"), url),
        ],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    result["per_s"] = result["requests"] / result["seconds"]
    return result


def _starts(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """Runs that begin as the fluent API begins them: experiment by name, create, params, tags, get, update."""
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks.suites.control_starts", url, str(options.seconds), "16"],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    counts = [json.loads(process.communicate()[0]) for process in processes]
    runs = sum(count["runs"] for count in counts)
    return {
        "per_s": runs / max(count["seconds"] for count in counts),
        "p50_ms": max(count["p50_ms"] for count in counts),
        "p99_ms": max(count["p99_ms"] for count in counts),
        "not_2xx": sum(count["errors"] for count in counts),
    }


def _show(kind: str, found: dict[str, dict[str, Any]]) -> None:
    own, stock = found["runstream"], found.get("stock")
    text = f"{kind:14} {own['per_s']:8.0f}/s p50 {own['p50_ms']:6.1f} p99 {own['p99_ms']:6.1f} ms bad {own['not_2xx']}"
    if stock:
        text += f" | stock {stock['per_s']:6.0f}/s p99 {stock['p99_ms']:7.1f} bad {stock['not_2xx']}"
        text += f" | {own['per_s'] / max(stock['per_s'], 0.1):5.1f} x"
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    main()
