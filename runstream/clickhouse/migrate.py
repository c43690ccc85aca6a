"""Applies the ClickHouse migrations and records them in the database itself."""

from __future__ import annotations

from dataclasses import dataclass

from runstream.schemas.errors import ConfigError
from runstream.schemas.migrations import MIGRATIONS_TABLE, Flavour, Migration, load
from runstream.schemas.ports.database import Database, DatabaseError

_UNKNOWN_TABLE = 60
_UNKNOWN_DATABASE = 81


@dataclass(frozen=True, slots=True)
class MigrationStatus:
    """A migration and whether this database has it."""

    migration: Migration
    applied: bool


def status(database: Database) -> list[MigrationStatus]:
    """What is applied and what is not; changes nothing.

    Raises ``ConfigError`` when the database holds a migration of another content or of a newer release, and
    ``DatabaseError`` when it cannot be asked.
    """
    migrations = load()
    recorded = _recorded(database)
    for migration in migrations:
        checksum = recorded.pop(migration.number, migration.checksum)
        if checksum != migration.checksum:
            raise ConfigError(
                f"migration {migration.number} ({migration.name}) was applied with another content: "
                "this database belongs to another build"
            )
    if recorded:
        raise ConfigError(
            f"the database has migration {max(recorded)}, which this release does not know: upgrade Runstream"
        )
    known = _recorded(database)
    return [MigrationStatus(migration, migration.number in known) for migration in migrations]


def migrate(database: Database, flavour: Flavour, *, dry_run: bool = False) -> list[Migration]:
    """Apply what is missing, in order, and return it; with ``dry_run`` only return it.

    Blocks. Running it twice, or twice at once, is harmless: every statement can be repeated. Raises as
    ``status``.
    """
    missing = [entry.migration for entry in status(database) if not entry.applied]
    if dry_run or not missing:
        return missing
    database.execute(_migrations_table(flavour))
    for migration in missing:
        for statement in migration.statements(flavour):
            database.execute(statement)
        database.execute(
            f"INSERT INTO {MIGRATIONS_TABLE} (number, name, checksum) "
            "SELECT {number:UInt32}, {name:String}, {checksum:String}",
            {"number": migration.number, "name": migration.name, "checksum": migration.checksum},
        )
    return missing


def _recorded(database: Database) -> dict[int, str]:
    try:
        rows = database.arrow(f"SELECT number, checksum FROM {MIGRATIONS_TABLE} FINAL").to_pydict()
    except DatabaseError as error:
        if error.code in (_UNKNOWN_TABLE, _UNKNOWN_DATABASE):
            return {}
        raise
    return dict(zip(rows["number"], rows["checksum"], strict=True))


def _migrations_table(flavour: Flavour) -> str:
    engine = "ReplacingMergeTree"
    if flavour.cluster is not None:
        # One replicated set over all shards, so that every server knows the same.
        engine = (
            "ReplicatedReplacingMergeTree('/clickhouse/tables/all/{database}/{table}', '{shard}_{replica}')"
        )
    return (
        f"CREATE TABLE IF NOT EXISTS {MIGRATIONS_TABLE} {flavour.on_cluster} "
        "(number UInt32, name String, checksum String, applied_at DateTime64(3) DEFAULT now64(3)) "
        f"ENGINE = {engine} ORDER BY number "
        "SETTINGS fsync_after_insert = 1, fsync_part_directory = 1"
    )
