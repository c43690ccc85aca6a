"""What a point costs in the writer alone: queue record -> ClickHouse -> latest_metrics -> commit.

    python -m benchmarks micro_writer [--points 20000000] [--rate 600000] [--runs 200] [--keys 50] [--folder DIR]

A second process appends realistic records to a local log at ``--rate`` points a second; the writer runs on chDB
and SQLite in this process. Printed: CPU of this process per 1,000 points (background merges included, waited for
at the end), memory, parts, bytes per point on disk, and how long a read-your-writes barrier took meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import resource
import sqlite3
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from benchmarks.harness import results

POINTS_PER_REQUEST = 1000


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--points", type=int, default=20_000_000)
    parser.add_argument("--rate", type=float, default=600_000)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--keys", type=int, default=50)
    parser.add_argument("--key-length", type=int, default=24)
    parser.add_argument("--backlog", action="store_true", help="fill the log before the writer starts")
    parser.add_argument("--barriers", type=float, default=0, help="read-your-writes barriers a second")
    parser.add_argument("--clickhouse", default="", help="options of the chdb URL, such as max_threads=1")
    parser.add_argument("--folder", type=Path)
    results.add_option(parser)
    parser.add_argument("--produce", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.produce:
        asyncio.run(produce(arguments))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        asyncio.run(consume(arguments, Path(folder)))


async def produce(arguments: argparse.Namespace) -> None:
    """Append records of ten requests each, as the gateway's group commit does."""
    from runstream.ingest.queue.local import LocalLogProducer
    from runstream.schemas.record import RecordBuilder

    rng = np.random.default_rng(7)
    runs, keys = names(arguments)
    steps = np.zeros((len(runs), -(-len(keys) // POINTS_PER_REQUEST)), np.int64)
    scale = rng.uniform(200, 5000, len(runs))
    producer = LocalLogProducer(arguments.produce)
    await producer.start()
    # Requests are made beforehand and their bytes patched with new steps: the load must not cost much itself.
    count = min(len(keys), POINTS_PER_REQUEST)
    each = max(1, POINTS_PER_REQUEST // count)
    started, sent = time.monotonic(), 0
    while sent < arguments.points:
        builder = RecordBuilder(int(time.time() * 1000))
        for _ in range(10):
            run = int(rng.integers(len(runs)))
            part = int(rng.integers(steps.shape[1]))
            some = keys[part * POINTS_PER_REQUEST :][:count]
            first = int(steps[run, part])
            steps[run, part] += each
            step = np.repeat(np.arange(first, first + each), len(some))
            now = int(time.time() * 1000)
            loss = 2.3 * np.exp(-step / scale[run]) + rng.normal(0, 0.02, len(step))
            builder.add(
                runs[run],
                some * each,
                step.tolist(),
                (now - (first + each) * 100 + step * 100).tolist(),
                loss.astype(np.float32).astype(float).tolist(),
            )
        sent += builder.points
        await producer.append(producer.stream, builder.build())
        ahead = started + sent / arguments.rate - time.monotonic()
        if ahead > 0:
            await asyncio.sleep(ahead)
    await producer.close()


def names(arguments: argparse.Namespace) -> tuple[list[str], list[str]]:
    rng = np.random.default_rng(1)
    runs = [rng.bytes(16).hex() for _ in range(arguments.runs)]
    keys = [f"train/{number:07d}/".ljust(arguments.key_length, "x") for number in range(arguments.keys)]
    return runs, keys


async def consume(arguments: argparse.Namespace, folder: Path) -> None:
    from runstream.clickhouse import connect
    from runstream.clickhouse.migrate import migrate
    from runstream.ingest.queue.local import LocalLogConsumer
    from runstream.ingest.writer.latest import open_latest
    from runstream.ingest.writer.pipeline import Writer
    from runstream.schemas.migrations import Flavour

    with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as metadata, metadata:
        metadata.executescript(
            "PRAGMA journal_mode = WAL;"
            "CREATE TABLE runs (run_uuid VARCHAR(32) NOT NULL PRIMARY KEY);"
            "CREATE TABLE latest_metrics (key VARCHAR(250) NOT NULL, value FLOAT NOT NULL, timestamp BIGINT,"
            " step BIGINT NOT NULL, is_nan BOOLEAN NOT NULL, run_uuid VARCHAR(32) NOT NULL,"
            " CONSTRAINT latest_metric_pk PRIMARY KEY (key, run_uuid));"
            "CREATE INDEX index_latest_metrics_run_uuid ON latest_metrics (run_uuid);"
        )
        metadata.executemany("INSERT INTO runs VALUES (?)", [(run,) for run in names(arguments)[0]])
    options = f"?{arguments.clickhouse}" if arguments.clickhouse else ""
    database = connect(f"chdb://{folder}/clickhouse{options}")
    migrate(database, Flavour())
    latest = open_latest(f"sqlite:///{folder}/mlflow.db")
    consumer = LocalLogConsumer(folder / "log")
    writer = Writer(consumer, database, latest)
    idle_mb = resident_mb()
    command = [
        sys.executable,
        "-m",
        "benchmarks.suites.micro_writer",
        *sys.argv[1:],
        "--produce",
        str(folder / "log"),
    ]
    producer = await asyncio.create_subprocess_exec(*command)
    if arguments.backlog:
        await producer.wait()
    running = asyncio.create_task(writer.run())
    cpu, started = cpu_s(), time.monotonic()
    barriers: list[float] = []
    memory: list[float] = []
    lag = 0.0
    while writer.stats.points < arguments.points:
        await asyncio.sleep(1 / arguments.barriers if arguments.barriers else 0.5)
        memory.append(resident_mb())
        lag = max(lag, writer.lag_s())
        if arguments.barriers:
            before = time.monotonic()
            await writer.flush_until(await consumer.end_offsets(), 30)
            barriers.append(time.monotonic() - before)
    took = time.monotonic() - started
    ended = time.monotonic()
    assert await writer.flush_until(await consumer.end_offsets(), 120)
    drained = time.monotonic() - ended
    written_cpu = cpu_s() - cpu
    quiet = 0
    while quiet < 4:
        await asyncio.sleep(0.5)
        merging = database.arrow("SELECT count() AS n FROM system.merges")["n"][0].as_py()
        quiet = 0 if merging else quiet + 1
    merged_cpu = cpu_s() - cpu
    parts = database.arrow(
        "SELECT count() AS parts, sum(p.rows) AS rows, sum(p.bytes_on_disk) / rows AS bytes_per_point"
        " FROM system.parts AS p WHERE active AND table = 'metrics'"
    ).to_pylist()[0]
    assert parts["rows"] == writer.stats.points
    stats = writer.stats
    thousand = stats.points / 1000
    figures = {
        "points": stats.points,
        "points_per_s": round(stats.points / took),
        "drained_s": round(drained, 2),
        "cpu_ms_per_1000": round(1e3 * written_cpu / thousand, 3),
        "with_all_merges": round(1e3 * merged_cpu / thousand, 3),
        "insert_wall_ms_per_1000": round(1e3 * stats.insert_s / thousand, 3),
        "latest_wall_ms_per_1000": round(1e3 * stats.latest_s / thousand, 3),
        "flushes": stats.flushes,
        "latest_rows": stats.latest_rows,
        "parts": parts["parts"],
        "bytes_per_point": round(parts["bytes_per_point"], 2),
        "worst_lag_s": round(lag, 2),
        "memory_mb": {"idle": idle_mb, "median": float(np.median(memory)), "max": max(memory)},
        "barrier_ms": [round(1e3 * float(np.percentile(barriers, p)), 1) for p in (50, 99, 100)]
        if barriers
        else None,
    }
    print(json.dumps(figures, indent=1))
    results.keep("micro_writer", figures, arguments.out)
    await writer.stop(30)
    await running
    latest.close()
    database.close()


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20


if __name__ == "__main__":
    main()
