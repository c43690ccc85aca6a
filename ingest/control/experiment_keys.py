"""Keys under which clients made experiments: ``runstream_experiment_keys``, a table of ours beside MLflow's.

An experiment's id is the database's to choose, so that a repeated call can be known by its key only. The table is made
with the first key; losing it costs no more than that old calls, repeated, are told that the name is taken.
"""

from __future__ import annotations

from runstream.ingest.control.database.session import Session

_CREATE = """
    CREATE TABLE IF NOT EXISTS runstream_experiment_keys (
        creation_key VARCHAR(200) PRIMARY KEY, experiment_id INTEGER NOT NULL, creation_time BIGINT NOT NULL
    )
"""
_TABLE = {
    "sqlite": "SELECT 1 FROM sqlite_master WHERE name = 'runstream_experiment_keys'",
    "postgresql": "SELECT 1 WHERE to_regclass('runstream_experiment_keys') IS NOT NULL",
}


def find_key(session: Session, key: str) -> str | None:
    """The id of the experiment that was made under a key, if it is still there."""
    if not session.rows(_TABLE[session.dialect]):
        return None
    rows = session.rows(
        "SELECT experiment_id FROM runstream_experiment_keys JOIN experiments USING (experiment_id)"
        " WHERE creation_key = ?",
        [key],
    )
    return str(rows[0][0]) if rows else None


def remember_key(session: Session, key: str, experiment_id: int, now_ms: int) -> None:
    """Beside the experiment, in its transaction."""
    session.execute(_CREATE)
    session.execute(
        "INSERT INTO runstream_experiment_keys (creation_key, experiment_id, creation_time) VALUES (?, ?, ?)"
        " ON CONFLICT (creation_key) DO UPDATE SET experiment_id = excluded.experiment_id",
        [key, experiment_id, now_ms],
    )
