"""MLflow's table of points, read in columns on both databases: every point, in parts, of runs, to the last bit."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow.entities import Metric

from runstream.importing.adoption import AdoptingBarrier, AdoptionState
from runstream.importing.metrics_table import MetricsTable, SourceError, open_table
from runstream.importing.sums import Sums
from runstream.schemas.errors import ConfigError
from runstream.schemas.record import PointColumns
from support.clickhouse_engine import shared_database
from support.postgres import Postgres, postgres_server

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
_SPECIAL = [math.nan, math.inf, -math.inf, 5e-324, 0.1, 1.0]


@pytest.fixture(scope="module")
def postgres() -> Iterator[Postgres]:
    with postgres_server() as server:
        yield server


class Filled:
    """A database that MLflow's own store has filled with two runs."""

    def __init__(self, uri: str, folder: Path) -> None:
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        self.uri = uri
        self.store: Any = SqlAlchemyStore(uri, str(folder))
        self.wanted: dict[tuple[str, str], set[tuple[int, int, float | str]]] = {}
        self.runs = [self.store.create_run("0", "u", 0, [], f"r{number}").info.run_id for number in range(2)]
        for run_id in self.runs:
            for key in ("loss", "系列/a b"):
                self.add(run_id, key, range(-3, 400))

    def add(self, run_id: str, key: str, steps: range) -> None:
        values = [_SPECIAL[step % len(_SPECIAL)] for step in steps]
        self.store.log_batch(
            run_id,
            [Metric(key, value, 10 + step, step) for value, step in zip(values, steps, strict=True)],
            [],
            [],
        )
        stored = {math.inf: 1.7976931348623157e308, -math.inf: -1.7976931348623157e308}
        self.wanted.setdefault((run_id, key), set()).update(
            (step, 10 + step, "nan" if math.isnan(value) else stored.get(value, value))
            for step, value in zip(steps, values, strict=True)
        )


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def filled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Filled]:
    folder = tmp_path_factory.mktemp("metrics")
    uri = f"sqlite:///{folder}/mlflow.db"
    if request.param == "postgresql":
        server: Postgres = request.getfixturevalue("postgres")
        uri = server.create_database("metrics_table")
    made = Filled(uri, folder)
    yield made
    made.store._dispose_engine()


def _found(blocks: Iterator[PointColumns]) -> dict[tuple[str, str], set[tuple[int, int, float | str]]]:
    found: dict[tuple[str, str], set[tuple[int, int, float | str]]] = {}
    for points in blocks:
        for place in range(len(points)):
            value = float(points.values[place])
            series = (points.runs[points.run_codes[place]], points.keys[points.key_codes[place]])
            found.setdefault(series, set()).add(
                (
                    int(points.steps[place]),
                    int(points.timestamps[place]),
                    "nan" if np.isnan(value) else value,
                )
            )
    return found


def _everything(table: MetricsTable) -> Iterator[PointColumns]:
    for start, end in table.ranges(0, table.end()):
        yield from table.read(start, end)


def test_all_of_it_in_parts_and_run_by_run(filled: Filled) -> None:
    table = open_table(filled.uri)
    assert not table.empty()
    assert table.count() == sum(map(len, filled.wanted.values()))
    assert _found(_everything(table)) == filled.wanted
    for run_id in filled.runs:
        of_run = {series: points for series, points in filled.wanted.items() if series[0] == run_id}
        assert _found(table.of_run(run_id)) == of_run
    with pytest.raises(SourceError):
        list(table.of_run("x' OR '1'='1"))


def test_what_comes_later_is_behind_the_place_or_counted(filled: Filled) -> None:
    table = open_table(filled.uri)
    end, count = table.end(), table.count()
    filled.add(filled.runs[0], "later", range(5))
    series = (filled.runs[0], "later")
    wanted = filled.wanted[series]
    # PostgreSQL fills up pages that were read already: there the comparison at the end finds the run that has more.
    assert table.count() == count + len(wanted)
    assert _found(table.of_run(filled.runs[0]))[series] == wanted
    if filled.uri.startswith("postgresql"):
        return
    more: set[tuple[int, int, float | str]] = set()
    for start, stop in table.ranges(end, table.end()):
        more |= _found(table.read(start, stop)).get(series, set())
    assert more == wanted


def test_a_read_brings_the_points_of_its_runs_until_all_are_moved(filled: Filled) -> None:
    class Inner:
        async def wait(self, run_ids: object, timeout_s: float, *, newest: bool = True) -> bool:
            return True

    database = shared_database()
    run_id, other = filled.runs

    def there(run: str) -> int:
        found = database.arrow("SELECT count() AS n FROM metrics WHERE run_id = {run:String}", {"run": run})
        return int(found.column("n")[0].as_py())

    async def read() -> None:
        barrier = AdoptingBarrier(Inner(), filled.uri, database)
        assert await barrier.wait([run_id], 60.0)  # newest values need nothing
        assert there(run_id) == 0
        assert (
            await asyncio.gather(*(barrier.wait([run_id], 60.0, newest=False) for _ in range(5)))
            == [True] * 5
        )
        table = open_table(filled.uri)
        source = Sums()
        for points in table.of_run(run_id):
            source.add(points)
        assert there(run_id) == source.totals().points
        assert there(other) == 0
        # Any run: what is there, and said to be stale.
        assert not await barrier.wait(None, 60.0, newest=False)
        state = AdoptionState(filled.uri)
        assert state.read() == (0, False)
        state.write(7, complete=True)
        assert state.read() == (7, True)
        after = AdoptingBarrier(Inner(), filled.uri, database)
        assert await after.wait(None, 60.0, newest=False)
        assert await after.wait([other], 60.0, newest=False)
        assert there(other) == 0

    asyncio.run(read())


def test_a_database_that_is_not_there_or_has_no_points_yet(tmp_path: Path) -> None:
    table = open_table(f"sqlite:///{tmp_path}/none.db")
    assert table.empty()
    with pytest.raises(SourceError, match="there is no file"):
        table.end()
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "empty.db").touch()
    assert open_table(f"sqlite:///{tmp_path}/empty.db").empty()
    with pytest.raises(ConfigError):
        open_table("oracle://host/database")
