"""The database protocol, on chDB in this process and on the production HTTP client with the same engine."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from runstream.clickhouse import connect, create_database
from runstream.ingest.writer.blocks import native_block
from runstream.schemas.migrations import METRICS_COLUMNS
from runstream.schemas.ports.database import Database, DatabaseError
from support.chdb_http import chdb_server
from support.clickhouse_engine import shared_database
from support.points import columns

_numbers = itertools.count()


@pytest.fixture(scope="module", params=["embedded", "http"])
def database(request: pytest.FixtureRequest) -> Iterator[Database]:
    if request.param == "embedded":
        yield shared_database()
        return
    database = connect(request.getfixturevalue("http_url"))
    yield database
    database.close()


@pytest.fixture(scope="module")
def http_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with chdb_server(tmp_path_factory.mktemp("chdb") / "data", user="writer", password="s3cret") as server:
        create_database(server.url)
        yield server.url


@pytest.fixture
def table(database: Database) -> Iterator[str]:
    name = f"contract_{next(_numbers)}"
    database.execute(
        f"CREATE TABLE {name} (run_id LowCardinality(String), key LowCardinality(String), step Int64,"
        " timestamp Int64, value Float64, CONSTRAINT small CHECK step < 1000000)"
        " ENGINE = ReplacingMergeTree ORDER BY (run_id, key, step, timestamp, value)"
    )
    yield name
    database.execute(f"DROP TABLE {name} SYNC")


def test_ping(database: Database) -> None:
    assert database.ping() is True


def test_arrow_types_and_values(database: Database) -> None:
    table = database.arrow(
        "SELECT 'é' AS text, toLowCardinality('b') AS low, toInt64(-9223372036854775808) AS least,"
        " nan AS nan, inf AS inf, -0.0 AS zero, CAST(NULL AS Nullable(Int64)) AS nothing, [1, 2] AS list"
    )
    assert table.schema.field("text").type == pa.string()
    assert table.schema.field("low").type == pa.string()
    assert table.schema.field("least").type == pa.int64()
    row = table.to_pylist()[0]
    assert (row["text"], row["low"], row["least"], row["nothing"]) == ("é", "b", -(2**63), None)
    assert math.isnan(row["nan"])
    assert row["inf"] == math.inf
    assert math.copysign(1, row["zero"]) == -1
    assert row["list"] == [1, 2]


def test_empty_result_keeps_its_columns(database: Database) -> None:
    table = database.arrow("SELECT number, toString(number) AS text FROM numbers(0)")
    assert table.num_rows == 0
    assert table.column_names == ["number", "text"]


@pytest.mark.parametrize("text", ["", "it's", "a\\b", "tab\tline\n", "{x:String}", "%s", "é'\"`;--", "\\'"])
def test_parameters_are_bound_not_spliced(database: Database, text: str) -> None:
    found = database.arrow(
        "SELECT {text:String} AS text, {texts:Array(String)} AS texts, {number:Int64} AS number,"
        " {real:Float64} AS real",
        {"text": text, "texts": [text, "other"], "number": -(2**63), "real": 0.1},
    )
    assert found.to_pylist() == [{"text": text, "texts": [text, "other"], "number": -(2**63), "real": 0.1}]


def test_settings_hold_for_one_call(database: Database) -> None:
    query = "SELECT toInt64(getSetting('max_block_size')) AS value"
    before = database.arrow(query).to_pydict()
    assert database.arrow(query, settings={"max_block_size": 1234}).to_pydict() == {"value": [1234]}
    assert database.arrow(query).to_pydict() == before
    database.execute("SELECT 1", settings={"max_block_size": 4321})
    assert database.arrow(query).to_pydict() == before


def test_stream_yields_everything_in_batches(database: Database) -> None:
    query = "SELECT number, toString(number) AS text FROM numbers({n:UInt64}) ORDER BY number"
    with database.arrow_stream(query, {"n": 300_000}, {"max_block_size": 50_000}) as batches:
        sizes = []
        following = 0
        for batch in batches:
            assert batch.schema.field("text").type == pa.string()
            assert batch.column(0)[0].as_py() == following
            following += batch.num_rows
            sizes.append(batch.num_rows)
    assert following == 300_000
    assert max(sizes) < 100_000


def test_stream_may_be_left_early(database: Database) -> None:
    for _ in range(20):
        with database.arrow_stream("SELECT number FROM numbers(1000000)") as batches:
            assert next(batches).num_rows > 0
    assert database.arrow("SELECT 1 AS one").to_pydict() == {"one": [1]}


def test_other_calls_go_on_beside_a_stream(database: Database) -> None:
    with database.arrow_stream("SELECT number FROM numbers(500000)") as batches:
        first = next(batches).num_rows
        assert database.arrow("SELECT 7 AS seven").to_pydict() == {"seven": [7]}
        assert first + sum(batch.num_rows for batch in batches) == 500_000


def test_error_inside_a_stream_is_raised(database: Database) -> None:
    def read() -> None:
        query = "SELECT throwIf(number = 400000) FROM numbers(500000)"
        with database.arrow_stream(query, settings={"max_block_size": 10_000}) as batches:
            for _ in batches:
                pass

    with pytest.raises(DatabaseError):
        read()
    assert database.ping()


@pytest.mark.parametrize(
    ("sql", "code"),
    [
        ("SELECT FROM WHERE", 62),
        ("SELECT nothing_such", 47),
        ("SELECT * FROM nothing_such", 60),
        ("SELECT * FROM nothing_such.table", 81),
        ("SELECT throwIf(1)", 395),
    ],
)
def test_errors_carry_clickhouses_code(database: Database, sql: str, code: int) -> None:
    with pytest.raises(DatabaseError) as raised:
        database.arrow(sql)
    assert raised.value.code == code
    assert raised.value.retryable is False
    assert "\n" not in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_memory_limit_is_retryable(database: Database) -> None:
    with pytest.raises(DatabaseError) as raised:
        database.arrow(
            "SELECT groupArray(number) FROM numbers(10000000)", settings={"max_memory_usage": 10_000_000}
        )
    assert raised.value.code == 241
    assert raised.value.retryable is True


def test_timeout_is_retryable(database: Database) -> None:
    with pytest.raises(DatabaseError) as raised:
        database.arrow(
            "SELECT sum(sleepEachRow(0.05)) FROM numbers(1000)",
            settings={"max_execution_time": 1, "max_block_size": 1},
        )
    assert raised.value.code == 159
    assert raised.value.retryable is True


def test_insert_and_read_back(database: Database, table: str) -> None:
    points = [("run", "key", step, 5, value) for step, value in enumerate([1.5, math.inf, -math.inf, -0.0])]
    database.insert_native(table, METRICS_COLUMNS, native_block(columns(points)))
    found = database.arrow(f"SELECT * FROM {table} ORDER BY step").to_pylist()
    assert [tuple(row.values()) for row in found] == points


@pytest.mark.parametrize("compression", ["none", "gzip", "zstd", "lz4"])
def test_compressions_of_http(http_url: str, compression: str) -> None:
    database = connect(f"{http_url}?compression={compression}")
    database.execute(
        "CREATE OR REPLACE TABLE packed (run_id String, key String, step Int64, timestamp Int64,"
        " value Float64) ENGINE = MergeTree ORDER BY step"
    )
    points = [("run", "key", step, 5, step / 3) for step in range(20_000)]
    database.insert_native("packed", METRICS_COLUMNS, native_block(columns(points)))
    found = database.arrow("SELECT * FROM packed ORDER BY step").to_pydict()
    assert list(zip(*found.values(), strict=True)) == points
    with database.arrow_stream("SELECT value FROM packed") as batches:
        assert sum(batch.num_rows for batch in batches) == 20_000
    database.close()


def test_columns_may_come_in_any_order_of_the_table(database: Database) -> None:
    database.execute("DROP TABLE IF EXISTS turned")
    database.execute(
        "CREATE TABLE turned (value Float64, extra String DEFAULT 'x', timestamp Int64, step Int64,"
        " key String, run_id String) ENGINE = MergeTree ORDER BY tuple()"
    )
    database.insert_native("turned", METRICS_COLUMNS, native_block(columns([("r", "k", 1, 2, 3.0)])))
    found = database.arrow("SELECT run_id, key, step, timestamp, value, extra FROM turned").to_pylist()
    assert [tuple(row.values()) for row in found] == [("r", "k", 1, 2, 3.0, "x")]
    database.execute("DROP TABLE turned")


def test_block_without_rows_is_accepted(database: Database, table: str) -> None:
    database.insert_native(table, METRICS_COLUMNS, native_block(columns([])))
    assert database.arrow(f"SELECT count() AS n FROM {table}").to_pydict() == {"n": [0]}


def test_insert_is_all_or_nothing(database: Database, table: str) -> None:
    good = native_block(columns([("r", "k", step, 0, 0.5) for step in range(5000)]))
    with pytest.raises(DatabaseError) as torn:
        database.insert_native(table, METRICS_COLUMNS, good[: len(good) // 2])
    assert torn.value.retryable is False
    bad = native_block(columns([("r", "k", 1, 0, 0.5), ("r", "k", 2_000_000, 0, 0.5)]))
    with pytest.raises(DatabaseError) as refused:
        database.insert_native(table, METRICS_COLUMNS, bad)
    assert (refused.value.code, refused.value.retryable) == (469, False)
    assert database.arrow(f"SELECT count() AS n FROM {table}").to_pydict() == {"n": [0]}


def test_insert_into_a_table_that_is_missing(database: Database) -> None:
    with pytest.raises(DatabaseError) as raised:
        database.insert_native("nothing_such", METRICS_COLUMNS, native_block(columns([])))
    assert raised.value.code == 60


def test_token_makes_a_repeated_insert_nothing(database: Database) -> None:
    database.execute("DROP TABLE IF EXISTS tokens SYNC")
    database.execute(
        "CREATE TABLE tokens (run_id LowCardinality(String), key LowCardinality(String), step Int64,"
        " timestamp Int64, value Float64) ENGINE = MergeTree ORDER BY step"
        " SETTINGS non_replicated_deduplication_window = 100"
    )
    block = native_block(columns([("r", "k", 1, 0, 0.5)]))
    for token in ("a:1-2", "a:1-2", "a:3-4"):
        database.insert_native("tokens", METRICS_COLUMNS, block, deduplication_token=token)
    assert database.arrow("SELECT count() AS n FROM tokens").to_pydict() == {"n": [2]}
    database.execute("DROP TABLE tokens SYNC")


def test_many_threads(database: Database, table: str) -> None:
    start = threading.Barrier(12)

    def work(number: int) -> int:
        start.wait()
        for step in range(5):
            database.insert_native(
                table, METRICS_COLUMNS, native_block(columns([(f"run{number}", "k", step, 0, 0.5)]))
            )
        found = database.arrow(
            f"SELECT count() AS n FROM {table} WHERE run_id = {{run:String}}", {"run": f"run{number}"}
        )
        return int(found["n"][0].as_py())

    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(work, range(12))) == [5] * 12
