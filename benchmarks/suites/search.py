"""Searches of many runs: milliseconds to the first page of 100, beside stock MLflow on the same database.

    python -m benchmarks search [--postgres] [--runs 100000] [--no-stock] [--keep FOLDER | --uri URI]

Fills a database first (minutes for 100,000 runs × 50 params × 100 metrics; ``--keep`` keeps it for the next time), then
waits until what searches need is made beside MLflow's tables, and says how long that took. Every search of a kind has
numbers of its own, so that none is a repetition; "again" is the same search once more. Stock is asked less often.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests"))

from benchmarks.harness import results  # noqa: E402
from benchmarks.harness.postgres import PostgresCluster  # noqa: E402
from benchmarks.suites.search_seed import Shape, fill  # noqa: E402
from support.raw_http import RawClient  # noqa: E402
from support.runstream_server import RunstreamServer  # noqa: E402
from support.stock import stock_server  # noqa: E402

Search = dict[str, Any]
_READY_WITHIN_S = 3600.0
PAGE = 100


def param_and_metric(chance: random.Random) -> Search:
    """The one that the targets are for."""
    rate = chance.choice(["1", "0.1", "0.01", "0.001", "0.0001"])
    return {
        "filter": f"metrics.loss < {chance.uniform(0.2, 1.0):.6f} AND params.lr = '{rate}'",
        "order_by": [f"metrics.{_metric(chance)} {chance.choice(['ASC', 'DESC'])}"],
    }


def rare(chance: random.Random) -> Search:
    """Few runs fit."""
    choice = chance.randrange(10)
    return {
        "filter": f"metrics.loss < {chance.uniform(0.001, 0.02):.6f} AND params.param_01 = '{choice}'",
        "order_by": [f"metrics.{_metric(chance)} DESC"],
    }


def one(chance: random.Random) -> Search:
    """One run fits."""
    return {"filter": f"params.seed = '{chance.randrange(10_000)}'"}


def best(chance: random.Random) -> Search:
    """All, the best first."""
    return {
        "order_by": [f"metrics.{_metric(chance)} DESC"],
        "filter": f"metrics.acc < {chance.uniform(0.9, 1):.6f}",
    }


def newest(chance: random.Random) -> Search:
    """All, in MLflow's own order; the filter is always true, and another one each time."""
    return {"filter": f"start_time > {chance.randrange(1_000_000)}"}


KINDS: dict[str, Callable[[random.Random], Search]] = {
    "param and metric": param_and_metric,
    "rare": rare,
    "one": one,
    "best": best,
    "newest": newest,
}


def _metric(chance: random.Random) -> str:
    return chance.choice(["acc", *(f"metric_{number:03}" for number in range(90))])


def main() -> None:
    """Print a table, and keep it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--postgres", action="store_true")
    parser.add_argument("--runs", type=int, default=100_000)
    parser.add_argument("--searches", type=int, default=40)
    parser.add_argument("--stock-searches", type=int, default=2)
    parser.add_argument("--no-stock", action="store_true")
    parser.add_argument("--keep", type=Path, help="SQLite: a folder that keeps its database")
    parser.add_argument("--uri", help="PostgreSQL: a database that is filled already")
    results.add_option(parser)
    options = parser.parse_args()
    outcome: dict[str, Any] = {
        "runs": options.runs,
        "database": "postgresql" if options.postgres else "sqlite",
    }
    with contextlib.ExitStack() as stack:
        folder = options.keep or Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="runstream-bench-"))
        )
        uri = stack.enter_context(_database(folder, options))
        environment = {"RUNSTREAM_METADATA": uri} if options.postgres else {}
        begun = time.monotonic()
        server = stack.enter_context(RunstreamServer(folder / "data", workers=1, environment=environment))
        _wait_until_made(uri, options)
        outcome["made_in_s"] = round(time.monotonic() - begun, 1)
        print(f"indexes or tables beside were there {outcome['made_in_s']} s after the start", flush=True)
        outcome["runstream"] = _measure(server.url, options.searches)
        if not options.no_stock:
            stock = stack.enter_context(stock_server(folder / "stock", backend_store_uri=uri))
            outcome["stock"] = _measure(stock.url, options.stock_searches)
    for kind, found in outcome["runstream"].items():
        text = f"{kind:18} first p50 {found['first_p50_ms']:8.1f} p90 {found['first_p90_ms']:8.1f} ms"
        text += f" | again p50 {found['again_p50_ms']:6.1f} ms"
        if "stock" in outcome:
            slow = outcome["stock"][kind]["first_p50_ms"]
            text += f" | stock {slow:9.1f} ms: {slow / found['first_p50_ms']:6.1f} x"
        print(text)
    results.keep("search", outcome, options.out)


@contextlib.contextmanager
def _database(folder: Path, options: argparse.Namespace) -> Iterator[str]:
    """MLflow's tables, filled."""
    shape = Shape(options.runs)
    if not options.postgres:
        path = folder / "data" / "mlflow.db"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            fill(f"sqlite:///{path}", shape)
        yield f"sqlite:///{path}"
        return
    if options.uri:
        yield options.uri
        return
    cluster = PostgresCluster(folder / "postgres", _free_port())
    cluster.start()
    try:
        fill(cluster.uri(), shape)
        yield cluster.uri()
    finally:
        cluster.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_made(uri: str, options: argparse.Namespace) -> None:
    """Until searches need not scan: PostgreSQL's indexes are whole, or SQLite's tables beside are filled."""
    from runstream.ingest.control.search.connections import address_of, connect
    from runstream.ingest.control.search.indexes import are_there
    from runstream.ingest.control.search.sql import UNFILLED, Sql

    connection = connect(address_of(uri), timeout_s=60)
    deadline = time.monotonic() + _READY_WITHIN_S
    while time.monotonic() < deadline:
        unfilled = Sql(f"SELECT count(*) FROM {UNFILLED}")
        if are_there(connection) and (options.postgres or not connection.rows(unfilled)[0][0]):
            connection.close()
            return
        time.sleep(0.5)
    raise TimeoutError("the indexes are not made")


def _measure(url: str, searches: int) -> dict[str, dict[str, float]]:
    client = RawClient(url, timeout_s=600)
    found: dict[str, dict[str, float]] = {}
    for kind, make in KINDS.items():
        chance = random.Random(kind)
        wanted = [{"experiment_ids": ["1"], "max_results": PAGE, **make(chance)} for _ in range(searches)]
        client.call("runs/search", wanted[0])
        first, again = [], []
        for search in wanted:
            first.append(_timed(client, search))
            again.append(_timed(client, search))
        first.sort()
        found[kind] = {
            "first_p50_ms": round(statistics.median(first), 2),
            "first_p90_ms": round(first[int(len(first) * 0.9)], 2),
            "again_p50_ms": round(statistics.median(again), 2),
        }
        print(f"{time.strftime('%H:%M:%S')} {url} {kind} {found[kind]}", flush=True)
    client.close()
    return found


def _timed(client: RawClient, search: Search) -> float:
    body = json.dumps(search).encode()
    begun = time.perf_counter()
    answer = client.send("POST", "/api/2.0/mlflow/runs/search", body, {"Content-Type": "application/json"})
    took_ms = (time.perf_counter() - begun) * 1000
    assert answer.status == 200, answer
    return took_ms


if __name__ == "__main__":
    main()
