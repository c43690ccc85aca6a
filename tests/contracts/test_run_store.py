"""The contract of ``RunStore``, on both databases, beside MLflow's own store on the same tables."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import sqlalchemy as sa

from runstream.ingest.control.answers import render
from runstream.ingest.control.errors import PassOnError
from runstream.ingest.control.plane import ControlPlane
from runstream.ingest.control.requests import (
    CreateExperiment,
    CreateLoggedModel,
    CreateRun,
    DeleteRun,
    LogBatch,
    LogParam,
    Pair,
    RestoreRun,
    SetTag,
    UpdateRun,
)
from runstream.ingest.control.store import RunStore
from runstream.roles.tracking import prepare_metadata
from runstream.schemas.errors import MlflowError
from support.postgres import Postgres, postgres_server

# MLflow's models use a way of loading that SQLAlchemy 2.1 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    if request.param == "sqlite":
        uri = f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"
    else:
        server: Postgres = request.getfixturevalue("postgres")
        uri = server.create_database("store")
    prepare_metadata(uri)
    return uri


@pytest.fixture
async def store(database: str) -> AsyncIterator[RunStore]:
    async with opened(database) as found:
        yield found


@contextlib.asynccontextmanager
async def opened(database: str) -> AsyncIterator[RunStore]:
    plane = ControlPlane(database)
    await plane.start()
    assert plane.store is not None
    yield plane.store
    await plane.close()


@pytest.fixture(scope="module")
def mlflow_store(database: str) -> Any:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    return SqlAlchemyStore(database, "mlflow-artifacts:/")


async def new_run(store: RunStore) -> str:
    made = await store.change(CreateExperiment(name=uuid.uuid4().hex))
    run = await store.change(CreateRun(experiment_id=made["experiment_id"], user_id="u"))
    run_id: str = run["run"]["info"]["run_id"]
    return run_id


async def test_mlflow_reads_what_was_made_here(store: RunStore, mlflow_store: Any) -> None:
    run_id = await new_run(store)
    await store.change(LogBatch(run_id=run_id, params=[Pair("p", "1")], tags=[Pair("t", "é😀")]))
    await store.change(UpdateRun(run_id=run_id, status="FINISHED", end_time=9, run_name="n"))
    run = mlflow_store.get_run(run_id)
    assert (run.data.params, run.data.tags) == ({"p": "1"}, {"t": "é😀", "mlflow.runName": "n"})
    assert (run.info.status, run.info.end_time, run.info.run_name) == ("FINISHED", 9, "n")


async def test_exact_doubles(store: RunStore, mlflow_store: Any) -> None:
    from mlflow.entities import Metric

    run_id = await new_run(store)
    values = [0.1, 1 / 3, 5e-324, 1.7976931348623157e308, 2.2250738585072014e-308, -1e-5, 1e16, 1e22]
    mlflow_store.log_batch(run_id, [Metric(f"m{n}", v, 1, 0) for n, v in enumerate(values)], [], [])
    text = render(await store.get_run(run_id)).decode()
    assert all(f'"value": {value!r},' in text for value in values)


async def test_everybody_sets_one_tag(store: RunStore, database: str) -> None:
    """Where stock MLflow's transactions collide."""
    run_id = await new_run(store)
    async with opened(database) as other:
        changes = [
            side.change(SetTag(run_id=run_id, key="t", value=str(number)))
            for number in range(64)
            for side in (store, other)
        ]
        assert await asyncio.gather(*changes) == [{}] * 128


async def test_each_is_decided_on_its_own(store: RunStore) -> None:
    run_id, deleted = await new_run(store), await new_run(store)
    await store.change(DeleteRun(run_id=deleted))
    results = await asyncio.gather(
        store.change(LogParam(run_id=run_id, key="p", value="1")),
        store.change(LogParam(run_id=run_id, key="p", value="2")),
        store.change(LogParam(run_id=deleted, key="p", value="1")),
        store.change(LogBatch(run_id=run_id, params=[Pair("q", "1"), Pair("p", "3")], tags=[Pair("t", "1")])),
        store.change(SetTag(run_id="0" * 32, key="t", value="1")),
        store.change(SetTag(run_id=run_id, key="u", value="1")),
        return_exceptions=True,
    )
    assert [isinstance(result, MlflowError) for result in results] == [False, True, True, True, True, False]
    data = (await store.get_run(run_id))["run"]["data"]
    assert data["params"] == [{"key": "p", "value": "1"}]
    assert {tag["key"] for tag in data["tags"]} == {"mlflow.runName", "u"}


async def test_two_gateways_agree_on_a_param(store: RunStore, database: str) -> None:
    run_id = await new_run(store)
    async with opened(database) as other:
        results = await asyncio.gather(
            *(
                side.change(LogParam(run_id=run_id, key=f"p{number}", value=value))
                for number in range(50)
                for side, value in ((store, "a"), (other, "b"))
            ),
            return_exceptions=True,
        )
    assert sum(result == {} for result in results) == 50
    assert sum(isinstance(result, MlflowError) for result in results) == 50
    assert len((await store.get_run(run_id))["run"]["data"]["params"]) == 50


async def test_the_same_creation_again_is_the_same_run(store: RunStore, database: str) -> None:
    made = await store.change(CreateExperiment(name=uuid.uuid4().hex))
    run_id = uuid.uuid4().hex

    def creation() -> CreateRun:
        return CreateRun(experiment_id=made["experiment_id"], user_id="u", start_time=5, run_id=run_id)

    async with opened(database) as other:
        answers = await asyncio.gather(
            *(side.change(creation()) for _ in range(8) for side in (store, other))
        )
    assert {answer["run"]["info"]["run_id"] for answer in answers} == {run_id}
    assert len({answer["run"]["info"]["run_name"] for answer in answers}) == 1
    await store.change(SetTag(run_id=run_id, key="t", value="1"))
    again = (await store.change(creation()))["run"]
    assert {"key": "t", "value": "1"} in again["data"]["tags"]


async def test_the_same_creation_again_is_the_same_experiment_and_model(store: RunStore) -> None:
    name, key = uuid.uuid4().hex, uuid.uuid4().hex
    first = await store.change(CreateExperiment(name=name, key=key))
    assert await store.change(CreateExperiment(name=name, key=key)) == first
    with pytest.raises(MlflowError, match="already exists"):
        await store.change(CreateExperiment(name=name, key="another"))
    with pytest.raises(MlflowError, match="already exists"):
        await store.change(CreateExperiment(name=name))
    model_id = uuid.uuid4().hex
    models = [
        await store.change(
            CreateLoggedModel(experiment_id=first["experiment_id"], name="m", model_id=spelling)
        )
        for spelling in (model_id, f"m-{model_id}")
    ]
    assert models[0] == models[1]
    assert models[0]["model"]["info"]["model_id"] == f"m-{model_id}"


async def test_what_a_database_does_not_take_harms_no_neighbour(store: RunStore, database: str) -> None:
    """A row that breaks a rule of the tables, which no check of ours knows."""
    run_id = await new_run(store)
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        if engine.name == "sqlite":
            connection.execute(
                sa.text(
                    "CREATE TRIGGER no_bad BEFORE INSERT ON params WHEN NEW.key = 'bad'"
                    " BEGIN SELECT RAISE(ABORT, 'bad'); END"
                )
            )
        else:
            connection.execute(sa.text("ALTER TABLE params ADD CONSTRAINT no_bad CHECK (key <> 'bad')"))
    try:
        results = await asyncio.gather(
            *(store.change(LogParam(run_id=run_id, key=key, value="v")) for key in ("a", "bad", "b")),
            return_exceptions=True,
        )
    finally:
        with engine.begin() as connection:
            drop = (
                "DROP TRIGGER no_bad"
                if engine.name == "sqlite"
                else "ALTER TABLE params DROP CONSTRAINT no_bad"
            )
            connection.execute(sa.text(drop))
        engine.dispose()
    assert results[0] == results[2] == {}
    assert isinstance(results[1], PassOnError)


async def test_a_run_that_goes_and_comes_back(store: RunStore) -> None:
    run_id = await new_run(store)
    for change, stage in ((DeleteRun, "deleted"), (RestoreRun, "active")):
        await store.change(change(run_id=run_id))
        state = await store.state_of_run(run_id)
        assert state is not None
        assert state.lifecycle_stage == stage
    assert await store.state_of_run("0" * 32) is None


async def test_beside_mlflows_own_writes(store: RunStore, mlflow_store: Any) -> None:
    """Neither side fails because of the other."""
    from mlflow.entities import RunTag

    run_id = await new_run(store)

    def of_mlflow() -> None:
        for number in range(40):
            mlflow_store.set_tag(run_id, RunTag(f"m{number}", "v"))

    async def ours() -> None:
        for number in range(200):
            await store.change(SetTag(run_id=run_id, key=f"o{number}", value="v"))

    await asyncio.gather(asyncio.to_thread(of_mlflow), ours(), ours())
    assert len((await store.get_run(run_id))["run"]["data"]["tags"]) == 241


async def test_a_schema_that_is_not_known_is_left_alone(
    database: str, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("runstream.ingest.control.plane._MIGRATES_S", 0)
    plane = ControlPlane(database, revisions=frozenset({"another"}))
    await plane.start()
    assert plane.store is None
    assert plane.unknown
    async with asyncio.timeout(30):
        while "does not know" not in caplog.text:
            await asyncio.sleep(0.01)
    await plane.close()
