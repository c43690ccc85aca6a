"""Creates or upgrades what the roles need outside themselves: topics, tables, MLflow's database."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from runstream.clickhouse import connect, create_database, parse_url
from runstream.clickhouse.migrate import MigrationStatus, migrate, status
from runstream.roles.queues import is_local, kafka_settings
from runstream.roles.tracking import metadata_revisions_at, prepare_metadata
from runstream.schemas.errors import ConfigError
from runstream.schemas.migrations import Flavour, load
from runstream.schemas.ports.database import DatabaseError
from runstream.settings import StorageSettings


def prepare(settings: StorageSettings, *, dry_run: bool) -> Iterator[str]:
    """Do what is missing, or only say it with ``dry_run``; a line for each thing. Blocks.

    Raises ``ConfigError`` when something is there and is not what the settings say.
    """
    for line in _topics(settings, dry_run=dry_run):
        yield f"kafka: {line}"
    flavour = Flavour(cluster=settings.clickhouse_cluster) if settings.clickhouse_cluster else Flavour()
    if dry_run:
        missing = [entry.migration for entry in _applied(settings) if not entry.applied]
    else:
        url = settings.clickhouse.get_secret_value()
        try:
            create_database(url, flavour.on_cluster)
            with closing(connect(url)) as database:
                missing = migrate(database, flavour)
        except DatabaseError as error:
            raise ConfigError(f"ClickHouse: {error}") from error
    for entry in missing:
        yield f"clickhouse: {'would apply' if dry_run else 'applied'} {entry.number:04d} {entry.name}"
    if not missing:
        yield "clickhouse: every migration is applied"
    metadata = settings.metadata.get_secret_value()
    if dry_run:
        present, wanted = metadata_revisions_at(metadata)
        if present == wanted:
            yield "metadata: MLflow's tables are at this MLflow's version"
        else:
            yield f"metadata: would bring MLflow's tables from {present or 'nothing'} to {wanted}"
        return
    prepare_metadata(metadata)
    yield "metadata: MLflow's tables are at this MLflow's version"


def report(settings: StorageSettings) -> Iterator[str]:
    """What is there: a line for each topic, migration and database. Blocks, and changes nothing."""
    for line in _topics(settings, dry_run=True):
        yield f"kafka: {line.partition(';')[0]}"
    for entry in _applied(settings):
        state = "applied" if entry.applied else "missing"
        yield f"clickhouse: {entry.migration.number:04d} {entry.migration.name}: {state}"
    present, wanted = metadata_revisions_at(settings.metadata.get_secret_value())
    if present is None:
        yield "metadata: MLflow's tables are missing"
    elif present == wanted:
        yield f"metadata: MLflow's tables are at {present}, as this MLflow wants"
    else:
        yield f"metadata: MLflow's tables are at {present}, this MLflow wants {wanted}"


def _topics(settings: StorageSettings, *, dry_run: bool) -> list[str]:
    """What ``ensure_topics`` says; nothing where the queue is no Kafka."""
    if is_local(settings):
        return []
    from runstream.ingest.queue.kafka import ensure_topics

    return asyncio.run(ensure_topics(kafka_settings(settings), dry_run=dry_run))


def _applied(settings: StorageSettings) -> list[MigrationStatus]:
    """ClickHouse's migrations; asks, and makes nothing. Raises ``ConfigError``."""
    url = settings.clickhouse.get_secret_value()
    folder = parse_url(url).path
    if folder is not None and not Path(folder).exists():
        return [MigrationStatus(migration, applied=False) for migration in load()]
    try:
        with closing(connect(url)) as database:
            return status(database)
    except DatabaseError as error:
        raise ConfigError(f"ClickHouse: {error}") from error
