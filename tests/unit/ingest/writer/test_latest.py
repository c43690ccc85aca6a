"""``latest_metrics``: whatever the order of arrival, the database holds MLflow's newest value."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import IntegrityError

from runstream.ingest.writer.latest import (
    LatestUnavailableError,
    LatestValues,
    open_latest,
)
from runstream.ingest.writer.newest import latest_rows, newest
from runstream.schemas.errors import ConfigError
from support.points import Row, columns, rows
from support.postgres import Postgres, postgres_server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Stored = dict[tuple[str, str], tuple[int, int, float, bool]]

_numbers = itertools.count()


class Place:
    """A metadata database with MLflow's tables, and what writes newest values to it."""

    def __init__(self, uri: str, folder: Path) -> None:
        # Imported late: MLflow's import warns of what SQLAlchemy deprecates.
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.uri = uri
        self.store = SqlAlchemyStore(uri, str(folder / "artifacts"))
        self.open = lambda: open_latest(uri)
        self.engine = sa.create_engine(uri)

    def run(self) -> str:
        """A new run."""
        number = next(_numbers)
        run = self.store.create_run("0", "user", 0, [], f"run {number}")
        return str(run.info.run_id)

    def stored(self, *runs: str) -> Stored:
        with self.engine.connect() as connection:
            found = connection.execute(
                sa.text("SELECT run_uuid, key, step, timestamp, value, is_nan FROM latest_metrics")
            )
            return {
                (run, key): (step, timestamp, value, bool(is_nan))
                for run, key, step, timestamp, value, is_nan in found
                if not runs or run in runs
            }

    def close(self) -> None:
        self.engine.dispose()
        self.store.engine.dispose()


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("latest")
    if request.param == "postgres":
        server: Postgres = request.getfixturevalue("postgres")
        uri = server.create_database(f"mlflow-{request.param}")
    else:
        uri = f"sqlite:///{folder}/mlflow.db"
    place = Place(uri, folder)
    yield place
    place.close()


def upsert(latest: LatestValues, points: list[Row]) -> None:
    latest.upsert(latest_rows(newest(columns(points))))


@pytest.fixture
def latest(place: Place) -> Iterator[LatestValues]:
    latest = place.open()
    yield latest
    latest.close()


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points=rows(max_size=25))
def test_same_as_mlflow_in_any_order(place: Place, latest: LatestValues, points: list[Row]) -> None:
    """Points in three flushes, shuffled, against MLflow's own store with the same points."""
    # MLflow refuses negative times.
    points = [(run, key, step, at & (2**63 - 1), value) for run, key, step, at, value in points]
    ours = {name: place.run() for name in ("r1", "r2", "r3")}
    theirs = {name: place.run() for name in ("r1", "r2", "r3")}
    for run in theirs:
        metrics = [
            Metric(key, value, timestamp, step) for name, key, step, timestamp, value in points if name == run
        ]
        if metrics:
            place.store._log_metrics(theirs[run], metrics)
    renamed: list[Row] = [(ours[row[0]], *row[1:]) for row in points]
    random.Random(1).shuffle(renamed)
    for part in (renamed[::2], renamed[1::2], renamed[:5]):
        upsert(latest, part)

    def comparable(runs: dict[str, str]) -> dict[tuple[str, str], tuple[int, int, float]]:
        names = {run: name for name, run in runs.items()}
        return {(names[run], key): row[:3] for (run, key), row in place.stored(*runs.values()).items()}

    assert comparable(ours) == comparable(theirs)


def test_nan_and_infinities(place: Place, latest: LatestValues) -> None:
    run = place.run()
    upsert(
        latest,
        [
            (run, "nan", 1, 1, float("nan")),
            (run, "inf", 1, 1, float("inf")),
            (run, "-inf", 1, 1, -float("inf")),
        ],
    )
    assert place.stored(run) == {
        (run, "nan"): (1, 1, 0.0, True),
        (run, "inf"): (1, 1, 1.7976931348623157e308, False),
        (run, "-inf"): (1, 1, -1.7976931348623157e308, False),
    }
    upsert(latest, [(run, "nan", 1, 1, -1.0), (run, "-inf", 1, 1, float("nan"))])
    assert place.stored(run)[run, "nan"] == (1, 1, 0.0, True), "NaN counts as 0, and -1 is less"
    assert place.stored(run)[run, "-inf"] == (1, 1, 0.0, True)
    got = place.store.get_run(run).data.metrics
    assert got["nan"] != got["nan"]


def test_runs_that_do_not_exist_are_skipped(place: Place, latest: LatestValues) -> None:
    run = place.run()
    upsert(latest, [("gone", "a", 1, 1, 1.0), (run, "a", 1, 1, 1.0), ("x" * 200, "a", 1, 1, 1.0)])
    assert place.stored(run) == {(run, "a"): (1, 1, 1.0, False)}
    assert ("gone", "a") not in place.stored()
    place.store._hard_delete_run(run)
    upsert(latest, [(run, "a", 2, 1, 1.0)])
    assert place.stored(run) == {}


def test_many_rows_of_many_runs(place: Place, latest: LatestValues) -> None:
    runs = [place.run() for _ in range(7)]
    points = [(run, f"metric {key:04d}", 1, 1, float(key)) for run in runs for key in range(333)]
    for step in (1, 3, 2):
        upsert(latest, [(run, key, step, time, value + step) for run, key, _, time, value in points])
    stored = place.stored(*runs)
    assert len(stored) == len(points)
    assert all(stored[run, key] == (3, 1, value + 3, False) for run, key, _, _, value in points)


@pytest.mark.parametrize("place", ["sqlite", "postgres"], indirect=True)
def test_writers_at_once_neither_deadlock_nor_lose(place: Place) -> None:
    """Many writers on the same rows, among them MLflow's own way of writing."""
    runs = [place.run() for _ in range(3)]
    keys = [f"k{number}" for number in range(40)]
    writers = [place.open() for _ in range(4)]
    start = threading.Barrier(5)

    def ours(number: int) -> None:
        rng = random.Random(number)
        start.wait()
        for _ in range(15):
            part = [(run, key, rng.randrange(1000), 1, 0.5) for run in runs for key in rng.sample(keys, 30)]
            written[number] += part
            while True:
                try:
                    upsert(writers[number], part)
                    break
                except LatestUnavailableError:
                    time.sleep(0.01)

    def mlflow() -> None:
        rng = random.Random(99)
        start.wait()
        for _ in range(10):
            part = [Metric(key, 0.5, 1, rng.randrange(1000)) for key in rng.sample(keys, 20)]
            while True:
                try:
                    place.store._log_metrics(runs[0], part)
                    break
                except MlflowException as error:
                    # MLflow looks for a row, then inserts it: another writer, MLflow's own too, may be first.
                    # Its server answers an error then, and its client asks again.
                    if not isinstance(error.__cause__, IntegrityError):
                        raise
            written[4] += [(runs[0], metric.key, metric.step, 1, 0.5) for metric in part]

    written: list[list[Row]] = [[] for _ in range(5)]
    try:
        with ThreadPoolExecutor(5) as pool:
            for future in [*(pool.submit(ours, number) for number in range(4)), pool.submit(mlflow)]:
                future.result(120)
    finally:
        for writer in writers:
            writer.close()
    top: dict[tuple[str, str], int] = {}
    for run, key, step, _, _ in itertools.chain.from_iterable(written):
        top[run, key] = max(step, top.get((run, key), step))
    assert {series: row[0] for series, row in place.stored(*runs).items()} == top


def test_sqlite_that_is_locked_is_retryable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runstream.ingest.writer.latest._BUSY_TIMEOUT_MS", 50)
    place = Place(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    run = place.run()
    latest = place.open()
    with place.engine.connect() as other:
        other.exec_driver_sql("BEGIN EXCLUSIVE")
        with pytest.raises(LatestUnavailableError, match="locked"):
            upsert(latest, [(run, "a", 1, 1, 1.0)])
        other.rollback()
    upsert(latest, [(run, "a", 1, 1, 1.0)])
    assert place.stored(run) == {(run, "a"): (1, 1, 1.0, False)}
    latest.close()
    place.close()


def test_readers_of_sqlite_do_not_wait_for_the_writer(tmp_path: Path) -> None:
    place = Place(f"sqlite:///{tmp_path}/mlflow.db", tmp_path)
    run = place.run()
    latest = place.open()
    upsert(latest, [(run, "a", 1, 1, 1.0)])
    with place.engine.connect() as other:
        assert other.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
        assert other.exec_driver_sql("SELECT count(*) FROM latest_metrics").scalar() == 1
        upsert(latest, [(run, "a", 2, 1, 1.0)])
    assert place.stored(run)[run, "a"][0] == 2
    latest.close()
    place.close()


def test_database_without_tables_is_retryable(tmp_path: Path) -> None:
    latest = open_latest(f"sqlite:///{tmp_path}/empty.db")
    with pytest.raises(LatestUnavailableError, match="no such table"):
        upsert(latest, [("r", "a", 1, 1, 1.0)])
    latest.close()


def test_postgres_that_restarts(postgres: Postgres, tmp_path: Path) -> None:
    place = Place(postgres.create_database("restarted"), tmp_path)
    run = place.run()
    latest = place.open()
    upsert(latest, [(run, "a", 1, 1, 1.0)])
    postgres.stop()
    with pytest.raises(LatestUnavailableError):
        upsert(latest, [(run, "a", 2, 1, 1.0)])
    postgres.start()
    upsert(latest, [(run, "a", 2, 1, 1.0)])
    assert place.stored(run)[run, "a"][0] == 2
    latest.close()
    place.close()


@pytest.mark.parametrize("uri", ["", "nothing", "what://x/y", "mssql+pyodbc://h/d", "mysql+pymysql://h/d"])
def test_bad_uri(uri: str) -> None:
    with pytest.raises(ConfigError):
        open_latest(uri)


def test_errors_do_not_show_rows_or_passwords() -> None:
    latest = open_latest("postgresql://me:s3cret@127.0.0.1:1/nothing")
    with pytest.raises(LatestUnavailableError) as raised:
        upsert(latest, [("secret-run", "a", 1, 1, 1.0)])
    assert "s3cret" not in str(raised.value)
    assert "secret-run" not in str(raised.value)
    latest.close()
