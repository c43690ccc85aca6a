"""Metric histories mean the same in Runstream's reader and in MLflow's own store.

The same points go into both; every read must give the same points in the same order.
"""

from __future__ import annotations

import itertools
import math
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.entities import Metric

from runstream.query.mlflow.history import HistoryReader
from runstream.query.points.series import Series
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.statuses import status_of
from support.clickhouse_engine import Point, insert_points, shared_database

# MLflow's own use of SQLAlchemy, as its store is imported and used.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

Row = tuple[str, int, int, str]  # run id, step, timestamp, value as text (NaN equals NaN)


@dataclass
class Both:
    """A store of MLflow's and a reader over the shared engine, holding the same runs."""

    store: Any
    reader: HistoryReader
    experiment: str

    def run(self, key: str, points: list[Point], copies: int = 1) -> str:
        """A run with these points, stored ``copies`` times in ClickHouse, each time as another part."""
        run = self.store.create_run(self.experiment, "user", 0, [], uuid.uuid4().hex)
        run_id: str = run.info.run_id
        for start in range(0, len(points), 1000):
            self.store.log_batch(
                run_id,
                [Metric(key, v, t, s) for s, t, v in points[start : start + 1000]],
                [],
                [],
            )
        for _ in range(copies):
            insert_points(self.reader._database, run_id, key, points)
        return run_id


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    folder = tmp_path_factory.mktemp("history")
    store = SqlAlchemyStore(f"sqlite:///{folder / 'mlflow.db'}", str(folder / "artifacts"))
    yield Both(store, HistoryReader(shared_database()), store.create_experiment("histories"))
    store._dispose_engine()


def ours(run_id: str, series: Series) -> list[Row]:
    return [
        (run_id, step, timestamp, repr(value))
        for step, timestamp, value in zip(
            series.steps.tolist(), series.timestamps.tolist(), series.values.tolist(), strict=True
        )
    ]


def many(found: list[tuple[str, Series]]) -> list[Row]:
    return [row for run_id, series in found for row in ours(run_id, series)]


def theirs(run_id: str, metrics: Any) -> list[Row]:
    return [
        (metric.run_id or run_id, metric.step, metric.timestamp, repr(float(metric.value)))
        for metric in metrics
    ]


SHAPES: dict[str, list[Point]] = {
    "one": [(0, 0, 1.5)],
    "plain": [(i, 1_000 + i, math.sin(i)) for i in range(300)],
    "step-by-default": [(0, 1_000 + i, float(i)) for i in range(300)],
    "one-timestamp": [(i, 5, float(-i)) for i in range(50)],
    "backwards-in-time": [(i, 10_000 - i, float(i % 7)) for i in range(300)],
    "negative-and-extreme": [
        (-(2**63), 0, 1.0),
        (2**63 - 1, 2**63 - 1, 2.0),
        (-5, 3, 1e-320),
        (0, 3, -1e308),
    ],
    "not-finite": [
        (s, t, v) for s in (0, 1) for t in (1, 2) for v in (math.nan, math.inf, -math.inf, 0.5, -0.5, 3.0)
    ],
    "ties": [(1, 1, float(v)) for v in (3, 1, 2, -1)],
    "resumed": [(i, 1_000 + i, 1.0) for i in range(60)] + [(i, 2_000 + i, 2.0) for i in range(40, 90)],
}


@pytest.mark.parametrize("copies", [1, 3])
@pytest.mark.parametrize("name", SHAPES)
def test_every_read_of_a_shape(both: Both, name: str, copies: int) -> None:
    points = SHAPES[name]
    run_id = both.run("key", points, copies)
    check_everything(both, run_id, "key", sorted({step for step, _, _ in points}))


numbers = st.sampled_from([0.0, -0.0, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf]) | st.floats()
points = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3), numbers), min_size=1, max_size=40)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(points, st.integers(1, 2))
def test_every_read_of_any_points(both: Both, rows: list[Point], copies: int) -> None:
    # MLflow leaves the order of 0 and NaN open (get_metric_history sorts by the stored value alone), and
    # takes an infinity and the largest double for one; the reader's own order of them is in test_series.
    rows = [(s, t, v) for s, t, v in rows if v != 0 or not any(math.isnan(o[2]) for o in rows)]
    if rows:
        run_id = both.run("key", rows, copies)
        check_everything(both, run_id, "key", sorted({step for step, _, _ in rows}))


def check_everything(both: Both, run_id: str, key: str, steps: list[int]) -> None:
    store, reader = both.store, both.reader
    whole = theirs(run_id, store.get_metric_history(run_id, key))
    assert ours(run_id, reader.history(run_id, key).series) == whole
    assert paged(both, run_id, key, 7) == whole
    assert reader.max_step(run_id, key) == store.get_max_step_for_metric(run_id, key)
    for limit in (1, 5, 1000):
        expected = theirs(run_id, store.get_metric_history_bulk([run_id], key, limit))
        assert many(reader.history_bulk([run_id], key, limit)) == expected
    for limit, (start, end) in itertools.product(
        (1, 2, 5, 37, 2500), ((None, None), (steps[0], steps[-1]), (0, 1), (steps[-1], steps[-1]))
    ):
        expected = theirs(run_id, store.get_metric_history_bulk_interval([run_id], key, limit, start, end))
        assert many(reader.history_bulk_interval([run_id], key, limit, start, end)) == expected
    for limit in (1, 10, 1000):
        expected = theirs(
            run_id, store.get_metric_history_bulk_interval_from_steps(run_id, key, steps[::2], limit)
        )
        assert ours(run_id, reader.from_steps(run_id, key, steps[::2], limit)) == expected


def paged(both: Both, run_id: str, key: str, max_results: int) -> list[Row]:
    """All pages of the reader; each token must be the one that MLflow gives."""
    rows: list[Row] = []
    token = None
    while True:
        page = both.reader.history(run_id, key, max_results, token)
        expected = both.store.get_metric_history(run_id, key, max_results, token)
        assert page.next_page_token == (expected.token.decode() if expected.token else None)
        rows += ours(run_id, page.series)
        token = page.next_page_token
        if token is None:
            return rows


def test_many_runs(both: Both) -> None:
    runs = [
        both.run("loss", [(i, 100 + i, float(i * n)) for i in range(10 * n + 1)], copies=2) for n in range(6)
    ]
    absent = "0" * 32
    both.run("other", [(0, 0, 0.0)])
    wanted = [runs[3], absent, runs[0], runs[5], runs[1]]
    for limit in (1, 20, 60, 25_000):
        expected = theirs("", both.store.get_metric_history_bulk(wanted, "loss", limit))
        assert many(both.reader.history_bulk(wanted, "loss", limit)) == expected
    for limit in (1, 4, 2500):
        expected = theirs(
            "", both.store.get_metric_history_bulk_interval([*wanted, runs[3]], "loss", limit, None, None)
        )
        found = both.reader.history_bulk_interval([*wanted, runs[3]], "loss", limit)
        assert many(found) == expected


def test_nothing_there(both: Both) -> None:
    page = both.reader.history("nobody", "loss", 10)
    assert len(page.series) == 0
    assert page.next_page_token is None
    assert both.reader.history_bulk(["nobody"], "loss", 10) == []
    assert both.reader.history_bulk_interval(["nobody"], "loss", 10) == []
    assert both.reader.history_bulk_interval([], "loss", 10) == []
    assert both.reader.max_step("nobody", "loss") == 0
    assert len(both.reader.from_steps("nobody", "loss", [], 10)) == 0


@pytest.mark.parametrize(
    "name",
    ["it's", 'qu"ote', "back\\slash", "tab\tnew\nline", "clé/ü 漢字 🙂", "{key:String}", "%s %(a)s", "\\N"],
)
def test_names_are_data(name: str) -> None:
    database = shared_database()
    reader = HistoryReader(database)
    run_id = uuid.uuid4().hex + name
    insert_points(database, run_id, name, [(1, 2, 3.0)])
    assert ours(run_id, reader.history(run_id, name).series) == [(run_id, 1, 2, "3.0")]
    assert many(reader.history_bulk([run_id, "other"], name, 10)) == [(run_id, 1, 2, "3.0")]
    assert many(reader.history_bulk_interval([run_id], name, 10)) == [(run_id, 1, 2, "3.0")]


class TestLongSeries:
    """A series beyond the cache is paged by remembered points, or by counting where nothing is remembered."""

    @pytest.fixture
    def points(self) -> list[Point]:
        some = [
            (i // 3, (i // 5) * 10, v)
            for i, v in enumerate(np.random.default_rng(3).normal(size=400).tolist())
        ]
        return some + [(7, 70, v) for v in (math.nan, 0.0, -1.0, math.inf)] + some[50:90]

    def test_pages(self, both: Both, points: list[Point]) -> None:
        run_id = both.run("key", points, copies=2)
        whole = theirs(run_id, both.store.get_metric_history(run_id, "key"))
        tiny = Both(both.store, HistoryReader(shared_database(), snapshot_bytes=24 * 100), both.experiment)
        assert sorted(paged(tiny, run_id, "key", 33)) == sorted(whole)
        assert ours(run_id, tiny.reader.history(run_id, "key").series) == ours(
            run_id, both.reader.history(run_id, "key").series
        )

    def test_a_page_without_a_memory(self, both: Both, points: list[Point]) -> None:
        run_id = both.run("key", points, copies=2)
        page = both.reader.history(run_id, "key", 50)
        page = both.reader.history(run_id, "key", 50, page.next_page_token)
        fresh = HistoryReader(shared_database(), snapshot_bytes=24 * 100)
        first = fresh.history(run_id, "key", 50)
        other = HistoryReader(shared_database(), snapshot_bytes=24 * 100)
        again = other.history(run_id, "key", 50, first.next_page_token)
        assert ours(run_id, again.series) == ours(run_id, page.series)

    def test_sampling_as_a_stream(
        self, both: Both, points: list[Point], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        runs = [both.run("key", points, copies) for copies in (2, 1, 2)]
        monkeypatch.setattr("runstream.query.mlflow.history._SAMPLE_ROWS", 100)
        for limit in (1, 7, 100, 2500):
            expected = theirs("", both.store.get_metric_history_bulk_interval(runs, "key", limit, 2, 90))
            assert many(both.reader.history_bulk_interval(runs, "key", limit, 2, 90)) == expected


def test_a_page_shows_what_was_logged_before_it_was_asked_for(both: Both) -> None:
    points = [(i, i, float(i)) for i in range(10)]
    run_id = both.run("key", points)
    token = both.reader.history(run_id, "key", 4).next_page_token
    added: list[Point] = [(-1, 0, 0.0), (5, 5, math.nan), *((i, i, 1.0) for i in range(10, 60))]
    for place in range(0, len(added), 20):
        some = added[place : place + 20]
        insert_points(shared_database(), run_id, "key", some)
        both.store.log_batch(run_id, [Metric("key", v, t, s) for s, t, v in some], [], [])
        page = both.reader.history(run_id, "key", 1000, token)
        assert ours(run_id, page.series) == theirs(
            run_id, both.store.get_metric_history(run_id, "key", 1000, token)
        )
    assert paged(both, run_id, "key", 7) == theirs(run_id, both.store.get_metric_history(run_id, "key"))


def test_pages_asked_at_once_while_points_arrive_hold_them_all(both: Both) -> None:
    run_id = both.run("key", [(i, i, float(i)) for i in range(50)])
    token = both.reader.history(run_id, "key", 4).next_page_token
    with ThreadPoolExecutor(4) as readers:
        for last in range(51, 71):
            insert_points(shared_database(), run_id, "key", [(last - 1, last - 1, 0.5)])
            pages = list(readers.map(lambda _: both.reader.history(run_id, "key", 1000, token), range(4)))
            assert [page.series.steps.tolist() for page in pages] == [list(range(4, last))] * 4


def test_pages_asked_of_several_readers_are_those_of_one_listing(both: Both) -> None:
    run_id = both.run("loss", [(step, step, 0.5) for step in range(10)])
    readers = [HistoryReader(shared_database()) for _ in range(2)]
    readers[0].history(run_id, "loss", 4)
    insert_points(shared_database(), run_id, "loss", [(step, step, 0.5) for step in range(10, 20)])
    steps: list[int] = []
    token: str | None = None
    for number in range(5):
        page = readers[(number + 1) % 2].history(run_id, "loss", 4, token)
        steps += page.series.steps.tolist()
        token = page.next_page_token
    assert (steps, token) == (list(range(20)), None)


def test_deleted_runs_are_gone(both: Both) -> None:
    kept, gone = (both.run("key", [(i, i, float(i)) for i in range(10)], 2) for _ in range(2))
    token = both.reader.history(gone, "key", 4).next_page_token
    shared_database().execute("SYSTEM START MERGES metrics")  # a delete is a kind of merge
    try:
        both.reader.delete_runs([gone])
    finally:
        shared_database().execute("SYSTEM STOP MERGES metrics")
    assert len(both.reader.history(gone, "key").series) == 0
    assert len(both.reader.history(gone, "key", 4, token).series) == 0
    assert len(both.reader.history(kept, "key").series) == 10


@pytest.mark.parametrize("token", ["abc", "!!!!", "e30=", "eyJvZmZzZXQiOiAwfQ==", "eyJvZmZzZXQiOiAiYWJjIn0="])
def test_bad_tokens(both: Both, token: str) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException) as expected:
        both.store.get_metric_history("run", "key", 5, token)
    with pytest.raises(MlflowError) as found:
        both.reader.history("run", "key", 5, token)
    assert found.value.message == expected.value.message
    assert status_of(found.value) == expected.value.get_http_status_code()
