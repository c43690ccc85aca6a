"""The check-up of queue, ClickHouse and metadata database. What it writes does not stay."""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
import uuid
from pathlib import Path
from urllib.parse import urlsplit

from runstream.commands.doctor.steps import NotNow, Problem, Section, not_there_yet
from runstream.roles import queues
from runstream.roles.tracking import metadata_revisions, sqlite_file
from runstream.schemas.errors import ConfigError
from runstream.schemas.ports.database import Database
from runstream.settings import QueueSettings, StorageSettings

_LITTLE_SPACE_BYTES = 1 << 30


async def check_queue(settings: QueueSettings) -> Section:
    """The local log's folder, or Kafka's topics and an append."""
    if queues.is_local(settings):
        part = Section("queue", "check that the folder's disk is there and that this user may write to it")
        folder = Path(queues.local_path(settings.queue))
        await part.step(
            "write", lambda: asyncio.to_thread(_try_folder, folder), lambda free: f"{folder}; {free}"
        )
        return part
    part = Section(
        "queue", "check RUNSTREAM_QUEUE and the RUNSTREAM_KAFKA_* settings, and that the brokers are up"
    )
    await part.step("topics", lambda: _kafka_topics(settings), "; ".join)
    await part.step(
        "append", lambda: _kafka_append(settings), lambda _: "an empty record, acknowledged by all replicas"
    )
    return part


def _try_folder(folder: Path) -> str:
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    with tempfile.TemporaryFile(dir=existing) as probe:
        probe.write(b"runstream doctor")
        probe.flush()
        os.fsync(probe.fileno())
    free = shutil.disk_usage(existing).free
    if free < _LITTLE_SPACE_BYTES:
        raise Problem(f"{free >> 20} MiB are free at {existing}", "make room: a full disk refuses points")
    return f"{free >> 30} GiB free"


async def _kafka_topics(settings: QueueSettings) -> list[str]:
    from runstream.ingest.queue.kafka import ensure_topics

    lines = await ensure_topics(queues.kafka_settings(settings), dry_run=True)
    if missing := [line for line in lines if "is missing" in line]:
        raise Problem("; ".join(missing), "run `runstream migrate`")
    return lines


async def _kafka_append(settings: QueueSettings) -> None:
    from runstream.schemas.record import RecordBuilder

    producer = await queues.open_producer(settings)
    try:
        await producer.append(
            producer.route("runstream-doctor"), RecordBuilder(time.time_ns() // 1_000_000).build()
        )
    finally:
        await producer.close()


async def check_clickhouse(settings: StorageSettings) -> Section:
    """Whether ClickHouse answers, is migrated, and takes and gives rows."""
    from runstream.clickhouse import connect

    url = settings.clickhouse.get_secret_value()
    embedded = url.startswith("chdb:")
    part = Section(
        "clickhouse",
        "install runstream[embedded], or check the folder's rights"
        if embedded
        else "check address, user, password and database in RUNSTREAM_CLICKHOUSE, and that the server is up",
    )

    def opened() -> Database:
        try:
            return connect(url)
        except ConfigError as error:
            if embedded and "in use" in str(error):
                raise NotNow("a running server holds the folder, which is as it should be") from error
            raise

    if embedded and not Path(queues.local_path(url)).exists():
        await part.step("open", not_there_yet, str)
        return part
    database = await part.step("open", lambda: asyncio.to_thread(opened), lambda _: _without_password(url))
    if database is None:
        return part
    try:
        version = "SELECT version() AS version"
        await part.step(
            "ask",
            lambda: asyncio.to_thread(database.arrow, version),
            lambda found: f"ClickHouse {found['version'][0].as_py()}",
        )
        await part.step("migrations", lambda: asyncio.to_thread(_migrations, database), str)
        await part.step("write, read, drop", lambda: asyncio.to_thread(_probe_table, database), lambda _: "")
    finally:
        await asyncio.to_thread(database.close)
    return part


def _migrations(database: Database) -> str:
    from runstream.clickhouse.migrate import status

    entries = status(database)
    missing = [entry.migration.number for entry in entries if not entry.applied]
    if missing:
        raise Problem(
            f"{len(missing)} of {len(entries)} migrations are missing",
            "run `runstream migrate` (`runstream serve` does it when it starts)",
        )
    return f"all {len(entries)} applied"


def _probe_table(database: Database) -> None:
    name = f"runstream_doctor_{uuid.uuid4().hex}"
    try:
        database.execute(f"CREATE TABLE {name} (number UInt64) ENGINE = Memory")
        database.execute(f"INSERT INTO {name} SELECT number FROM numbers(10)")
        found = database.arrow(f"SELECT sum(number) AS total FROM {name}")["total"][0].as_py()
    finally:
        database.execute(f"DROP TABLE IF EXISTS {name}")
    if found != 45:
        raise Problem(f"10 rows were written, their sum came back as {found}", "check the server's log")


async def check_metadata(settings: StorageSettings) -> Section:
    """Whether MLflow's database is there, of the right version, and may be written."""
    import sqlalchemy

    url = settings.metadata.get_secret_value()
    part = Section(
        "metadata", "check RUNSTREAM_METADATA: address, user, password, database; and that the database is up"
    )
    file = sqlite_file(url)
    if file is not None and not file.exists():
        await part.step("open", not_there_yet, str)
        return part

    def opened() -> sqlalchemy.Engine:
        engine = sqlalchemy.create_engine(url)
        with engine.connect() as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
        return engine

    engine = await part.step(
        "open", lambda: asyncio.to_thread(opened), lambda one: one.url.render_as_string()
    )
    if engine is None:
        return part
    try:
        await part.step("tables", lambda: asyncio.to_thread(_mlflow_tables, engine), str)
        await part.step("write", lambda: asyncio.to_thread(_try_metadata, engine), lambda _: "rolled back")
    finally:
        engine.dispose()
    return part


def _mlflow_tables(engine: object) -> str:
    import sqlalchemy

    assert isinstance(engine, sqlalchemy.Engine)
    present, wanted = metadata_revisions(engine)
    if present is None:
        raise Problem(
            "MLflow's tables are missing", "run `runstream migrate` (`runstream serve` does it by itself)"
        )
    if present != wanted:
        raise Problem(
            f"MLflow's tables are at {present}, the installed MLflow wants {wanted}",
            "run `runstream migrate`; or install the MLflow that the tables are for",
        )
    return f"MLflow's, at {present}"


def _try_metadata(engine: object) -> None:
    import sqlalchemy

    assert isinstance(engine, sqlalchemy.Engine)
    with engine.connect() as connection, connection.begin() as transaction:
        # Changes no row, but needs every right that changing one does.
        connection.execute(sqlalchemy.text("UPDATE experiments SET name = name WHERE 1 = 0"))
        connection.execute(sqlalchemy.text("DELETE FROM latest_metrics WHERE 1 = 0"))
        transaction.rollback()


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
