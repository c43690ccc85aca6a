"""Creates or upgrades what the roles need outside themselves: topics, tables, MLflow's database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from runstream.clickhouse import connect, create_database
from runstream.migrate import migrate, status
from runstream.queues import is_local, kafka_settings
from runstream.settings import StorageSettings
from schemas.database import DatabaseError
from schemas.errors import ConfigError
from schemas.migrations import Flavour


def prepare(settings: StorageSettings, *, dry_run: bool) -> Iterator[str]:
    """Do what is missing, or only say it with ``dry_run``; a line for each thing. Blocks.

    Raises ``ConfigError`` when something is there and is not what the settings say.
    """
    if not is_local(settings):
        from ingest.queue.kafka import ensure_topics

        for line in asyncio.run(ensure_topics(kafka_settings(settings), dry_run=dry_run)):
            yield f"kafka: {line}"
    flavour = Flavour(cluster=settings.clickhouse_cluster) if settings.clickhouse_cluster else Flavour()
    url = settings.clickhouse.get_secret_value()
    try:
        if not dry_run:
            create_database(url, flavour.on_cluster)
        database = connect(url)
        try:
            applied = migrate(database, flavour, dry_run=dry_run)
        finally:
            database.close()
    except DatabaseError as error:
        raise ConfigError(f"ClickHouse: {error}") from error
    for entry in applied:
        yield f"clickhouse: {'would apply' if dry_run else 'applied'} {entry.number:04d} {entry.name}"
    if not applied:
        yield "clickhouse: every migration is applied"
    yield from _metadata(settings, dry_run=dry_run)


def report(settings: StorageSettings) -> Iterator[str]:
    """What is there: a line for each migration. Blocks."""
    try:
        database = connect(settings.clickhouse.get_secret_value())
        try:
            entries = status(database)
        finally:
            database.close()
    except DatabaseError as error:
        raise ConfigError(f"ClickHouse: {error}") from error
    for entry in entries:
        state = "applied" if entry.applied else "missing"
        yield f"clickhouse: {entry.migration.number:04d} {entry.migration.name}: {state}"
    yield from prepare(settings, dry_run=True)


def _metadata(settings: StorageSettings, *, dry_run: bool) -> Iterator[str]:
    """MLflow's own tables, by MLflow's own migrations."""
    if dry_run:
        yield "metadata: would bring MLflow's tables to this MLflow's version, where they are not"
        return
    from runstream.tracking import prepare_metadata

    prepare_metadata(settings.metadata.get_secret_value())
    yield "metadata: MLflow's tables are at this MLflow's version"
