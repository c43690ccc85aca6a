"""A page of a table, column by column, as JSON or as an Arrow stream."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import orjson
import pyarrow as pa

from runstream.schemas.wire import NEXT_PAGE

Type = Literal["string", "double", "int64"]
_ARROW: Final[dict[Type, pa.DataType]] = {"string": pa.string(), "double": pa.float64(), "int64": pa.int64()}


@dataclass(frozen=True, slots=True)
class Filled:
    """A column with its values, ``None`` where a run has none. Times are Unix milliseconds."""

    name: str
    type: Type
    values: Sequence[Any]


def as_json(columns: Sequence[Filled], next_page_token: str | None) -> bytes:
    """``{"columns": [{"name", "type", "values"}], "next_page_token"}``; what JSON has no number for is called by its
    name, as in MLflow's answers: ``"NaN"``, ``"Infinity"``, ``"-Infinity"``."""
    body: dict[str, Any] = {
        "columns": [
            {
                "name": one.name,
                "type": one.type,
                "values": _named(one) if one.type == "double" else one.values,
            }
            for one in columns
        ]
    }
    if next_page_token is not None:
        body["next_page_token"] = next_page_token
    return orjson.dumps(body)


def as_arrow(columns: Sequence[Filled], next_page_token: str | None) -> bytes:
    """An Arrow stream; the token of the next page is in the schema's metadata (``NEXT_PAGE``)."""
    metadata = {NEXT_PAGE: next_page_token.encode()} if next_page_token is not None else None
    schema = pa.schema([(one.name, _ARROW[one.type]) for one in columns], metadata=metadata)
    arrays = [pa.array(one.values, _ARROW[one.type], from_pandas=False) for one in columns]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, schema, options=pa.ipc.IpcWriteOptions(compression="lz4")) as writer:
        writer.write_batch(pa.record_batch(arrays, schema=schema))
    return bytes(sink.getvalue().to_pybytes())


def _named(column: Filled) -> Sequence[Any]:
    values = column.values
    if all(value is None or math.isfinite(value) for value in values):
        return values
    return [value if value is None or math.isfinite(value) else _name(value) for value in values]


def _name(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    return "Infinity" if value > 0 else "-Infinity"
