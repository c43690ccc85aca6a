"""Bodies of the ingest route, in frames (``runstream.schemas.frame``) or in Arrow's IPC stream, to columns by run."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from runstream.ingest.gateway.writes.columns import RunColumns
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError
from runstream.schemas.frame import Frame

# A dictionary's codes are used as places in a table.
_MOST_CODE = 1 << 22
_UNKNOWN = np.uint32(0xFFFFFFFF)


def read_frames(body: bytes, max_bytes: int) -> list[RunColumns]:
    """The points in a body of frames, file by file; ``max_bytes`` bounds what packed frames may become.

    Raises ``BadRecordError`` for anything that is not whole: what arrives by HTTP has no torn tail.
    """
    reader = _Frames(max_bytes)
    reader.read(body, packed=False)
    return reader.found


class _Frames:
    def __init__(self, max_bytes: int) -> None:
        self.found: list[RunColumns] = []
        self._left = max_bytes
        self._run_id: str | None = None
        self._names: list[str] = []
        self._places = np.empty(0, np.uint32)

    def read(self, buffer: bytes, *, packed: bool) -> None:
        scan = frame.scan(buffer)
        if scan.skipped:
            raise BadRecordError(f"{scan.skipped} bytes are no whole, sound frames")
        for one in scan.frames:
            if one.kind == frame.POINTS:
                self._points(buffer, one)
            elif one.kind == frame.NAMES:
                self._add_names(frame.decode_names(buffer, one))
            elif one.kind == frame.FILE:
                self._run_id = str(frame.decode_json(buffer, one).get("run_id"))
                self._names, self._places = [], np.empty(0, np.uint32)
            elif one.kind == frame.PACKED and not packed:
                inner = frame.decompress(buffer, one, self._left)
                self._left -= len(inner)
                self.read(inner, packed=True)
            elif one.kind not in (frame.MARK, frame.END):
                raise BadRecordError(
                    f"frames of kind {one.kind} are not taken here, but by MLflow's own routes"
                )

    def _add_names(self, names: list[tuple[int, str]]) -> None:
        most = max((code for code, _ in names), default=-1)
        if most >= _MOST_CODE:
            raise BadRecordError(f"a dictionary's code is {most}; the largest is {_MOST_CODE - 1}")
        if most >= len(self._places):
            grown = np.full(most + 1, _UNKNOWN, np.uint32)
            grown[: len(self._places)] = self._places
            self._places = grown
        first = len(self._names)
        # Columns that were read before keep the list that they have.
        self._names = [*self._names, *(name for _, name in names)]
        self._places[[code for code, _ in names]] = np.arange(first, len(self._names), dtype=np.uint32)

    def _points(self, buffer: bytes, one: Frame) -> None:
        if self._run_id is None:
            raise BadRecordError("points before the frame that says whose they are")
        columns = frame.decode_points(buffer, one)
        if not len(columns):
            return
        codes = np.frombuffer(columns.codes, "<u4")
        if int(codes.max()) >= len(self._places):
            raise BadRecordError("a code points outside its dictionary")
        places = self._places[codes]
        if (places == _UNKNOWN).any():
            raise BadRecordError("a code points outside its dictionary")
        self.found.append(
            RunColumns(
                self._run_id,
                self._names,
                places,
                np.frombuffer(columns.steps, "<i8"),
                np.frombuffer(columns.timestamps, "<i8"),
                np.frombuffer(columns.values, "<f8"),
            )
        )


# --- Arrow -----------------------------------------------------------------------------------------------------


def read_arrow(body: bytes, max_bytes: int) -> list[RunColumns]:
    """The points in a body of Arrow's IPC stream: columns run_id and key (texts, or dictionaries of them), step (any
    integer), timestamp (any integer, in Unix ms, or a timestamp), value (any number). No nulls.

    Raises ``BadRecordError`` for what is no such stream, or takes more than ``max_bytes``.
    """
    found: list[RunColumns] = []
    try:
        with pa.ipc.open_stream(body) as reader:
            for batch in reader:
                max_bytes -= batch.nbytes
                if max_bytes < 0:
                    raise BadRecordError("the stream is larger than may be sent at once")
                found += _of_batch(batch)
    except (pa.ArrowException, KeyError, OSError, ValueError) as error:
        raise BadRecordError(f"no such Arrow stream: {error}") from error
    return found


def _of_batch(batch: pa.RecordBatch) -> list[RunColumns]:
    if not batch.num_rows:
        return []
    steps = _numbers(batch, "step", pa.int64())
    timestamps = _numbers(batch, "timestamp", pa.int64())
    values = _numbers(batch, "value", pa.float64())
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


def _numbers(batch: pa.RecordBatch, name: str, kind: pa.DataType) -> NDArray[Any]:
    column = _column(batch, name)
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("ms", column.type.tz), safe=False)
    numbers: NDArray[Any] = column.cast(kind).to_numpy(zero_copy_only=False)
    return numbers


def _texts(batch: pa.RecordBatch, name: str) -> tuple[list[str], NDArray[np.uint32]]:
    column = _column(batch, name)
    if not pa.types.is_dictionary(column.type):
        column = column.dictionary_encode()
    texts = column.dictionary.to_pylist()
    if not all(isinstance(text, str) for text in texts):
        raise ValueError(f"column {name} is not of texts")
    return texts, column.indices.to_numpy(zero_copy_only=False).astype(np.uint32)
