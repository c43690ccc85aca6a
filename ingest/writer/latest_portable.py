"""``latest_metrics`` on databases without a special way here (MySQL, SQL Server): read, compare, write."""

from __future__ import annotations

import sqlalchemy as sa

from runstream.ingest.writer.newest import LatestRows

_CHUNK = 200

_METADATA = sa.MetaData()
_RUNS = sa.Table("runs", _METADATA, sa.Column("run_uuid", sa.String(32), primary_key=True))
_LATEST = sa.Table(
    "latest_metrics",
    _METADATA,
    sa.Column("key", sa.String(250), primary_key=True),
    sa.Column("value", sa.Float(53)),
    sa.Column("timestamp", sa.BigInteger),
    sa.Column("step", sa.BigInteger),
    sa.Column("is_nan", sa.Boolean),
    sa.Column("run_uuid", sa.String(32), primary_key=True),
)


class PortableUpsert:
    """Locks the rows that exist, in the order of (key, run), and writes those that become newer.

    A row that another writer inserts meanwhile makes the transaction fail, and the caller repeats it.
    """

    def run(self, connection: sa.Connection, rows: LatestRows) -> None:
        """See ``Upsert.run``."""
        runs = sorted(set(rows.runs))
        known: set[str] = set()
        for at in range(0, len(runs), _CHUNK):
            query = sa.select(_RUNS.c.run_uuid).where(_RUNS.c.run_uuid.in_(runs[at : at + _CHUNK]))
            known.update(connection.scalars(query))
        new = [
            {"key": key, "value": value, "timestamp": timestamp, "step": step, "is_nan": nan, "run_uuid": run}
            for key, value, timestamp, step, nan, run in zip(
                rows.keys, rows.values, rows.timestamps, rows.steps, rows.is_nan, rows.runs, strict=True
            )
            if run in known
        ]
        for at in range(0, len(new), _CHUNK):
            self._write(connection, new[at : at + _CHUNK])

    @staticmethod
    def _write(connection: sa.Connection, new: list[dict[str, object]]) -> None:
        identity = sa.tuple_(_LATEST.c.key, _LATEST.c.run_uuid)
        stored = {
            (row.key, row.run_uuid): (row.step, row.timestamp, row.value)
            for row in connection.execute(
                sa.select(_LATEST)
                .where(identity.in_([(row["key"], row["run_uuid"]) for row in new]))
                .order_by(_LATEST.c.key, _LATEST.c.run_uuid)
                .with_for_update()
            )
        }
        inserts = [row for row in new if (row["key"], row["run_uuid"]) not in stored]
        updates = [
            row | {"b_key": row["key"], "b_run_uuid": row["run_uuid"]}
            for row in new
            if (row["key"], row["run_uuid"]) in stored
            and (row["step"], row["timestamp"], row["value"]) > stored[row["key"], row["run_uuid"]]
        ]
        if inserts:
            connection.execute(_LATEST.insert(), inserts)
        if updates:
            connection.execute(
                _LATEST.update()
                .where(
                    _LATEST.c.key == sa.bindparam("b_key"), _LATEST.c.run_uuid == sa.bindparam("b_run_uuid")
                )
                .values({name: sa.bindparam(name) for name in ("value", "timestamp", "step", "is_nan")}),
                updates,
            )
