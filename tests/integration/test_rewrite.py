"""Points whose part is damaged beyond repair are written again from the log."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from runstream.clickhouse.embedded import EmbeddedDatabase
from runstream.clickhouse.part_guard import PartGuard
from runstream.ingest.queue.local.files import stream_dir
from runstream.ingest.queue.local.segment import SegmentWriter
from runstream.roles.rewrite import rewrite
from runstream.schemas.record import RecordBuilder
from support.clickhouse_engine import shared_database


@pytest.fixture
def database() -> EmbeddedDatabase:
    return shared_database()


def test_a_lost_part_comes_back_from_the_log(tmp_path: Path, database: EmbeddedDatabase) -> None:
    run = uuid.uuid4().hex
    directory = stream_dir(tmp_path, 0)
    directory.mkdir()
    writer = SegmentWriter(directory, segment_bytes=300)
    for step in range(50):
        builder = RecordBuilder(0)
        builder.add(run, ["a", "b"], [step, step], [step, step], [float(step), -float(step)])
        writer.append([builder.build()])
    writer.append([b"no record"])
    writer.close()
    assert rewrite(tmp_path, database) == 100
    assert rewrite(tmp_path, database) == 100

    def parts() -> list[Path]:
        sql = "SELECT path FROM system.parts WHERE table = 'metrics' AND active AND database = currentDatabase()"
        return [Path(path) for path in database.arrow(sql)["path"].to_pylist()]

    def points() -> int:
        for cache in ("MARK CACHE", "UNCOMPRESSED CACHE", "PRIMARY INDEX CACHE"):
            database.execute(f"SYSTEM DROP {cache}")
        sql = "SELECT uniqExact(key, step) AS n FROM metrics WHERE run_id = {run:String}"
        return int(database.arrow(sql, {"run": run})["n"][0].as_py())

    assert points() == 100
    written: list[int] = []

    def write_again() -> int:
        written.append(rewrite(tmp_path, database))
        return written[-1]

    guard = PartGuard(database, ["metrics"], rewrite=write_again)
    assert guard.check("metrics") == []
    for part in parts():
        for file in part.iterdir():
            os.truncate(file, 0)
    again = PartGuard(database, ["metrics"], rewrite=write_again)
    damaged = {part.name for part in parts()}
    assert set(again.check("metrics")) == damaged
    assert points() == 100
    assert set(written) == {100}
