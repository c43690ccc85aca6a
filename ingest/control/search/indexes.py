"""What searches find their runs by, beside MLflow's tables: whether it is there.

PostgreSQL has indexes of our own on MLflow's tables; for SQLite see ``settled``. All has a prefix of its own, may be
dropped at any time (searches then scan), and is made again. MLflow's migrations do not know it: its tables are as it
made them.
"""

from __future__ import annotations

from typing import Final

from runstream.ingest.control.search import settled
from runstream.ingest.control.search.finder import Database
from runstream.ingest.control.search.sql import INDEXED_CHARACTERS, Sql, among

_TEXT: Final = f"key, substr(value, 1, {INDEXED_CHARACTERS}), run_uuid"
# PostgreSQL's, by name: the table, and what is in it. Small ones come first.
INDEXES: Final = {
    "runstream_runs_start": ("runs", "experiment_id, lifecycle_stage, start_time, run_uuid"),
    "runstream_tags_value": ("tags", _TEXT),
    "runstream_params_value": ("params", _TEXT),
    "runstream_latest_metrics_value": ("latest_metrics", "key, is_nan, value, run_uuid"),
}


def are_there(database: Database) -> bool:
    """Whether searches have all that they need."""
    if database.dialect == "sqlite":
        names = settled.NAMES
        select = Sql("SELECT name FROM sqlite_master WHERE name IN ")
    else:
        names = frozenset(INDEXES)
        select = Sql(
            "SELECT c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE i.indisvalid AND pg_table_is_visible(c.oid) AND c.relname IN "
        )
    return {row[0] for row in database.rows(select + among(sorted(names)))} == names
