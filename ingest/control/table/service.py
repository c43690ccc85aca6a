"""Tables of runs, answered in one process. Blocks.

Which runs, and their order, is what ``search`` finds by MLflow's tables; numbers about their series are asked of the
query service, for the runs that are left. A page has at most so many values, so that memory has a bound.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np

from runstream.ingest.control.search.finder import Database, Finder
from runstream.ingest.control.search.grammar import Kind
from runstream.ingest.control.table import answer
from runstream.ingest.control.table.answer import Filled
from runstream.ingest.control.table.columns import ColumnReader
from runstream.ingest.control.table.grammar import Column, Condition, Statistic, StatisticOrder
from runstream.ingest.control.table.requests import TableSearch, table_search
from runstream.ingest.control.table.series import Mask, Numbers, Series
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.page_tokens import create_page_token

# What one page holds at most; it ends earlier, with a token for the next.
MAX_VALUES: Final = 4_000_000
# Runs of which series are asked for one filter or order.
MAX_CANDIDATES: Final = 500_000
_INT: Final = frozenset({"start_time", "end_time"})
_SIGNS: Final[dict[str, Callable[[Any, Any], Any]]] = {
    "=": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def table(database: Database, series: Series, body: bytes, *, indexed: bool, arrow: bool) -> bytes:
    """The answer to a request. Raises ``MlflowError`` and ``MetadataUnavailableError``."""
    search = table_search(body)
    run_ids, more = _page(database, series, search, indexed=indexed)
    reader = ColumnReader(database, run_ids, settled=indexed)
    columns = reader.expanded(search.columns)
    fitting = max(1, MAX_VALUES // (len(columns) + 1))
    if len(run_ids) > fitting:
        run_ids, more = run_ids[:fitting], True
        reader = ColumnReader(database, run_ids, settled=indexed)
    filled = [Filled("run_id", "string", run_ids), *_filled(reader, series, run_ids, columns)]
    token = create_page_token(search.runs.offset + len(run_ids)) if more else None
    return answer.as_arrow(filled, token) if arrow else answer.as_json(filled, token)


def _page(
    database: Database, series: Series, search: TableSearch, *, indexed: bool
) -> tuple[list[str], bool]:
    """The run ids of the page, and whether there are more."""
    size, offset = search.runs.max_results, search.runs.offset
    if not search.conditions and not search.orders:
        found = Finder(database, search.runs, indexed=indexed).find().run_ids
        return found[:size], len(found) > size
    everything = replace(search.runs, max_results=MAX_CANDIDATES, offset=0)
    run_ids = Finder(database, everything, indexed=indexed).find().run_ids
    if len(run_ids) > MAX_CANDIDATES:
        raise MlflowError(
            f"Numbers about series are compared for at most {MAX_CANDIDATES:,} runs: filter by params, tags, attributes"
            " or newest values as well"
        )
    wanted = [one.statistic for one in search.conditions] + [one.statistic for one in search.orders]
    numbers = series.read(run_ids, wanted)
    kept = _holding(len(run_ids), search.conditions, numbers)
    for order in reversed(search.orders):
        kept = kept[_sorted(order, *numbers[order.statistic], kept)]
    return [run_ids[at] for at in kept[offset : offset + size].tolist()], len(kept) > offset + size


def _holding(
    count: int, conditions: Sequence[Condition], numbers: dict[Statistic, tuple[Numbers, Mask]]
) -> Any:
    """The places of the runs for which all conditions hold. As in MLflow's search, nothing but ``!=`` is true of NaN,
    and nothing at all of what is not there."""
    holds = np.ones(count, np.bool_)
    for condition in conditions:
        values, there = numbers[condition.statistic]
        holds &= there & _SIGNS[condition.sign](values, condition.number)
    return np.flatnonzero(holds)


def _sorted(order: StatisticOrder, values: Numbers, there: Mask, kept: Any) -> Any:
    """As MLflow sorts metrics: numbers first, then NaN, then what is not there; equal ones as they were."""
    values, there = values[kept], there[kept]
    rank = np.where(there, np.where(np.isnan(values), 1, 0), 2)
    keys = np.where(rank == 0, values if order.ascending else -values, 0.0)
    return np.lexsort((keys, rank))


def _filled(
    reader: ColumnReader, series: Series, run_ids: Sequence[str], columns: Sequence[Column]
) -> list[Filled]:
    numbers = series.read(run_ids, [one.statistic for one in columns if one.statistic is not None])
    named = [one.key for one in columns if one.kind is Kind.ATTRIBUTE]
    attributes = reader.attributes(list(dict.fromkeys(named))) if named else {}
    filled = []
    for column in columns:
        if column.statistic is not None:
            values, there = numbers[column.statistic]
            shown: list[Any] = values.tolist()
            for at in np.flatnonzero(~there).tolist():
                shown[at] = None
            filled.append(Filled(column.name, "double", shown))
        elif column.kind is Kind.ATTRIBUTE:
            kind = "int64" if column.key in _INT else "string"
            filled.append(Filled(column.name, kind, attributes[column.key]))  # type: ignore[arg-type]
        else:
            kind = "double" if column.kind is Kind.METRIC else "string"
            filled.append(Filled(column.name, kind, reader.values(column.kind, column.key)))  # type: ignore[arg-type]
    return filled
