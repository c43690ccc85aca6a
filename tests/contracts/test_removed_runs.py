"""Runs that are removed from MLflow's database, by MLflow alone, lose their points; on both databases."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from runstream.ingest.writer.latest import LatestUnavailableError
from runstream.ingest.writer.removed import RemovedRuns
from runstream.roles.collector import Collector
from support.clickhouse_engine import insert_points, shared_database
from support.postgres import Postgres, postgres_server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@dataclass
class Side:
    """A database with MLflow's tables, as MLflow's own store has made them."""

    uri: str
    store: Any

    def run(self) -> str:
        run_id: str = self.store.create_run("0", "user", 0, [], uuid.uuid4().hex).info.run_id
        return run_id

    def collect(self, run_id: str) -> None:
        """As ``mlflow gc`` does, in a process that knows nothing of Runstream."""
        self.store.delete_run(run_id)
        self.store._hard_delete_run(run_id)


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def side(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Side]:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("removed")
    uri = f"sqlite:///{folder}/mlflow.db"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        uri = server.create_database("removed_runs")
    store = SqlAlchemyStore(uri, str(folder))
    yield Side(uri, store)
    store._dispose_engine()


@pytest.fixture
def removed(side: Side) -> Iterator[RemovedRuns]:
    made = RemovedRuns(side.uri)
    yield made
    made.close()


def points_of(run_id: str) -> int:
    found = shared_database().arrow(
        "SELECT count() AS n FROM metrics WHERE run_id = {run:String}", {"run": run_id}
    )
    return int(found.column("n")[0].as_py())


@pytest.fixture
def merges() -> Iterator[None]:
    shared_database().execute("SYSTEM START MERGES metrics")  # a delete is a kind of merge
    yield
    shared_database().execute("SYSTEM STOP MERGES metrics")


def test_a_removed_run_is_noted_once_watched(side: Side, removed: RemovedRuns) -> None:
    assert not removed.watch(), "MLflow may still be at work"
    assert removed.watch()
    assert removed.watch(), "again is harmless"
    kept, gone = side.run(), side.run()
    side.collect(gone)
    side.store.delete_run(kept)  # it can be restored
    assert removed.pending() == [gone]
    removed.forget([gone])
    assert removed.pending() == []


def test_a_trigger_that_was_lost_comes_back(side: Side, removed: RemovedRuns) -> None:
    while not removed.watch():
        pass
    engine = sa.create_engine(side.uri)
    with engine.begin() as connection:
        on = " ON runs" if engine.dialect.name == "postgresql" else ""
        connection.exec_driver_sql(f"DROP TRIGGER runstream_run_removed{on}")
        connection.exec_driver_sql("DROP TABLE runstream_removed_runs")
    engine.dispose()
    removed.watch()
    assert removed.watch()
    assert removed.pending() == []


def test_points_go_at_once_and_when_some_arrive_late(side: Side, removed: RemovedRuns, merges: None) -> None:
    now = 0.0
    kept, gone = side.run(), side.run()
    for run_id in (kept, gone):
        insert_points(shared_database(), run_id, "k", [(0, 0, 1.0), (1, 1, 2.0)])
    collector = Collector(shared_database(), removed, clock=lambda: now)
    while not removed.watch():
        pass
    side.collect(gone)
    collector.step()
    assert (points_of(gone), points_of(kept)) == (0, 2)
    insert_points(shared_database(), gone, "k", [(2, 2, 3.0)])  # it was still in the queue
    now = 61.0
    collector.step()
    assert (points_of(gone), points_of(kept)) == (0, 2)
    now = 1300.0
    collector.step()
    assert removed.pending() == []


def test_before_mlflow_has_made_its_tables(tmp_path: Path) -> None:
    early = RemovedRuns(f"sqlite:///{tmp_path}/mlflow.db")
    assert not early.watch()
    early.close()
    away = RemovedRuns("postgresql+psycopg://nobody@127.0.0.1:9/nothing")
    with pytest.raises(LatestUnavailableError):
        away.watch()
    away.close()
