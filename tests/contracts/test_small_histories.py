"""Histories from memory are those of the table, whatever happens to their runs meanwhile."""

from __future__ import annotations

import math
import threading
import uuid
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from runstream.query.mlflow.history import HistoryReader
from runstream.query.points import small_runs
from runstream.query.points.series import Series
from runstream.query.points.small_runs import SmallRuns
from runstream.schemas.ports.database import Database
from support.clickhouse_engine import Point, insert_points, shared_database


@dataclass(frozen=True)
class Runs:
    """The runs of an insert."""

    names: frozenset[str]

    def among(self, runs: Collection[str]) -> set[str]:
        return set(self.names.intersection(runs))


@dataclass
class Table:
    """The shared table with a reader that keeps runs in memory, and one that does not."""

    now: float = 0.0

    def __post_init__(self) -> None:
        self.small = SmallRuns(shared_database(), clock=lambda: self.now)
        self.reader = HistoryReader(shared_database(), small=self.small)
        self.plain = HistoryReader(shared_database())

    def insert(self, run_id: str, key: str, points: list[Point]) -> None:
        """As the writer does; the run is not being written any more afterwards."""
        self.small.inserting(Runs(frozenset((run_id,))))
        insert_points(shared_database(), run_id, key, points)
        self.small.inserted()
        self.now += 11.0

    def check(self, run_id: str, key: str) -> None:
        """Every read is that of the table."""
        whole = texts(self.plain.history(run_id, key).series)
        assert texts(self.reader.history(run_id, key).series) == whole
        shown: list[Any] = []
        token: str | None = None
        while True:
            page = self.reader.history(run_id, key, 3, token)
            shown += texts(page.series)
            token = page.next_page_token
            if token is None:
                break
        assert shown == whole
        assert (
            self.reader.history(run_id, key, 5).next_page_token
            == self.plain.history(run_id, key, 5).next_page_token
        )
        for limit in (1, 4, 100):
            assert many(self.reader.history_bulk([run_id], key, limit)) == many(
                self.plain.history_bulk([run_id], key, limit)
            )
            for low, high in ((None, None), (-1, 1), (2, 1)):
                assert many(self.reader.history_bulk_interval([run_id], key, limit, low, high)) == many(
                    self.plain.history_bulk_interval([run_id], key, limit, low, high)
                )


def texts(series: Series) -> list[tuple[int, int, str]]:
    return list(
        zip(series.steps.tolist(), series.timestamps.tolist(), map(repr, series.values.tolist()), strict=True)
    )


def many(found: list[tuple[str, Series]]) -> list[tuple[str, Any]]:
    return [(run_id, texts(series)) for run_id, series in found]


@pytest.fixture(scope="module")
def table() -> Table:
    return Table()


numbers = st.sampled_from([0.0, -0.0, 1.0, -1.0, math.nan, math.inf, -math.inf]) | st.floats()
points = st.lists(st.tuples(st.integers(-3, 3), st.integers(0, 3), numbers), max_size=12)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from("ab"), points), min_size=1, max_size=4))
def test_a_run_that_grows(table: Table, inserts: list[tuple[str, list[Point]]]) -> None:
    run_id = uuid.uuid4().hex
    table.check(run_id, "a")  # nothing yet, and that is remembered
    for key, some in inserts:
        table.insert(run_id, key, some)
        table.check(run_id, "a")
        table.check(run_id, "b")
        assert table.small.get(run_id) is not None


def test_a_read_again_asks_nothing() -> None:
    counted = Counting(shared_database())
    small = SmallRuns(counted)
    reader = HistoryReader(counted, small=small)
    # Neighbours in the table's order, which nobody else is between.
    runs = [f"zz{uuid.uuid4().hex}{n}" for n in range(5)]
    first = min(runs)
    for run_id in runs:
        insert_points(shared_database(), run_id, "key", [(1, 1, 1.0), (2, 2, math.nan)])
    assert len(reader.history(first, "key", 10).series) == 2
    asked = counted.asked
    assert all(len(reader.history(run_id, "key", 10).series) == 2 for run_id in runs)
    assert [len(series) for _, series in reader.history_bulk(runs, "key", 100)] == [2] * 5
    page = reader.at_hand(first, "key", 1)
    assert page is not None
    assert page.next_page_token is not None
    assert counted.asked == asked


def test_a_run_too_large_is_read_from_the_table(table: Table) -> None:
    run_id = uuid.uuid4().hex
    insert_points(
        shared_database(), run_id, "key", [(step, step, 1.0) for step in range(small_runs.MAX_ROWS + 10)]
    )
    assert table.small.load(run_id) is None
    assert len(table.reader.history(run_id, "key").series) == small_runs.MAX_ROWS + 10
    assert table.reader.at_hand(run_id, "key") is None


def test_deleted_and_changed_by_others(table: Table) -> None:
    run_id = uuid.uuid4().hex
    table.insert(run_id, "key", [(1, 1, 1.0)])
    table.check(run_id, "key")
    assert table.small.get(run_id) is not None
    with table.small.changing():
        insert_points(shared_database(), run_id, "key", [(2, 2, 2.0)])
        # What is read meanwhile is right then, and may not be afterwards.
        table.reader.history(run_id, "key")
        assert table.small.get(run_id) is None
    table.check(run_id, "key")


def test_what_was_read_while_points_came_is_not_kept() -> None:
    """Whenever the insert begins and ends: before, within or after the reading."""
    for moments in ("before", "within", "across"):
        run_id = uuid.uuid4().hex
        insert_points(shared_database(), run_id, "key", [(1, 1, 1.0)])
        held = Held(shared_database())
        small = SmallRuns(held)
        reader = HistoryReader(held, small=small)
        runs = Runs(frozenset((run_id,)))
        if moments == "before":
            small.inserting(runs)
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(reader.history, run_id, "key")
            assert held.reached.wait(60)
            if moments != "before":
                small.inserting(runs)
            insert_points(shared_database(), run_id, "key", [(2, 2, 2.0)])
            if moments == "within":
                small.inserted()
            held.go.set()
            assert len(reading.result(60).series) == 1
        if moments != "within":
            small.inserted()
        assert len(reader.history(run_id, "key").series) == 2


def test_memory_is_bounded_and_what_is_busy_or_idle_is_left() -> None:
    now = 0.0
    small = SmallRuns(shared_database(), max_bytes=4_000, clock=lambda: now)
    runs = [f"zy{uuid.uuid4().hex}" for _ in range(20)]
    for run_id in runs:
        insert_points(shared_database(), run_id, "key", [(1, 1, 1.0)])
    for run_id in runs:
        assert small.load(run_id) is not None
        assert small.nbytes <= 4_000
        assert small.get(run_id) is not None, "the one that was asked for is kept before its neighbours"
    busy = runs[-1]
    small.inserting(Runs(frozenset((busy,))))
    small.inserted()
    assert small.load(busy) is None
    now = 11.0
    assert small.load(busy) is not None
    now = 80.0
    small.inserting(Runs(frozenset()))
    assert (small.nbytes, small.get(busy)) == (0, None)


class Counting:
    """An engine whose questions are counted."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.asked = 0

    def arrow(self, *arguments: Any) -> pa.Table:
        self.asked += 1
        return self._database.arrow(*arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


class Held:
    """An engine whose first answer waits, complete, until it may go."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.reached, self.go = threading.Event(), threading.Event()

    def arrow(self, *arguments: Any) -> pa.Table:
        found = self._database.arrow(*arguments)
        self.reached.set()
        assert self.go.wait(60)
        return found

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)
