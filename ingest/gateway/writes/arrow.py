"""Bodies of the ingest route in Arrow's IPC stream, to columns by run.

pyarrow takes a stream at its word: it decompresses before anybody can ask how much, and reads where offsets and indices
point. So sizes are added up first, from the messages' own headers, and every batch is validated before it is used.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runstream.ingest.gateway.writes.columns import RunColumns
from runstream.schemas.errors import BadRecordError
from runstream.schemas.frame import POINT_BYTES

# Fields of Arrow's flatbuffers, by their place in the table (format/Message.fbs).
_HEADER_TYPE, _HEADER = 1, 2
_BUFFERS, _COMPRESSION = 2, 3
_DICTIONARY_DATA = 1
_DICTIONARY_BATCH, _RECORD_BATCH = 2, 3


def read_arrow(body: bytes, max_bytes: int) -> list[RunColumns]:
    """The points in a body of Arrow's IPC stream: columns run_id and key (texts, or dictionaries of them), step (any
    integer), timestamp (any integer, in Unix ms, or a timestamp), value (any number). No nulls.

    Raises ``BadRecordError`` for what is no such stream, or takes more than ``max_bytes``.
    """
    found: list[RunColumns] = []
    try:
        if _unpacked_bytes(body) > max_bytes:
            raise _too_large()
        with pa.ipc.open_stream(body) as reader:
            for batch in reader:
                max_bytes -= max(batch.nbytes, batch.num_rows * POINT_BYTES)
                if max_bytes < 0:
                    raise _too_large()
                batch.validate(full=True)
                found += _of_batch(batch)
    except (pa.ArrowException, KeyError, OSError, ValueError, OverflowError, struct.error) as error:
        raise BadRecordError(f"no such Arrow stream: {str(error)[:300]}") from error
    return found


def _too_large() -> BadRecordError:
    return BadRecordError("the stream is larger than may be sent at once")


# --- sizes before anything is decompressed -----------------------------------------------------------------------


def _unpacked_bytes(body: bytes) -> int:
    """What the compressed buffers of a stream say that they become."""
    total = 0
    messages = pa.ipc.MessageReader.open_stream(body)
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return total
        head = memoryview(message.metadata)
        root = _Table.root(head)
        batch = root.table(_HEADER)
        kind = root.byte(_HEADER_TYPE)
        if kind == _DICTIONARY_BATCH and batch is not None:
            batch = batch.table(_DICTIONARY_DATA)
        elif kind != _RECORD_BATCH:
            continue
        if batch is None or batch.table(_COMPRESSION) is None or message.body is None:
            continue
        data = memoryview(message.body)
        for start, size in batch.pairs(_BUFFERS):
            if size:
                # Each begins with its size when it is decompressed; -1 says that it is not compressed.
                said = struct.unpack_from("<q", data, start)[0]
                total += max(said, 0)


class _Table:
    """A flatbuffer's table, which pyarrow has verified when it read the message."""

    def __init__(self, data: memoryview, at: int) -> None:
        self._data, self._at = data, at
        self._fields = at - struct.unpack_from("<i", data, at)[0]
        self._size = struct.unpack_from("<H", data, self._fields)[0]

    @classmethod
    def root(cls, data: memoryview) -> _Table:
        return cls(data, struct.unpack_from("<I", data, 0)[0])

    def _place(self, field: int) -> int:
        """Where a field is; 0 if it is not there."""
        slot = 4 + 2 * field
        offset = struct.unpack_from("<H", self._data, self._fields + slot)[0] if slot < self._size else 0
        return self._at + offset if offset else 0

    def byte(self, field: int) -> int:
        place = self._place(field)
        return self._data[place] if place else 0

    def table(self, field: int) -> _Table | None:
        place = self._place(field)
        return _Table(self._data, self._follow(place)) if place else None

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of structs of two int64."""
        place = self._place(field)
        if not place:
            return []
        vector = self._follow(place)
        count = struct.unpack_from("<I", self._data, vector)[0]
        return list(struct.iter_unpack("<qq", self._data[vector + 4 : vector + 4 + 16 * count]))

    def _follow(self, place: int) -> int:
        return place + int(struct.unpack_from("<I", self._data, place)[0])


# --- columns -----------------------------------------------------------------------------------------------------


def _of_batch(batch: pa.RecordBatch) -> list[RunColumns]:
    if not batch.num_rows:
        return []
    steps = _numbers(batch, "step", pa.int64(), pa.types.is_integer)
    timestamps = _numbers(
        batch, "timestamp", pa.int64(), lambda kind: pa.types.is_integer(kind) or pa.types.is_timestamp(kind)
    )
    values = _numbers(
        batch, "value", pa.float64(), lambda kind: pa.types.is_floating(kind) or pa.types.is_integer(kind)
    )
    runs, run_codes = _texts(batch, "run_id")
    keys, codes = _texts(batch, "key")
    if len(runs) == 1:
        return [RunColumns(runs[0], keys, codes, steps, timestamps, values)]
    order = np.argsort(run_codes, kind="stable")
    ends = np.cumsum(np.bincount(run_codes, minlength=len(runs)))
    columns = RunColumns("", keys, codes[order], steps[order], timestamps[order], values[order])
    found, start = [], 0
    for run_id, end in zip(runs, ends.tolist(), strict=True):
        if end > start:
            part = columns.between(start, end)
            part.run_id = run_id
            found.append(part)
        start = end
    return found


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    column = batch.column(name)
    if column.null_count:
        raise ValueError(f"column {name} has nulls")
    return column


def _numbers(batch: pa.RecordBatch, name: str, kind: pa.DataType, allowed: Any) -> NDArray[Any]:
    column = _column(batch, name)
    if not allowed(column.type):
        raise ValueError(f"column {name} is of type {column.type}")
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)
    numbers: NDArray[Any] = column.cast(kind).to_numpy(zero_copy_only=False)
    return numbers


def _texts(batch: pa.RecordBatch, name: str) -> tuple[list[str], NDArray[np.uint32]]:
    column = _column(batch, name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    elif column.dictionary.null_count:
        raise ValueError(f"column {name} has nulls")
    if not _is_text(column.dictionary.type):
        raise ValueError(f"column {name} is not of texts")
    return column.dictionary.to_pylist(), column.indices.to_numpy(zero_copy_only=False).astype(np.uint32)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))
