"""The same reads of the same points from stock MLflow, whose SQLite tables are filled directly."""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.harness.client import API, Client
from benchmarks.suites import read_table
from benchmarks.suites.read_table import KEY, Shape, run_id, run_ids
from benchmarks.systems.base import Server
from benchmarks.systems.mlflow import MlflowSqlite

_RUNS = 100
_CLIENT_POINTS = 200_000
_PAGE = 25_000
_BATCH = 1_000


def compare(
    ours: Server, stock: MlflowSqlite, shape: Shape, say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """Milliseconds of each read on both servers.

    MLflow reads a whole series for each page of it, so a million points take it minutes: there the first, a middle
    and the last page are measured, and their mean is multiplied.
    """
    with Client(stock.host, stock.port) as client:
        theirs = client.create_runs("0", _RUNS + 2)
    long_values = read_table.long_series("long", shape.long)
    with contextlib.closing(sqlite3.connect(stock.database, timeout=60)) as connection:
        for number in range(_RUNS):
            times, values = read_table.ordinary_run(number, shape)
            _fill(connection, theirs[number], times, values[:, 0])
        _fill(connection, theirs[_RUNS], *long_values)
        _fill(connection, theirs[_RUNS + 1], long_values[0][:_CLIENT_POINTS], long_values[1][:_CLIENT_POINTS])
        connection.commit()
    say("  stock MLflow: tables filled")
    with Client(ours.host, ours.port) as client:
        middle = _log(client, long_values[0][:_CLIENT_POINTS], long_values[1][:_CLIENT_POINTS])
    rows = []

    def row(name: str, stock_ms: float, runstream_ms: float) -> None:
        rows.append({"read": name, "stock_ms": round(stock_ms, 1), "runstream_ms": round(runstream_ms, 1)})
        say(f"  {name}: stock {stock_ms:,.0f} ms, Runstream {runstream_ms:,.0f} ms")

    with Client(stock.host, stock.port, 600) as a, Client(ours.host, ours.port, 600) as b:
        row(
            "1,000-point series, get-history",
            _median(lambda: a.history(theirs[3], KEY), 10),
            _median(lambda: b.history(run_id("run-3"), KEY), 10),
        )
        row(
            f"{_RUNS} runs x 1 key, get-history-bulk",
            _median(lambda: a.history_bulk(theirs[:_RUNS], KEY), 3),
            _median(lambda: b.history_bulk(run_ids(_RUNS), KEY), 10),
        )
        pages = shape.long // _PAGE
        offsets = [0, pages // 2 * _PAGE, (pages - 1) * _PAGE]
        sampled = [_median(functools.partial(_page, a, theirs[_RUNS], at), 1) for at in offsets]
        row(
            f"{shape.long:,} points, get-history, {pages} pages (stock: from 3 of them)",
            float(np.mean(sampled)) * pages,
            _median(lambda: b.history(run_id("long"), KEY), 2),
        )
    count = min(_CLIENT_POINTS, shape.long)
    row(
        f"{count:,} points, MlflowClient.get_metric_history",
        _median(lambda: _stock_client(stock, theirs[_RUNS + 1], count), 1),
        _median(lambda: _stock_client(ours, middle, count), 2),
    )
    used = time.process_time()
    whole = _median(lambda: _stock_client(ours, run_id("long"), shape.long), 1)
    own = (time.process_time() - used) * 1000
    say(
        f"  {shape.long:,} points through MlflowClient: {whole:,.0f} ms, of which the client's own CPU {own:,.0f} ms"
    )
    rows[-1] |= {"long_client_ms": round(whole, 1), "long_client_own_cpu_ms": round(own, 1)}
    return rows


def _fill(
    connection: sqlite3.Connection, run: str, times: NDArray[np.int64], values: NDArray[np.float64]
) -> None:
    is_nan = np.isnan(values)
    stored = np.clip(np.where(is_nan, 0.0, values), -np.finfo(np.float64).max, np.finfo(np.float64).max)
    connection.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)",
        zip(
            [KEY] * len(values),
            stored.tolist(),
            times.tolist(),
            [run] * len(values),
            range(len(values)),
            is_nan.tolist(),
            strict=True,
        ),
    )


def _log(client: Client, times: NDArray[np.int64], values: NDArray[np.float64]) -> str:
    run = client.create_run("0")
    points = [
        {"key": KEY, "value": _shown(value), "timestamp": at, "step": step}
        for step, (at, value) in enumerate(zip(times.tolist(), values.tolist(), strict=True))
    ]
    for start in range(0, len(points), _BATCH):
        client.post(API + "runs/log-batch", {"run_id": run, "metrics": points[start : start + _BATCH]})
    return run


def _shown(value: float) -> float | str:
    """As JSON has it in MLflow's protocol."""
    if np.isfinite(value):
        return value
    return "NaN" if np.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _page(client: Client, run: str, offset: int) -> None:
    from mlflow.utils.search_utils import SearchUtils

    query: dict[str, Any] = {"run_id": run, "metric_key": KEY, "max_results": _PAGE}
    if offset:
        query["page_token"] = SearchUtils.create_page_token(offset)
    found = len(client.get(API + "metrics/get-history", **query)["metrics"])
    if found != _PAGE:
        raise RuntimeError(f"a page of {found} points where {_PAGE} were expected")


def _stock_client(server: Server, run: str, points: int) -> None:
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow import MlflowClient

    found = len(MlflowClient(f"http://{server.host}:{server.port}").get_metric_history(run, KEY))
    if found != points:
        raise RuntimeError(f"a history of {found} points where {points} were written")


def _median(read: Callable[[], Any], times: int) -> float:
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        read()
        taken.append((time.perf_counter() - began) * 1000)
    return float(np.median(taken))
