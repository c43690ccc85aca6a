"""Arrow batches as the bytes of an answer: an Arrow stream, JSON, CSV or Parquet, chunk by chunk."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc

from runstream.schemas.errors import MlflowError
from runstream.schemas.mlflow.values import json_number
from runstream.schemas.wire import ARROW

Writer = Callable[[pa.Schema, Iterable[pa.RecordBatch], str], Generator[bytes]]


@dataclass(frozen=True, slots=True)
class Format:
    """A way to write batches; ``write`` yields the answer's bytes in chunks, the first as soon as it can."""

    name: str
    content_type: str
    write: Writer

    @property
    def headers(self) -> dict[str, str]:
        """What an answer in this format says of itself."""
        headers = {"Content-Type": self.content_type, "X-Content-Type-Options": "nosniff"}
        if self.content_type.startswith("text/csv"):
            # A file to be kept, not a page: spreadsheets compute what begins with = in a cell.
            headers["Content-Disposition"] = 'attachment; filename="metrics.csv"'
        return headers


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
_CSV_ROWS = 65_536
# As Arrow writes them, and as MLflow does.
_NOT_NUMBERS = (("nan", "NaN"), ("-nan", "NaN"), ("inf", "Infinity"), ("-inf", "-Infinity"))


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
            yield opening + _dump(rows)[1:-1]
            opening = b","
    yield b"[]" if opening == b"[" else b"]"


def _json_column(column: pa.Array) -> list[Any]:
    """Python values; NaN and infinities become MLflow's strings, which JSON's numbers have no room for."""
    values: list[Any] = column.to_pylist()
    if pa.types.is_floating(column.type) and column.null_count < len(column):
        numbers = column.to_numpy(zero_copy_only=False)
        for position in np.flatnonzero(~np.isfinite(numbers)).tolist():
            values[position] = _named(values[position])
    elif pa.types.is_nested(column.type):
        values = [_named(value) for value in values]
    return values


def _named(value: Any) -> Any:
    """The value, however nested, with names for the numbers that JSON lacks."""
    if isinstance(value, float):
        return json_number(value)
    if isinstance(value, list):
        return [_named(one) for one in value]
    if isinstance(value, tuple):
        return tuple(_named(one) for one in value)
    if isinstance(value, dict):
        return {name: _named(one) for name, one in value.items()}
    return value


def _dump(value: Any) -> bytes:
    return orjson.dumps(value, default=str, option=orjson.OPT_UTC_Z)


def _csv(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str) -> Generator[bytes]:
    names = pa.array(schema.names, pa.string())
    yield ",".join(_quoted(names).to_pylist()).encode() + b"\n"
    for batch in batches:
        for at in range(0, batch.num_rows, _CSV_ROWS):
            cells = [_csv_column(column) for column in batch.slice(at, _CSV_ROWS).columns]
            lines = pc.binary_join_element_wise(*cells, ",", null_handling="replace", null_replacement="")
            yield "\n".join(lines.to_pylist()).encode() + b"\n"


def _csv_column(column: pa.Array) -> pa.Array:
    """A column as texts: names and nested values in quotes, numbers that JSON lacks by MLflow's names."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        texts = column.cast(pa.string())
        for ours, theirs in _NOT_NUMBERS:
            texts = pc.if_else(pc.equal(texts, ours), theirs, texts)
        return texts
    if pa.types.is_nested(column.type):
        values = [None if value is None else _dump(value).decode() for value in _json_column(column)]
        return _quoted(pa.array(values, pa.string()))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        return _quoted(column)
    return column.cast(pa.string())


def _quoted(texts: pa.Array) -> pa.Array:
    doubled = pc.replace_substring(texts, '"', '""')
    return pc.binary_join_element_wise('"', doubled, '"', "")


def _parquet(schema: pa.Schema, batches: Iterable[pa.RecordBatch], compression: str) -> Generator[bytes]:
    import pyarrow.parquet as pq  # few ask for it, and every process would wait for it

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
    "arrow": Format("arrow", ARROW, _arrow),
    "json": Format("json", "application/json", _json),
    "csv": Format("csv", "text/csv; charset=utf-8", _csv),
    "parquet": Format("parquet", "application/vnd.apache.parquet", _parquet),
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

    Raises ``MlflowError`` (NOT_ACCEPTABLE) when it names none of ours.
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
        raise MlflowError(f"no such format; this can be answered as {known}", "NOT_ACCEPTABLE")
    return FORMATS[min(ranked)[2]]
