"""Whether ``metrics`` is a cluster's ``Distributed`` table, and what differs then.

Such a table has no parts of its own, and takes no DELETE: ClickHouse deletes from the table behind it, on every server.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from runstream.schemas.ports.database import Database

_ENGINE = (
    "SELECT engine, engine_full FROM system.tables WHERE database = currentDatabase() AND name = 'metrics'"
)
# Distributed('cluster', 'database', 'table', sharding key): ClickHouse shows the first three as literals.
_ARGUMENTS = re.compile(r"Distributed\(\s*'((?:[^'\\]|\\.)*)'\s*,\s*'?([^',]*)'?\s*,\s*'?([^',)]*)'?\s*[,)]")


@dataclass(frozen=True, slots=True)
class DistributedTable:
    """The table behind, as ClickHouse names it."""

    cluster: str
    database: str
    table: str


def distributed_table(database: Database) -> DistributedTable | None:
    """What is behind ``metrics``; ``None`` if it holds its rows itself. Blocks; raises ``DatabaseError``."""
    for row in database.arrow(_ENGINE).to_pylist():
        found = _ARGUMENTS.match(row["engine_full"]) if row["engine"] == "Distributed" else None
        if found is not None:
            return DistributedTable(*found.groups())
    return None


def delete_runs(database: Database, run_ids: Sequence[str]) -> None:
    """Remove every point of these runs; returns when readers no longer see them. Blocks; raises ``DatabaseError``."""
    behind = distributed_table(database)
    target = "metrics"
    if behind is not None:
        name = (
            behind.table
            if behind.database in ("", "currentDatabase()")
            else f"{behind.database}`.`{behind.table}"
        )
        target = f"`{name}` ON CLUSTER '{behind.cluster}'"
    database.execute(f"DELETE FROM {target} WHERE run_id IN {{runs:Array(String)}}", {"runs": list(run_ids)})
