"""Bodies of the ingest route in frames (``runstream.schemas.frame``), to columns by run."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
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

    Raises ``BadRecordError`` for anything that is not whole: what arrives by HTTP has no torn tail. Takes time in
    proportion to the bytes, whatever they are. The columns are views of the body where they can be.
    """
    reader = _Frames(max_bytes)
    reader.read(body, packed=False)
    reader.end_file()
    return reader.found


class _Frames:
    def __init__(self, max_bytes: int) -> None:
        self.found: list[RunColumns] = []
        self._left = max_bytes
        self._run_id: str | None = None
        # Only ever added to: a code that gets another name leaves the places of points before it alone.
        self._names: list[str] = []
        self._places = np.empty(0, np.uint32)
        self._points: list[RunColumns] = []

    def read(self, buffer: bytes, *, packed: bool) -> None:
        for one in frame.scan(buffer, whole=True).frames:
            if one.kind == frame.POINTS:
                self._add_points(buffer, one)
            elif one.kind == frame.NAMES:
                self._add_names(frame.decode_names(buffer, one))
            elif one.kind == frame.FILE:
                self.end_file()
                self._run_id = _run_id(frame.decode_json(buffer, one).get("run_id"))
                self._names, self._places = [], np.empty(0, np.uint32)
            elif one.kind == frame.PACKED and not packed:
                inner = frame.decompress(buffer, one, self._left)
                self._left -= len(inner)
                self.read(inner, packed=True)
            elif one.kind not in (frame.MARK, frame.END):
                raise BadRecordError(
                    f"frames of kind {one.kind} are not taken here, but by MLflow's own routes"
                )

    def end_file(self) -> None:
        """What has been read of a file becomes one run's columns."""
        if self._points:
            self.found.append(RunColumns.joined(self._points))
            self._points = []

    def _add_names(self, names: list[tuple[int, str]]) -> None:
        most = max((code for code, _ in names), default=-1)
        if most >= _MOST_CODE:
            raise BadRecordError(f"a dictionary's code is {most}; the largest is {_MOST_CODE - 1}")
        if most >= len(self._places):
            # By halves, so that a name at a time costs no more than all at once.
            grown = np.full(max(most + 1, len(self._places) * 3 // 2), _UNKNOWN, np.uint32)
            grown[: len(self._places)] = self._places
            self._places = grown
        first = len(self._names)
        self._names += [name for _, name in names]
        self._places[[code for code, _ in names]] = np.arange(first, len(self._names), dtype=np.uint32)

    def _add_points(self, buffer: bytes, one: Frame) -> None:
        if self._run_id is None:
            raise BadRecordError("points before the frame that says whose they are")
        if not one.count:
            return
        rows = np.frombuffer(buffer, _layout(one.count), one.repeat, one.start)
        codes = rows["codes"].ravel()
        if int(codes.max()) >= len(self._places):
            raise BadRecordError("a code points outside its dictionary")
        places: NDArray[np.uint32] = self._places[codes]
        if (places == _UNKNOWN).any():
            raise BadRecordError("a code points outside its dictionary")
        steps, timestamps, values = (rows[name].ravel() for name in ("steps", "timestamps", "values"))
        self._points.append(RunColumns(self._run_id, self._names, places, steps, timestamps, values))


@lru_cache(64)
def _layout(count: int) -> np.dtype[np.void]:
    """A frame of ``count`` points, with its header and padding."""
    fields = [
        ("header", "V", frame.HEADER_BYTES),
        ("steps", "<i8", (count,)),
        ("timestamps", "<i8", (count,)),
        ("values", "<f8", (count,)),
        ("codes", "<u4", (count,)),
        ("padding", "V", -frame.POINT_BYTES * count % 8),
    ]
    return np.dtype([field for field in fields if field[2]])


def _run_id(given: object) -> str:
    if not isinstance(given, str) or not given.isascii():
        raise BadRecordError("a frame of kind 1 has no run_id")
    return given
