"""Arrow batches as the bytes of an answer: an Arrow stream, JSON, CSV or Parquet, chunk by chunk."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from runstream.schemas.errors import MlflowError
from runstream.schemas.wire import ARROW

Writer = Callable[[pa.Schema, Iterable[pa.RecordBatch], str], Generator[bytes]]


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write batches; ``write`` yields the answer's bytes in chunks, the first as soon as it can."""

    content_type: str
    write: Writer


class _Sink(io.RawIOBase):
    """A file that only hands on what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        chunk = bytes(data)
        self._chunks.append(chunk)
        return len(chunk)

    def taken(self) -> bytes:
        """What was written since the last call."""
        chunk = b"".join(self._chunks)
        self._chunks.clear()
        return chunk


_JSON_ROWS = 16_384


def _arrow(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str) -> Generator[bytes]:
    sink = _Sink()
    options = pa.ipc.IpcWriteOptions(compression=None if compression == "none" else compression)
    with pa.ipc.new_stream(sink, schema, options=options) as writer:
        for batch in batches:
            writer.write_batch(batch)
            yield sink.taken()
    yield sink.taken()


def _json(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str) -> Generator[bytes]:
    opening = b"["
    for batch in batches:
        # Rows as Python's objects take a kilobyte each.
        for at in range(0, batch.num_rows, _JSON_ROWS):
            columns = [_json_column(column) for column in batch.slice(at, _JSON_ROWS).columns]
            rows = [dict(zip(schema.names, row, strict=True)) for row in zip(*columns, strict=True)]
            yield opening + orjson.dumps(rows, default=str, option=orjson.OPT_UTC_Z)[1:-1]
            opening = b","
    yield b"[]" if opening == b"[" else b"]"


def _json_column(column: pa.Array) -> list[Any]:
    """Python values; NaN and infinities become MLflow's strings, which JSON's numbers have no room for."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type) and column.null_count < len(column):
        numbers = column.to_numpy(zero_copy_only=False)
        for position in np.flatnonzero(~np.isfinite(numbers)).tolist():
            value = values[position]
            if value is not None:
                values[position] = "NaN" if value != value else "Infinity" if value > 0 else "-Infinity"
    return values


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str) -> Generator[bytes]:
    sink = _Sink()
    plain = pa.schema(
        [
            field.with_type(field.type.value_type) if pa.types.is_dictionary(field.type) else field
            for field in schema
        ]
    )
    with pyarrow.csv.CSVWriter(sink, plain) as writer:
        for batch in batches:
            writer.write_batch(batch.cast(plain))
            yield sink.taken()
    yield sink.taken()


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str) -> Generator[bytes]:
    sink = _Sink()
    with pq.ParquetWriter(sink, schema, compression=compression) as writer:
        waiting: list[pa.RecordBatch] = []
        rows = 0
        for batch in batches:
            waiting.append(batch)
            rows += batch.num_rows
            # A row group of a useful size: readers skip by row group.
            if rows >= 1 << 20:
                writer.write_table(pa.Table.from_batches(waiting, schema=schema).unify_dictionaries())
                waiting, rows = [], 0
            yield sink.taken()
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting, schema=schema).unify_dictionaries())
    yield sink.taken()


FORMATS = {
    "arrow": Format(ARROW, _arrow),
    "json": Format("application/json", _json),
    "csv": Format("text/csv; charset=utf-8", _csv),
    "parquet": Format("application/vnd.apache.parquet", _parquet),
}
_BY_TYPE = {
    ARROW: "arrow",
    "application/json": "json",
    "text/csv": "csv",
    "application/vnd.apache.parquet": "parquet",
    "*/*": "arrow",
    "application/*": "arrow",
    "text/*": "csv",
}


def negotiate(accept: str | None) -> Format:
    """The format that an ``Accept`` header prefers; an Arrow stream without one.

    Raises ``MlflowError`` (406) when it names none of ours.
    """
    if not accept or not accept.strip():
        return FORMATS["arrow"]
    ranked: list[tuple[float, int, str]] = []
    for place, item in enumerate(accept.split(",")):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = 1.0
        for parameter in parameters:
            if parameter.startswith("q="):
                try:
                    quality = float(parameter[2:])
                except ValueError:
                    quality = 0.0
        if name in _BY_TYPE and quality > 0:
            ranked.append((-quality, place, _BY_TYPE[name]))
    if not ranked:
        known = ", ".join(name for name in _BY_TYPE if "*" not in name)
        raise MlflowError(f"no such format; this can be answered as {known}", "INVALID_PARAMETER_VALUE", 406)
    return FORMATS[min(ranked)[2]]
