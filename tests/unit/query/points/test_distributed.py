"""A cluster's Distributed table is recognised, and deleted from where its rows are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import pyarrow as pa
import pytest

from runstream.query.points.distributed import DistributedTable, delete_runs, distributed_table
from runstream.schemas.ports.database import Database


class Answering:
    """Says what ClickHouse says of ``metrics`` (the embedded engine has no clusters), and keeps statements."""

    def __init__(self, engine: str, engine_full: str) -> None:
        self._row = {"engine": engine, "engine_full": engine_full}
        self.executed: list[tuple[str, Mapping[str, Any] | None]] = []

    def arrow(self, _sql: str, _parameters: Any = None, _settings: Any = None) -> pa.Table:
        return pa.Table.from_pylist([self._row])

    def execute(self, sql: str, parameters: Mapping[str, Any] | None = None, _settings: Any = None) -> None:
        self.executed.append((sql, parameters))


MERGE_TREE = (
    "ReplacingMergeTree PRIMARY KEY (run_id, key, step) ORDER BY (run_id, key, step, timestamp, value)"
)


@pytest.mark.parametrize(
    ("engine", "full", "behind", "target"),
    [
        ("ReplacingMergeTree", MERGE_TREE, None, "metrics"),
        (
            "Distributed",
            "Distributed('main', 'runstream', 'metrics_local', cityHash64(run_id))",
            DistributedTable("main", "runstream", "metrics_local"),
            "`runstream`.`metrics_local` ON CLUSTER 'main'",
        ),
        (
            "Distributed",
            "Distributed('a-b', currentDatabase(), 'metrics_local', cityHash64(run_id))",
            DistributedTable("a-b", "currentDatabase()", "metrics_local"),
            "`metrics_local` ON CLUSTER 'a-b'",
        ),
    ],
)
def test_rows_are_deleted_where_they_are(
    engine: str, full: str, behind: DistributedTable | None, target: str
) -> None:
    answering = Answering(engine, full)
    database = cast(Database, answering)
    assert distributed_table(database) == behind
    delete_runs(database, ["r"])
    assert answering.executed == [
        (f"DELETE FROM {target} WHERE run_id IN {{runs:Array(String)}}", {"runs": ["r"]})
    ]
