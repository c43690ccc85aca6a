"""What is said about series rather than shown of them: newest points, summaries, bands across runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from runstream.query.points.newest import NewestCache, newest_points
from runstream.query.points.selection import Selection
from runstream.query.points.stream import NAME
from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.limits import INT64_MIN
from runstream.schemas.ports.database import Database

# The runs of one band travel in one statement.
MAX_AGGREGATED_RUNS = 10_000

_AGGREGATES = {
    "count": "toInt64(count())",
    "mean": "avg(number)",
    # Of one run it is undefined; ClickHouse says infinite.
    "std": "if(count() > 1, stddevSampStable(number), nan)",
    "min": "min(number)",
    "max": "max(number)",
    "median": "quantileExactInclusive(0.5)(number)",
    "p10": "quantileExactInclusive(0.1)(number)",
    "p90": "quantileExactInclusive(0.9)(number)",
}
# Numbers as unsigned ones of the same order.
_ORDERED = "bitXor(reinterpretAsUInt64({}), 9223372036854775808)"
_BITS = "reinterpretAsUInt64(value)"
_ORDERED_VALUE = f"if(bitTest({_BITS}, 63), bitNot({_BITS}), bitXor({_BITS}, 9223372036854775808))"
# Every run's newest value at every step is a group: beyond this they go to the disk, and the writer keeps its memory.
_BOUNDS = {
    "max_memory_usage": 1 << 30,
    "max_bytes_before_external_group_by": 256 << 20,
    "max_bytes_before_external_sort": 256 << 20,
}


def latest(
    database: Database, selection: Selection, settings: Mapping[str, Any], cache: NewestCache
) -> Iterable[pa.RecordBatch]:
    """The newest point of each series (``newest_points``). Blocks."""
    runs = set(selection.runs)
    if selection == Selection(selection.runs) and len(runs) == 1:
        yield from cache.of_run(selection.runs[0], settings).to_batches()
        return
    for part in selection.parts():
        yield from newest_points(database, *part.where(), settings).to_batches()


def aggregate_schema(statistics: Sequence[str]) -> pa.Schema:
    """Columns of ``aggregate``."""
    return pa.schema(
        [
            pa.field("key", NAME, nullable=False),
            pa.field("step", pa.int64(), nullable=False),
            *[pa.field(name, pa.int64() if name == "count" else pa.float64()) for name in statistics],
        ]
    )


def aggregate(
    database: Database,
    selection: Selection,
    settings: Mapping[str, Any],
    statistics: Sequence[str],
    every: int,
) -> Iterable[pa.RecordBatch]:
    """Statistics over runs, per key and step. Blocks.

    Each run gives a step its newest value there; NaN is left out. With ``every`` above 1 steps are taken
    together in stretches of that width, named by their first step. The standard deviation is the sample's.
    Raises ``MlflowError`` for more runs than fit one statement.
    """
    if len(set(selection.runs)) > MAX_AGGREGATED_RUNS:
        raise MlflowError(f"at most {MAX_AGGREGATED_RUNS} runs can be aggregated at once")
    where, parameters = selection.where()
    # MLflow's newest: by step, timestamp, value. Tuples compare ten times slower than one number.
    newest = (
        f"bitOr(bitShiftLeft(toUInt128({_ORDERED.format('timestamp')}), 64), toUInt128({_ORDERED_VALUE}))"
    )
    place = "step"
    if every > 1:
        newest = f"bitOr(bitShiftLeft(toUInt256({_ORDERED.format('step')}), 128), toUInt256({newest}))"
        place = f"toInt64(greatest(toInt128(step) - positiveModulo(step, {{every:Int64}}), {INT64_MIN}))"
    shown = ", ".join(f"{_AGGREGATES[name]} AS {name}" for name in statistics)
    statement = (
        f"SELECT key, place AS step, {shown} FROM ("
        f"SELECT run_id, key, {place} AS place,"
        f" argMax(value, {newest}) AS number"
        f" FROM metrics WHERE {where} AND NOT isNaN(value) GROUP BY run_id, key, place)"
        " GROUP BY key, place ORDER BY key, place"
    )
    schema = aggregate_schema(statistics)
    parameters = {**parameters, "every": every}
    with database.arrow_stream(statement, parameters, {**settings, **_BOUNDS}) as batches:
        for batch in batches:
            columns = [batch.column(field.name) for field in schema]
            columns[0] = columns[0].dictionary_encode()
            yield pa.RecordBatch.from_arrays(columns, schema=schema)
