"""What only one kind of ClickHouse has: hosts, logins, TLS and crashes of a server; the folder of chDB."""

from __future__ import annotations

import datetime
import ipaddress
import itertools
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from runstream.clickhouse import connect, create_database
from runstream.clickhouse.migrate import migrate, status
from runstream.ingest.writer.blocks import native_block
from runstream.schemas import migrations
from runstream.schemas.errors import ConfigError
from runstream.schemas.migrations import METRICS_COLUMNS, MIGRATIONS_TABLE, Flavour
from runstream.schemas.ports.database import Database, DatabaseError
from support.chdb_http import ChdbServer, Fault, chdb_server
from support.points import columns

_numbers = itertools.count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChdbServer]:
    with chdb_server(tmp_path_factory.mktemp("chdb") / "data") as server:
        yield server


@pytest.fixture
def database(server: ChdbServer) -> Iterator[Database]:
    """A database of its own for each test."""
    url = server.url.replace("/runstream", f"/test_{next(_numbers)}")
    create_database(url)
    database = connect(url)
    yield database
    server.faults()
    database.close()


def count(database: Database, table: str = "metrics") -> int:
    return int(database.arrow(f"SELECT count() AS n FROM {table}")["n"][0].as_py())


# Migrations


def test_migrate_applies_once_and_records_it(database: Database) -> None:
    assert [entry.applied for entry in status(database)] == [False] * len(migrations.load())
    assert migrate(database, Flavour(), dry_run=True) == migrations.load()
    assert [entry.applied for entry in status(database)] == [False] * len(migrations.load())
    assert migrate(database, Flavour()) == migrations.load()
    assert [entry.applied for entry in status(database)] == [True] * len(migrations.load())
    assert migrate(database, Flavour()) == []
    database.insert_native("metrics", METRICS_COLUMNS, native_block(columns([("r", "k", 1, 2, 3.0)])))
    assert count(database) == 1


def test_migration_that_failed_half_way_is_repeated(server: ChdbServer, database: Database) -> None:
    server.faults(Fault("refuse", match=f"INSERT INTO {MIGRATIONS_TABLE}", code=241))
    with pytest.raises(DatabaseError):
        migrate(database, Flavour())
    assert migrate(database, Flavour()) == migrations.load()
    assert migrate(database, Flavour()) == []


def test_another_content_under_the_same_number_is_refused(database: Database) -> None:
    migrate(database, Flavour())
    database.execute(
        f"INSERT INTO {MIGRATIONS_TABLE} (number, name, checksum) VALUES (1, 'metrics', 'other')"
    )
    with pytest.raises(ConfigError, match="another content"):
        migrate(database, Flavour())


def test_newer_database_is_refused(database: Database) -> None:
    migrate(database, Flavour())
    database.execute(f"INSERT INTO {MIGRATIONS_TABLE} (number, name, checksum) VALUES (99, 'new', 'x')")
    with pytest.raises(ConfigError, match="upgrade Runstream"):
        status(database)


def test_replayed_points_become_one(database: Database) -> None:
    migrate(database, Flavour())
    block = native_block(columns([("r", "k", 1, 2, 3.0), ("r", "k", 1, 2, 3.5)]))
    for _ in range(3):
        database.insert_native("metrics", METRICS_COLUMNS, block, deduplication_token="same")
    assert count(database, "metrics FINAL") == 2
    database.execute("OPTIMIZE TABLE metrics FINAL")
    assert count(database) == 2


def test_cluster_statements_are_valid_sql(database: Database) -> None:
    flavour = Flavour("my_cluster")
    for migration in migrations.load():
        for statement in migration.statements(flavour):
            assert "ON CLUSTER 'my_cluster'" in statement
            database.execute(f"EXPLAIN AST {statement}")
    text = "\n".join(migrations.load()[0].statements(flavour))
    assert "ReplicatedReplacingMergeTree" in text
    assert "Distributed('my_cluster', currentDatabase(), metrics_local, cityHash64(run_id))" in text


# A server


def test_login_is_checked_and_never_shown(tmp_path: Path) -> None:
    with chdb_server(tmp_path / "data", user="me", password="s3cret") as server:
        create_database(server.url)
        right = connect(server.url)
        assert right.ping()
        wrong = connect(server.url.replace("s3cret", "0ther"))
        with pytest.raises(DatabaseError) as raised:
            wrong.arrow("SELECT 1")
        assert raised.value.code == 516
        assert not raised.value.retryable
        assert "0ther" not in str(raised.value)
        assert wrong.ping() is False
        right.close()
        wrong.close()


def test_server_that_is_away_may_come_later(tmp_path: Path) -> None:
    server = ChdbServer(tmp_path / "data")
    server.start()
    server.stop()
    database = connect(server.url)
    assert database.ping() is False
    with pytest.raises(DatabaseError) as raised:
        database.arrow("SELECT 1")
    assert raised.value.retryable
    server.start()
    try:
        create_database(server.url)
        assert database.arrow("SELECT 1 AS one").to_pydict() == {"one": [1]}
    finally:
        database.close()
        server.stop()


def test_next_host_takes_over(tmp_path: Path) -> None:
    with chdb_server(tmp_path / "one") as one, chdb_server(tmp_path / "two") as two:
        for server in (one, two):
            create_database(server.url)
        both = f"http://127.0.0.1:{one.port},127.0.0.1:{two.port}/runstream"
        database = connect(both)
        assert database.ping()
        before = len(two.statements())
        assert database.arrow("SELECT 1 AS one").num_rows == 1
        assert len(two.statements()) == before, "one host at a time"
        one.kill()
        assert database.arrow("SELECT 1 AS one").num_rows == 1
        two.kill()
        one.start()
        assert database.arrow("SELECT 1 AS one").num_rows == 1
        database.close()


def test_settings_and_insert_settings_reach_the_server(server: ChdbServer, database: Database) -> None:
    migrate(database, Flavour())
    tuned = connect(
        f"{server.url.replace('/runstream', '/default')}?max_threads=1&max_memory_usage=500000000"
    )
    found = tuned.arrow("SELECT getSetting('max_threads')::String AS a, getSetting('max_memory_usage') AS b")
    assert found.to_pylist() == [{"a": "1", "b": 500_000_000}]
    tuned.close()
    database.insert_native(
        "metrics", METRICS_COLUMNS, native_block(columns([("r", "k", 1, 2, 3.0)])), deduplication_token="t/1"
    )
    insert = next(entry for entry in reversed(server.statements()) if "INSERT" in entry["sql"])
    assert insert["query"]["insert_deduplication_token"] == "t/1"
    assert insert["query"]["distributed_foreground_insert"] == "1"
    assert insert["query"]["async_insert"] == "0"


@pytest.mark.parametrize(
    ("code", "retryable"),
    [(252, True), (241, True), (243, True), (202, True), (210, True), (159, True), (999, True), (242, True),
     (60, False), (516, False), (497, False), (117, False)],
)  # fmt: skip
def test_error_classes(server: ChdbServer, database: Database, code: int, retryable: bool) -> None:
    server.faults(Fault("refuse", match="classes", code=code))
    with pytest.raises(DatabaseError) as raised:
        database.arrow("SELECT 'classes'")
    assert (raised.value.code, raised.value.retryable) == (code, retryable)


@pytest.mark.parametrize("fault", [Fault("drop", times=9), Fault("cut", times=9)], ids=["dropped", "cut"])
def test_broken_answers_are_retryable(server: ChdbServer, database: Database, fault: Fault) -> None:
    server.faults(fault)
    with pytest.raises(DatabaseError) as raised:
        database.arrow("SELECT * FROM numbers(100000)")
    assert raised.value.retryable
    assert raised.value.code is None
    server.faults()
    assert database.ping()


def test_cut_stream_is_an_error(server: ChdbServer, database: Database) -> None:
    server.faults(Fault("cut", match="numbers", times=9))

    def read() -> int:
        with database.arrow_stream("SELECT * FROM numbers(300000)") as batches:
            return sum(batch.num_rows for batch in batches)

    with pytest.raises(DatabaseError) as raised:
        read()
    assert raised.value.retryable


def test_slow_server_times_out(server: ChdbServer, database: Database) -> None:
    impatient = connect(f"{server.url.replace('/runstream', '/default')}?timeout=1")
    assert impatient.ping()
    server.faults(Fault(match="slow", delay_s=20, times=9))
    with pytest.raises(DatabaseError) as raised:
        impatient.arrow("SELECT 'slow'")
    assert raised.value.retryable
    impatient.close()


def test_killed_in_mid_insert_is_all_or_nothing(tmp_path: Path) -> None:
    """kill -9 of the engine while it inserts: a block is there whole or not at all, and repeating it is safe."""
    server = ChdbServer(tmp_path / "data")
    server.start()
    create_database(server.url)
    database = connect(server.url)
    migrate(database, Flavour())
    rng = random.Random(1)
    try:
        for round_number in range(2):
            rows = 60_000
            points = columns((f"r{round_number}", f"k{step % 7}", step, step, 0.5) for step in range(rows))
            block = native_block(points)
            when: Literal["during", "after"] = rng.choice(["during", "after"])
            server.faults(Fault("die", match="INSERT INTO metrics", when=when))
            with pytest.raises(DatabaseError) as raised:
                database.insert_native("metrics", METRICS_COLUMNS, block, deduplication_token="x")
            assert raised.value.retryable
            server.wait_dead()
            server.start()
            query = f"SELECT count() AS n FROM metrics FINAL WHERE run_id = 'r{round_number}'"
            assert database.arrow(query)["n"][0].as_py() in (0, rows)
            database.insert_native("metrics", METRICS_COLUMNS, block, deduplication_token="x")
            assert database.arrow(query)["n"][0].as_py() == rows
    finally:
        database.close()
        server.kill()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 that signs itself, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(built.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return folder / "cert.pem", folder / "key.pem"


def test_tls(tmp_path: Path, certificate: tuple[Path, Path]) -> None:
    path, key = certificate
    with chdb_server(tmp_path / "data", certificate=path, key=key, user="me", password="pw") as server:
        create_database(f"{server.url}?ca_cert={path}")
        trusting = connect(f"{server.url}?ca_cert={path}")
        assert trusting.arrow("SELECT 1 AS one").num_rows == 1
        careless = connect(f"{server.url}?verify=false")
        with pytest.warns(Warning, match="Unverified HTTPS"):
            assert careless.ping()
        strict = connect(server.url)
        with pytest.raises(DatabaseError, match=r"(?i)certificate"):
            strict.arrow("SELECT 1")
        for database in (trusting, careless, strict):
            database.close()


# chDB's folder


def run_connect(path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        "import sys\nfrom runstream.clickhouse import connect\nfrom runstream.schemas.errors import ConfigError\n"
        "try:\n    connect('chdb://' + sys.argv[1]).close()\nexcept ConfigError as error:\n    sys.exit(str(error))"
    )
    return subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60)


def test_folder_in_use(tmp_path: Path) -> None:
    hold = (
        "import sys\nfrom runstream.clickhouse import connect\n"
        "database = connect('chdb://' + sys.argv[1])\nprint('open', flush=True)\nsys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", hold, str(tmp_path / "data")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        refused = run_connect(tmp_path / "data")
        holder.kill()
    assert refused.returncode == 1
    assert refused.stderr.strip().endswith("is in use by another process")
    assert refused.stderr.count("\n") == 1
    assert run_connect(tmp_path / "data").returncode == 0, "free again once its holder was killed"


def test_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused = run_connect(tmp_path / "file" / "data")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "cannot be used" in refused.stderr
