"""Metric histories, exact and without repeats, read from ClickHouse.

The table is read plain, never with FINAL (ten times slower while inserts go on): rows come in order, and
adjacent equal rows are one point. Everything here blocks; call it off the event loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runstream.query.mlflow.sampling import sample_stream
from runstream.query.mlflow.snapshots import Snapshot, SnapshotCache
from runstream.query.points.aggregates import Statistic, statistics
from runstream.query.points.distributed import delete_runs
from runstream.query.points.parts import Part, active_parts, coverage
from runstream.query.points.series import EMPTY, Ints, Series, by_step, by_time, ntile_positions
from runstream.query.points.sized_cache import SizedCache
from runstream.query.points.small_runs import RunPoints, SmallRuns
from runstream.schemas.mlflow.limits import INT64_MAX, INT64_MIN
from runstream.schemas.mlflow.page_tokens import create_page_token, parse_page_token
from runstream.schemas.ports.database import Database

_ONE = "run_id = {run:String} AND key = {key:String}"
_SERIES = f"FROM metrics WHERE {_ONE}"
_MANY = "FROM metrics WHERE run_id IN {runs:Array(String)} AND key = {key:String}"

# MLflow's order of values; ClickHouse's own puts NaN last. Needed where a LIMIT cuts.
_VALUE_ORDER = "if(isNaN(value), 0, value), isNaN(value)"
# Values as MLflow compares them, for DISTINCT.
_SHOWN = (
    "if(isNaN(value), nan, least(greatest(value, -1.7976931348623157e308), 1.7976931348623157e308)) + 0"
    " AS value"
)

# Rows asked for beyond a limit, so that a few repeats in the table do not leave a page short.
_SLACK_ROWS = 64
# A series up to this many rows is sampled in memory, a longer one as a stream.
_SAMPLE_ROWS = 1_000_000
_MAX_BOOKMARKS = 10_000

Parameters = Mapping[str, Any]
Arrange = Callable[[Ints, Ints, Any], Series]


@dataclass(frozen=True, slots=True)
class Page:
    """Points of a history in the order (timestamp, step, value), and the token of the next page if there is
    one."""

    series: Series
    next_page_token: str | None


class HistoryReader:
    """Reads of MLflow's metric-history calls. Thread-safe and blocking; raises ``DatabaseError``.

    ``snapshot_bytes`` bounds the cache of long series that are being paged through, ``max_query_s`` the
    time that ClickHouse may spend on one query. ``small`` are runs in memory, where whoever changes the table is in
    this process.
    """

    def __init__(
        self,
        database: Database,
        *,
        snapshot_bytes: int = 128 << 20,
        max_query_s: float = 60.0,
        small: SmallRuns | None = None,
    ) -> None:
        self._database = database
        self._small = small
        self._snapshots = SnapshotCache(snapshot_bytes)
        self._snapshot_rows = max(snapshot_bytes // 24, 1)
        self._settings = {"max_execution_time": max_query_s}
        # The last point before an offset of a series too long for the cache.
        self._bookmarks: SizedCache[tuple[str, str, int], tuple[int, int, float]] = SizedCache(
            _MAX_BOOKMARKS, lambda _: 1
        )

    def history(
        self, run_id: str, key: str, max_results: int | None = None, page_token: str | None = None
    ) -> Page:
        """One page of a series (``SqlAlchemyStore.get_metric_history``), all of it if ``max_results`` is
        ``None``.

        The first page is read from the table; later ones from a reading of the whole series that is held and brought
        up to date, so that paging through N points costs about N, and every page shows what was there before it was
        asked for. Raises ``MlflowError`` for a bad token.
        """
        offset = parse_page_token(page_token)
        start = max(offset, 0)
        run = self._small.load(run_id) if self._small is not None else None
        if run is not None:
            return _page(_arranged(run, key, by_time), max_results, offset)
        if max_results is None:
            return Page(self._read_all(run_id, key).take(slice(start, None)), None)
        series = self._whole(run_id, key) if start else None
        if series is None:
            return self._page_alone(run_id, key, max_results, offset)
        return _page(series, max_results, offset)

    def at_hand(
        self, run_id: str, key: str, max_results: int | None = None, page_token: str | None = None
    ) -> Page | None:
        """``history`` if it can be answered from memory, in some ten microseconds; never blocks."""
        run = self._small.get(run_id) if self._small is not None else None
        if run is None:
            return None
        return _page(_arranged(run, key, by_time), max_results, parse_page_token(page_token))

    def _held(self, run_ids: Sequence[str]) -> dict[str, RunPoints] | None:
        """All of these runs, if all are in memory; one alone is fetched."""
        if self._small is None:
            return None
        if len(run_ids) == 1:
            alone = self._small.load(run_ids[0])
            return None if alone is None else {run_ids[0]: alone}
        held: dict[str, RunPoints] = {}
        for run_id in run_ids:
            run = self._small.get(run_id)
            if run is None:
                return None
            held[run_id] = run
        return held

    def _whole(self, run_id: str, key: str) -> Series | None:
        """A series as it is now; ``None`` if it is too long to be held."""
        # Before the reading: what is seen beyond these parts is read once more the next time.
        parts = active_parts(self._database)
        held = self._snapshots.get(run_id, key)
        series = self._up_to_date(held, run_id, key, parts) if held is not None and parts else None
        if series is None:
            if self._count(run_id, key) > self._snapshot_rows:
                return None
            series, held = self._read_all(run_id, key), None
        if parts:
            self._snapshots.put(run_id, key, Snapshot(series, coverage(parts, held.seen if held else None)))
        return series

    def _up_to_date(self, held: Snapshot, run_id: str, key: str, parts: list[Part]) -> Series | None:
        """A held series with the points that came since; ``None`` if it must be read anew."""
        if any(part.deletion > held.seen.deletion for part in parts):
            return None  # rows are gone, and the parts do not show whose
        known = [part.name for part in parts if held.seen.holds(part)]
        if len(known) == len(parts):
            return held.series
        room = max(self._snapshot_rows - len(held.series), 0)
        # Not "in the others": a part that has just been merged into a new one would be left out.
        added = self._arrow(
            f"SELECT step, timestamp, value {_SERIES} AND _part NOT IN {{known:Array(String)}}"
            " ORDER BY timestamp, step, value LIMIT {rows:UInt64}",
            {"run": run_id, "key": key, "known": known, "rows": room + 1},
        )
        if not added.num_rows:
            return held.series
        if added.num_rows > room:
            return None
        old = held.series
        steps, timestamps, values = columns_of(added)
        return by_time(
            np.concatenate((old.steps, steps)),
            np.concatenate((old.timestamps, timestamps)),
            np.concatenate((old.values, values)),
        )

    def history_bulk(self, run_ids: Sequence[str], key: str, max_results: int) -> list[tuple[str, Series]]:
        """Histories of many runs, ``max_results`` points together, in the order of the run ids, then as
        ``history`` orders them (``SqlAlchemyStore.get_metric_history_bulk``). Runs without points are left
        out."""
        wanted = sorted(set(run_ids))
        held = self._held(wanted)
        if held is not None:
            series = ((run_id, _arranged(run, key, by_time)) for run_id, run in held.items())
            return _first_points([(run_id, points) for run_id, points in series if len(points)], max_results)
        rows = max_results + _SLACK_ROWS
        while True:
            table = self._arrow(
                f"SELECT run_id, step, timestamp, value {_MANY}"
                f" ORDER BY run_id, timestamp, step, {_VALUE_ORDER} LIMIT {{rows:UInt64}}",
                {"runs": wanted, "key": key, "rows": rows},
            )
            found = _split_runs(table, by_time)
            points = sum(len(series) for _, series in found)
            if points >= max_results or table.num_rows < rows:
                return _first_points(found, max_results)
            rows *= 4

    def history_bulk_interval(
        self,
        run_ids: Sequence[str],
        key: str,
        max_results: int,
        start_step: int | None = None,
        end_step: int | None = None,
    ) -> list[tuple[str, Series]]:
        """At most ``max_results`` points of each run, sampled as MLflow does, in the order of ``run_ids``
        (``SqlAlchemyStore.get_metric_history_bulk_interval``). Both steps are inclusive; give both or
        neither."""
        max_results = max(1, max_results)
        low = INT64_MIN if start_step is None else max(start_step, INT64_MIN)
        high = INT64_MAX if end_step is None else min(end_step, INT64_MAX)
        if low > high:
            return []
        held = self._held(sorted(set(run_ids)))
        if held is not None:
            inside = {
                run_id: _within(_arranged(run, key, by_step), low, high) for run_id, run in held.items()
            }
            return [
                (run_id, inside[run_id].take(ntile_positions(len(inside[run_id]), max_results)))
                for run_id in run_ids
                if len(inside[run_id])
            ]
        where = "" if start_step is None else " AND step BETWEEN {low:Int64} AND {high:Int64}"
        parameters = {"key": key, "low": low, "high": high}
        sampled: dict[str, Series] = {}
        left = sorted(set(run_ids))
        while left:
            table = self._arrow(
                f"SELECT run_id, step, timestamp, value {_MANY}{where}"
                " ORDER BY run_id, step, timestamp, value LIMIT {rows:UInt64}",
                {**parameters, "runs": left, "rows": _SAMPLE_ROWS},
            )
            whole = _split_runs(table, by_step)
            if table.num_rows < _SAMPLE_ROWS:
                left = []
            else:
                # The limit cut the last run off; it alone may be long.
                cut_run, _ = whole.pop()
                left = [run_id for run_id in left if run_id > cut_run]
                sampled[cut_run] = sample_stream(
                    self._database,
                    f"{_SERIES}{where}",
                    {**parameters, "run": cut_run},
                    self._settings,
                    max_results,
                )
            for run_id, series in whole:
                sampled[run_id] = series.take(ntile_positions(len(series), max_results))
        return [(run_id, sampled[run_id]) for run_id in run_ids if run_id in sampled]

    def max_step(self, run_id: str, key: str) -> int:
        """The largest step of a series, 0 if it has none (``SqlAlchemyStore.get_max_step_for_metric``)."""
        table = self._arrow(f"SELECT max(step) AS step {_SERIES}", {"run": run_id, "key": key})
        return int(table.column("step")[0].as_py() or 0)

    def from_steps(self, run_id: str, key: str, steps: Sequence[int], max_results: int) -> Series:
        """The points of the given steps in the order (step, timestamp, value), at most ``max_results``
        (``SqlAlchemyStore.get_metric_history_bulk_interval_from_steps``)."""
        rows = max_results + _SLACK_ROWS
        wanted = [step for step in set(steps) if INT64_MIN <= step <= INT64_MAX]
        while True:
            table = self._arrow(
                f"SELECT step, timestamp, value {_SERIES} AND step IN {{steps:Array(Int64)}}"
                f" ORDER BY step, timestamp, {_VALUE_ORDER} LIMIT {{rows:UInt64}}",
                {"run": run_id, "key": key, "steps": wanted, "rows": rows},
            )
            series = by_step(*columns_of(table))
            if len(series) >= max_results or table.num_rows < rows:
                return series.take(slice(0, max_results))
            rows *= 4

    def run_statistics(self, run_ids: Sequence[str], wanted: Sequence[Statistic]) -> pa.RecordBatch:
        """Numbers about series of many runs: see ``statistics``."""
        return statistics(self._database, run_ids, wanted, self._settings)

    def delete_runs(self, run_ids: Sequence[str]) -> None:
        """Remove every point of these runs for good (``mlflow gc``); returns when readers no longer see
        them."""
        delete_runs(self._database, run_ids)

    def _count(self, run_id: str, key: str) -> int:
        return int(self._arrow(f"SELECT count() AS n {_SERIES}", {"run": run_id, "key": key})["n"][0].as_py())

    def _read_all(self, run_id: str, key: str) -> Series:
        return by_time(
            *columns_of(
                self._arrow(
                    f"SELECT step, timestamp, value {_SERIES} ORDER BY timestamp, step, value",
                    {"run": run_id, "key": key},
                )
            )
        )

    def _page_alone(self, run_id: str, key: str, max_results: int, offset: int) -> Page:
        """A page read by itself: the first, or, of a series too long to be held, one after a remembered point, else
        by counting distinct points."""
        parameters: dict[str, Any] = {"run": run_id, "key": key}
        after = self._bookmarks.get((run_id, key, offset))
        select, where, skip = "step, timestamp, value", "", ""
        if after is not None:
            where = " AND (timestamp > {time:Int64} OR (timestamp = {time:Int64} AND step >= {step:Int64}))"
            parameters |= {"time": after[0], "step": after[1]}
        elif offset > 0:
            select, skip = f"DISTINCT step, timestamp, {_SHOWN}", " OFFSET {offset:UInt64}"
            parameters["offset"] = offset
        rows = max_results + 1 + _SLACK_ROWS
        while True:
            table = self._arrow(
                f"SELECT {select} {_SERIES}{where}"
                f" ORDER BY timestamp, step, {_VALUE_ORDER} LIMIT {{rows:UInt64}}{skip}",
                {**parameters, "rows": rows},
            )
            series = by_time(*columns_of(table))
            if after is not None:
                series = _following(series, after)
            if len(series) > max_results or table.num_rows < rows:
                break
            rows *= 4
        if len(series) <= max_results:
            return Page(series, None)
        page = series.take(slice(0, max_results))
        end = offset + max_results
        if offset >= 0 and len(page):
            last = int(page.timestamps[-1]), int(page.steps[-1]), float(page.values[-1])
            self._bookmarks.put((run_id, key, end), last)
        return Page(page, create_page_token(end))

    def _arrow(self, sql: str, parameters: Parameters) -> pa.Table:
        return self._database.arrow(sql, parameters, self._settings)


def _page(series: Series, max_results: int | None, offset: int) -> Page:
    """A page of a whole series."""
    start = max(offset, 0)
    if max_results is None:
        return Page(series.take(slice(start, None)), None)
    more = start + max_results < len(series)
    page = series.take(slice(start, start + max_results))
    return Page(page, create_page_token(offset + max_results) if more else None)


def _arranged(run: RunPoints, key: str, arrange: Arrange) -> Series:
    rows = run.rows(key)
    return arrange(rows.steps, rows.timestamps, rows.values) if len(rows) else EMPTY


def _within(series: Series, low: int, high: int) -> Series:
    """The points of these steps, both included, of a series in the order of steps."""
    first, last = np.searchsorted(series.steps, low, "left"), np.searchsorted(series.steps, high, "right")
    return series.take(slice(int(first), int(last)))


def columns_of(table: pa.Table) -> tuple[Ints, Ints, Any]:
    """Steps, timestamps and values of a result as arrays."""
    return (
        table.column("step").to_numpy(),
        table.column("timestamp").to_numpy(),
        table.column("value").to_numpy(),
    )


def _split_runs(table: pa.Table, arrange: Arrange) -> list[tuple[str, Series]]:
    """The series of each run of a result that is ordered by run id."""
    if not table.num_rows:
        return []
    runs = pc.run_end_encode(table.column("run_id").combine_chunks().cast(pa.string()))
    ends = runs.run_ends.to_pylist()
    steps, timestamps, values = columns_of(table)
    found = []
    start = 0
    for run_id, end in zip(runs.values.to_pylist(), ends, strict=True):
        found.append((run_id, arrange(steps[start:end], timestamps[start:end], values[start:end])))
        start = end
    return found


def _first_points(found: list[tuple[str, Series]], max_results: int) -> list[tuple[str, Series]]:
    kept = []
    for run_id, series in found:
        if max_results <= 0:
            break
        kept.append((run_id, series.take(slice(0, max_results))))
        max_results -= len(series)
    return kept


def _following(series: Series, after: tuple[int, int, float]) -> Series:
    """The points after ``after`` in the order (timestamp, step, value, NaN after 0)."""
    timestamp, step, value = after
    is_nan = np.isnan(series.values)
    shown = np.where(is_nan, 0.0, series.values)
    after_nan = bool(np.isnan(value))
    after_shown = 0.0 if after_nan else value
    later = (shown > after_shown) | ((shown == after_shown) & is_nan & (not after_nan))
    later = (series.steps > step) | ((series.steps == step) & later)
    later = (series.timestamps > timestamp) | ((series.timestamps == timestamp) & later)
    return series.take(np.flatnonzero(later)) if len(series) else EMPTY
