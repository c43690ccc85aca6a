"""One number about each of many series: a column of numbers for each metric and statistic, a row for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from runstream.query.points.selection import Selection
from runstream.schemas.ports.database import Database

What = Literal["min", "max", "mean", "count", "first", "at"]

# MLflow's order of points: NaN comes just before 0.
_PLACE: Final = "if(isNaN(value), 0, value), NOT isNaN(value)"
_WHAT: Final[Mapping[What, str]] = {
    "min": "minOrNullIf(value, NOT isNaN(value))",
    "max": "maxOrNullIf(value, NOT isNaN(value))",
    "mean": "avgOrNullIf(value, NOT isNaN(value))",
    "count": "toFloat64(count())",
    "first": f"argMin(value, (step, timestamp, {_PLACE}))",
}
# What a point that is stored twice would change; it is otherwise cheaper not to look.
_COUNTING: Final = frozenset({"mean", "count"})
# NaN is NaN, and 0.0 is -0.0, as everywhere.
_ONCE: Final = (
    "(SELECT run_id, key, step, timestamp, if(isNaN(value), nan, value + 0.) AS value FROM metrics WHERE {where}"
    " GROUP BY run_id, key, step, timestamp, value)"
)
_BOUNDS: Final = {
    "max_memory_usage": 1 << 30,
    "max_bytes_before_external_group_by": 256 << 20,
    "optimize_aggregation_in_order": 1,
    "output_format_arrow_low_cardinality_as_dictionary": 1,
}


@dataclass(frozen=True, slots=True)
class Statistic:
    """``what`` of the metric ``key``; ``step`` is for ``at``, its newest value there. ``min``, ``max`` and ``mean``
    leave NaN out, and are nothing where there is nothing else; ``first`` is first by (step, timestamp, value)."""

    key: str
    what: What
    step: int | None = None


def statistics(
    database: Database,
    runs: Sequence[str],
    wanted: Sequence[Statistic],
    settings: Mapping[str, Any],
) -> pa.RecordBatch:
    """A column of doubles for each of ``wanted``, with a row for each of ``runs`` (each named once), null where the run
    has no such points. Blocks; raises ``DatabaseError``."""
    place = pa.array(runs, pa.string())
    columns = [(np.zeros(len(runs)), np.zeros(len(runs), np.bool_)) for _ in wanted]
    for only_steps in (False, True):
        # What is asked of single steps alone is read off the index, without the rest of the series.
        chosen = [at for at, one in enumerate(wanted) if (one.what == "at") == only_steps]
        if chosen:
            _read(database, runs, place, [(wanted[at], columns[at]) for at in chosen], settings, only_steps)
    arrays = [pa.array(values, mask=~there) for values, there in columns]
    return pa.RecordBatch.from_arrays(arrays, names=[str(at) for at in range(len(wanted))])


_Column = tuple[Any, Any]


def _read(
    database: Database,
    runs: Sequence[str],
    place: pa.Array,
    wanted: Sequence[tuple[Statistic, _Column]],
    settings: Mapping[str, Any],
    only_steps: bool,
) -> None:
    keys = sorted({one.key for one, _ in wanted})
    names: dict[tuple[str, int | None], str] = {}
    for one, _ in wanted:
        names.setdefault((one.what, one.step), f"s{len(names)}")
    shown = ", ".join(f"{_expression(what, step)} AS {name}" for (what, step), name in names.items())
    for part in Selection(runs, keys).parts():
        # Keys are names here, whatever marks they hold.
        where = "run_id IN {runs:Array(String)} AND key IN {keys:Array(String)}"
        parameters: dict[str, Any] = {"runs": list(part.runs), "keys": keys}
        if only_steps:
            where += " AND step IN {steps:Array(Int64)}"
            parameters["steps"] = sorted({one.step for one, _ in wanted if one.step is not None})
        source = f"metrics WHERE {where}"
        if not _COUNTING.isdisjoint(what for what, _ in names):
            source = _ONCE.format(where=where)
        statement = f"SELECT run_id, key, {shown} FROM {source} GROUP BY run_id, key"
        with database.arrow_stream(statement, parameters, {**settings, **_BOUNDS}) as batches:
            for batch in batches:
                if batch.num_rows:
                    _place(batch, place, wanted, names)


def _expression(what: str, step: int | None) -> str:
    if what == "at":
        assert step is not None
        return f"argMaxOrNullIf(value, (timestamp, {_PLACE}), step = {int(step)})"
    return _WHAT[what]  # type: ignore[index]


def _place(
    batch: pa.RecordBatch,
    place: pa.Array,
    wanted: Sequence[tuple[Statistic, _Column]],
    names: Mapping[tuple[str, int | None], str],
) -> None:
    """Put the rows of a batch where their runs are."""
    rows = pc.index_in(batch.column("run_id").cast(pa.string()), value_set=place).to_numpy()
    keys = batch.column("key").cast(pa.string())
    for one, (values, there) in wanted:
        column = batch.column(names[one.what, one.step])
        mine = pc.and_(pc.equal(keys, one.key), column.is_valid()).to_numpy(zero_copy_only=False)
        found = rows[mine]
        values[found] = column.to_numpy(zero_copy_only=False)[mine]
        there[found] = True
