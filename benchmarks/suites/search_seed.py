"""Fill MLflow's own tables with many runs, as rows: what a search benchmark looks through.

Rows are written in the order in which training writes them (run after run), because where rows lie decides how fast a
database finds them. The tables are MLflow's, made by MLflow.
"""

from __future__ import annotations

import argparse
import sqlite3
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

FIRST_START_MS = 1_700_000_000_000
MAX_FLOAT = 1.7976931348623157e308  # as which MLflow stores an infinity
_RUNS_AT_ONCE = 1000

RUN_COLUMNS = (
    "run_uuid", "name", "source_type", "source_name", "entry_point_name", "user_id", "status", "start_time",
    "end_time", "source_version", "lifecycle_stage", "artifact_uri", "experiment_id",
)  # fmt: skip
COLUMNS = {
    "runs": RUN_COLUMNS,
    "params": ("key", "value", "run_uuid"),
    "tags": ("key", "value", "run_uuid"),
    "latest_metrics": ("key", "value", "timestamp", "step", "is_nan", "run_uuid"),
}


@dataclass(frozen=True, slots=True)
class Shape:
    """How many runs, and what each has. Two of the metrics are ``loss`` and ``acc``, two of the params ``lr`` and
    ``seed``; one run in ten lacks the last metric, one value in a hundred is NaN, one run in fifty is deleted."""

    runs: int
    params: int = 50
    metrics: int = 100
    experiment_id: int = 1


def rows_of(shape: Shape, seed: int = 7) -> Iterator[dict[str, list[tuple[Any, ...]]]]:
    """Rows by table, some runs at a time; the same for the same arguments."""
    random = np.random.default_rng(seed)
    metric_keys = ["loss", "acc", *(f"metric_{number:03}" for number in range(shape.metrics - 2))]
    param_keys = ["lr", "seed", *(f"param_{number:02}" for number in range(shape.params - 2))]
    for first in range(0, shape.runs, _RUNS_AT_ONCE):
        count = min(_RUNS_AT_ONCE, shape.runs - first)
        values = random.random((count, shape.metrics))
        nan = random.random((count, shape.metrics)) < 0.01
        choices = random.integers(0, 10, (count, shape.params))
        ids = [uuid.UUID(bytes=random.bytes(16), version=4).hex for _ in range(count)]
        tables: dict[str, list[tuple[Any, ...]]] = {table: [] for table in COLUMNS}
        for at, run_id in enumerate(ids):
            number = first + at
            start = FIRST_START_MS + number // 3 * 1000  # three runs begin at once: ties
            name = f"run-{number}"
            tables["runs"].append(
                (
                    run_id,
                    name,
                    "UNKNOWN",
                    "",
                    "",
                    "bench",
                    "FINISHED",
                    start,
                    start + 60_000,
                    "",
                    "deleted" if number % 50 == 49 else "active",
                    f"mlflow-artifacts:/{shape.experiment_id}/{run_id}/artifacts",
                    shape.experiment_id,
                )
            )
            for key, choice in zip(param_keys, choices[at].tolist(), strict=True):
                value = f"{10.0 ** -(choice % 5):g}" if key == "lr" else str(choice)
                tables["params"].append((key, str(number) if key == "seed" else value, run_id))
            tables["tags"] += [
                ("mlflow.runName", name, run_id),
                ("mlflow.user", "bench", run_id),
                ("mlflow.source.name", "train.py", run_id),
                ("team", f"team-{number % 7}", run_id),
            ]
            row_values = values[at].tolist()
            row_nan = nan[at].tolist()
            for column, key in enumerate(metric_keys):
                if column == shape.metrics - 1 and number % 10 == 0:
                    continue
                is_nan = row_nan[column]
                tables["latest_metrics"].append(
                    (key, 0.0 if is_nan else row_values[column], start + 59_000, 999, is_nan, run_id)
                )
        yield tables


def make_tables(uri: str, experiment_id: int) -> None:
    """MLflow's tables and one experiment, by MLflow itself, in a process of its own."""
    program = (
        "import sys\nfrom mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore\n"
        "store = SqlAlchemyStore(sys.argv[1], sys.argv[2])\n"
        "while int(store.create_experiment('search-' + __import__('uuid').uuid4().hex)) < int(sys.argv[3]): pass\n"
    )
    subprocess.run([sys.executable, "-c", program, uri, "mlflow-artifacts:/", str(experiment_id)], check=True)


def fill_sqlite(path: str, shape: Shape) -> None:
    """Write the rows into a SQLite file that has MLflow's tables. Not durable meanwhile."""
    connection = sqlite3.connect(path)
    for pragma in (
        "journal_mode = OFF",
        "synchronous = OFF",
        "cache_size = -4000000",
        "locking_mode = EXCLUSIVE",
    ):
        connection.execute(f"PRAGMA {pragma}")
    for tables in rows_of(shape):
        for table, rows in tables.items():
            places = ", ".join("?" * len(COLUMNS[table]))
            names = ", ".join(COLUMNS[table])
            connection.executemany(f"INSERT INTO {table} ({names}) VALUES ({places})", rows)
    connection.commit()
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()


def fill_postgres(uri: str, shape: Shape) -> None:
    """Write the rows into a PostgreSQL database that has MLflow's tables."""
    import psycopg

    with psycopg.connect(uri) as connection:
        for tables in rows_of(shape):
            for table, rows in tables.items():
                with connection.cursor().copy(
                    f"COPY {table} ({', '.join(COLUMNS[table])}) FROM STDIN"
                ) as copy:
                    for row in rows:
                        copy.write_row(row)
    with psycopg.connect(uri, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def fill(uri: str, shape: Shape) -> None:
    """MLflow's tables with the rows of ``shape``; ``uri`` as for MLflow's backend store, the database empty."""
    make_tables(uri, shape.experiment_id)
    if uri.startswith("sqlite:///"):
        fill_sqlite(uri.removeprefix("sqlite:///"), shape)
    else:
        fill_postgres(uri, shape)


def main() -> None:
    """Fill a database from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("uri")
    parser.add_argument("--runs", type=int, default=100_000)
    arguments = parser.parse_args()
    begun = time.monotonic()
    fill(arguments.uri, Shape(arguments.runs))
    print(f"{arguments.runs} runs in {time.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
