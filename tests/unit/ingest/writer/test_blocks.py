"""Blocks: what the writer encodes, the engine reads back bit for bit."""

from __future__ import annotations

import math
import struct

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstream.ingest.writer.blocks import merge, native_block
from runstream.schemas.migrations import METRICS_COLUMNS
from runstream.schemas.ports.database import Database
from support.clickhouse_engine import shared_database
from support.points import Row, as_rows, columns, exact, rows

_TABLE = "blocks_test"
_ENGINE_CHECK = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(scope="module")
def database() -> Database:
    database = shared_database()
    database.execute(f"DROP TABLE IF EXISTS {_TABLE}")
    database.execute(
        f"CREATE TABLE {_TABLE} (run_id LowCardinality(String), key LowCardinality(String), step Int64,"
        " timestamp Int64, value Float64) ENGINE = MergeTree ORDER BY tuple()"
    )
    return database


def read(database: Database) -> list[Row]:
    table = database.arrow(f"SELECT * FROM {_TABLE}").to_pydict()
    return list(zip(*(table[name] for name in METRICS_COLUMNS), strict=True))


@_ENGINE_CHECK
@given(points=rows(keys=st.text(st.characters(exclude_categories=["Cs"]), max_size=300)))
def test_engine_reads_what_was_encoded(database: Database, points: list[Row]) -> None:
    database.execute(f"TRUNCATE TABLE {_TABLE}")
    database.insert_native(_TABLE, METRICS_COLUMNS, native_block(columns(points)))
    assert sorted(map(exact, read(database))) == sorted(map(exact, points))


@pytest.mark.parametrize("names", [1, 256, 257, 65_536, 65_537])
def test_every_width_of_codes(database: Database, names: int) -> None:
    points = columns([("run", "key", 0, 0, 0.0)])
    codes = np.arange(names, dtype=np.uint32)
    wide = type(points)(
        runs=["run"],
        keys=[f"key{code}" for code in range(names)],
        run_codes=np.zeros(names, np.uint32),
        key_codes=codes[::-1].copy(),
        steps=codes.astype(np.int64),
        timestamps=codes.astype(np.int64),
        values=codes.astype(np.float64),
        created_at_ms=1,
    )
    database.execute(f"TRUNCATE TABLE {_TABLE}")
    database.insert_native(_TABLE, METRICS_COLUMNS, native_block(wide))
    wrong = database.arrow(
        f"SELECT count() AS rows, countIf(key != concat('key', toString({{last:Int64}} - step))) AS wrong"
        f" FROM {_TABLE}",
        {"last": names - 1},
    ).to_pydict()
    assert wrong == {"rows": [names], "wrong": [0]}


def test_block_of_a_million_rows_is_one_part(database: Database) -> None:
    count = 1_200_000
    numbers = np.arange(count, dtype=np.int64)
    codes = np.zeros(count, np.uint32)
    points = type(columns([]))(["r"], ["k"], codes, codes, numbers, numbers, numbers.astype(np.float64), 1)
    database.execute(f"TRUNCATE TABLE {_TABLE}")
    database.insert_native(_TABLE, METRICS_COLUMNS, native_block(points))
    found = database.arrow(
        "SELECT count() AS parts, sum(rows) AS rows FROM system.parts"
        f" WHERE active AND database = currentDatabase() AND table = '{_TABLE}'"
    )
    assert found.to_pydict() == {"parts": [1], "rows": [count]}


@given(st.lists(rows(max_size=8), min_size=1, max_size=5))
def test_merge_keeps_every_point_in_order(parts: list[list[Row]]) -> None:
    merged = merge([columns(part, created_at_ms=number) for number, part in enumerate(parts, 3)])
    assert list(map(exact, as_rows(merged))) == [exact(row) for part in parts for row in part]
    assert merged.created_at_ms == 3
    assert len(set(merged.keys)) == len(merged.keys)


def test_nan_payloads_survive(database: Database) -> None:
    odd = struct.unpack("<d", struct.pack("<Q", 0x7FF8_0000_0000_0123))[0]
    assert math.isnan(odd)
    database.execute(f"TRUNCATE TABLE {_TABLE}")
    database.insert_native(_TABLE, METRICS_COLUMNS, native_block(columns([("r", "k", 1, 2, odd)])))
    bits = database.arrow(f"SELECT reinterpretAsUInt64(value) AS bits FROM {_TABLE}").to_pydict()
    assert bits == {"bits": [0x7FF8_0000_0000_0123]}
