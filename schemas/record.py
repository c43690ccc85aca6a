"""Queue record v1: many requests' points, in columns.

Layout, little-endian::

    u8  version = 1
    u8  codec            0 none, 1 lz4 block
    u16 reserved = 0
    u32 points           number of points, P
    u32 segments         number of runs of consecutive points of one run id, S
    u32 runs             number of distinct run ids, R
    u32 keys             number of distinct metric keys, K
    u32 body_bytes       length of the body before compression
    i64 created_at_ms    when the oldest request in the record was accepted (Unix, milliseconds)
    body, compressed as `codec` says:
        i64 steps[P], i64 timestamps[P], f64 values[P], u32 key_codes[P]
        u32 segment_runs[S], u32 segment_lengths[S]
        u32 run_lengths[R], u32 key_lengths[K]       lengths in bytes of the names below
        run names, then key names, UTF-8, joined without separators

Versions only grow: a reader knows every version up to its own, and raises ``BadRecordError`` for the rest.
Golden examples of every version live in ``tests/unit/schemas/golden``.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import count, islice
from typing import TypeVar

import lz4.block
import numpy as np
from numpy.typing import NDArray

from runstream.schemas.errors import BadRecordError
from runstream.schemas.names import Names

VERSION = 1
HEADER = struct.Struct("<BBHIIIIIq")
CODEC_NONE = 0
CODEC_LZ4 = 1

# A record is far smaller; a header that claims more is corrupt or hostile, and must not make us allocate.
MAX_BODY_BYTES = 1 << 30

_POINT_BYTES = 8 + 8 + 8 + 4

_INT64: np.dtype[np.int64] = np.dtype("<i8")
_FLOAT64: np.dtype[np.float64] = np.dtype("<f8")
_UINT32: np.dtype[np.uint32] = np.dtype("<u4")

ScalarT = TypeVar("ScalarT", bound=np.generic)


@dataclass(frozen=True, slots=True)
class PointColumns:
    """Points as columns; ``runs[run_codes[i]]`` and ``keys[key_codes[i]]`` name point ``i``.

    All arrays have the shape ``(P,)``. ``steps`` and ``timestamps`` (Unix, milliseconds) are int64, ``values``
    float64 bit for bit as the client sent them, codes uint32. Names that come from a record are ``Names``.
    """

    runs: Sequence[str]
    keys: Sequence[str]
    run_codes: NDArray[np.uint32]
    key_codes: NDArray[np.uint32]
    steps: NDArray[np.int64]
    timestamps: NDArray[np.int64]
    values: NDArray[np.float64]
    created_at_ms: int

    def __len__(self) -> int:
        return len(self.steps)


class RecordBuilder:
    """Collects points of many requests and packs them into one record.

    Not thread-safe: it belongs to one event loop. ``points`` and ``approximate_bytes`` grow with ``add``;
    ``build`` may be called once.
    """

    __slots__ = (
        "_created_at_ms",
        "_key_codes",
        "_keys",
        "_runs",
        "_segment_lengths",
        "_segment_runs",
        "_steps",
        "_timestamps",
        "_values",
        "approximate_bytes",
        "points",
    )

    def __init__(self, created_at_ms: int) -> None:
        self._created_at_ms = created_at_ms
        self._runs: dict[str, int] = {}
        # A key seen first gets the next code, without a line of Python.
        self._keys: defaultdict[str, int] = defaultdict(count().__next__)
        self._segment_runs: list[int] = []
        self._segment_lengths: list[int] = []
        self._key_codes: list[bytes] = []
        self._steps: list[bytes] = []
        self._timestamps: list[bytes] = []
        self._values: list[bytes] = []
        self.points = 0
        self.approximate_bytes = HEADER.size

    def add(
        self,
        run_id: str,
        keys: Sequence[str],
        steps: Sequence[int],
        timestamps: Sequence[int],
        values: Sequence[float],
    ) -> None:
        """Add the points of one run; the four sequences have equal lengths.

        Raises ``struct.error`` if a number does not fit; nothing is added then.
        """
        size = len(keys)
        integers = _packer("q", size)
        packed_steps = integers(*steps)
        packed_timestamps = integers(*timestamps)
        packed_values = _packer("d", size)(*values)
        codes = self._keys
        known = len(codes)
        packed_codes = _packer("I", size)(*[codes[key] for key in keys])
        if new := len(codes) - known:
            self.approximate_bytes += 4 * new + sum(map(len, islice(reversed(codes), new)))
        self._steps.append(packed_steps)
        self._timestamps.append(packed_timestamps)
        self._values.append(packed_values)
        self._key_codes.append(packed_codes)
        self._segment(run_id, size)

    def add_columns(
        self,
        run_id: str,
        names: Sequence[str],
        codes: NDArray[np.uint32],
        steps: NDArray[np.int64],
        timestamps: NDArray[np.int64],
        values: NDArray[np.float64],
    ) -> None:
        """Add points of one run that are columns already: ``names[codes[i]]`` is the key of point ``i``.

        Costs something for each name, and next to nothing for each point.
        """
        known = self._keys
        before = len(known)
        places = np.fromiter((known[name] for name in names), np.uint32, len(names))
        if new := len(known) - before:
            self.approximate_bytes += 4 * new + sum(map(len, islice(reversed(known), new)))
        self._key_codes.append(places[codes].astype("<u4", copy=False).tobytes())
        self._steps.append(steps.astype("<i8", copy=False).tobytes())
        self._timestamps.append(timestamps.astype("<i8", copy=False).tobytes())
        self._values.append(values.astype("<f8", copy=False).tobytes())
        self._segment(run_id, len(codes))

    def _segment(self, run_id: str, size: int) -> None:
        """Note that the next ``size`` points are this run's."""
        run_code = self._runs.get(run_id)
        if run_code is None:
            run_code = self._runs[run_id] = len(self._runs)
            self.approximate_bytes += len(run_id) + 4
        self._segment_runs.append(run_code)
        self._segment_lengths.append(size)
        self.points += size
        self.approximate_bytes += size * _POINT_BYTES + 8

    def build(self, *, codec: int = CODEC_LZ4) -> bytes:
        """The record, ready for the queue."""
        runs, keys = Names.of(self._runs), Names.of(self._keys)
        segments = len(self._segment_runs)
        body = b"".join(
            [
                *self._steps,
                *self._timestamps,
                *self._values,
                *self._key_codes,
                struct.pack(f"<{segments}I", *self._segment_runs),
                struct.pack(f"<{segments}I", *self._segment_lengths),
                runs.lengths.astype("<u4", copy=False).data,
                keys.lengths.astype("<u4", copy=False).data,
                runs.raw,
                keys.raw,
            ]
        )
        header = HEADER.pack(
            VERSION, codec, 0, self.points, segments, len(runs), len(keys), len(body), self._created_at_ms
        )
        if codec == CODEC_NONE:
            return header + body
        packed: bytes = lz4.block.compress(body, store_size=False)
        return header + packed


@lru_cache(512)
def _packer(kind: str, size: int) -> Callable[..., bytes]:
    return struct.Struct(f"<{size}{kind}").pack


def point_count(record: bytes | memoryview) -> int:
    """The number of points that a record's header claims, without decoding it; 0 if it is too short."""
    return int(HEADER.unpack_from(record)[3]) if len(record) >= HEADER.size else 0


def decode(record: bytes | memoryview) -> PointColumns:
    """Decode a record of any known version.

    The arrays are views of one buffer. Raises ``BadRecordError`` with the reason for anything that is not a
    whole, consistent record.
    """
    if len(record) < HEADER.size:
        raise BadRecordError(f"record of {len(record)} bytes is shorter than its header")
    version, codec, reserved, points, segments, runs, keys, body_bytes, created_at_ms = HEADER.unpack_from(
        record
    )
    if version != VERSION:
        raise BadRecordError(f"unknown record version {version}")
    if reserved != 0:
        raise BadRecordError("reserved header bytes are not zero")
    fixed = points * _POINT_BYTES + segments * 8 + (runs + keys) * 4
    if body_bytes > MAX_BODY_BYTES or fixed > body_bytes:
        raise BadRecordError("record header claims impossible sizes")
    body = _decompress(memoryview(record)[HEADER.size :], codec, body_bytes)

    reader = _Reader(body)
    steps = reader.take(points, _INT64)
    timestamps = reader.take(points, _INT64)
    values = reader.take(points, _FLOAT64)
    key_codes = reader.take(points, _UINT32)
    segment_runs = reader.take(segments, _UINT32)
    segment_lengths = reader.take(segments, _UINT32)
    run_lengths = reader.take(runs, _UINT32)
    key_lengths = reader.take(keys, _UINT32)
    run_names = reader.names(run_lengths)
    key_names = reader.names(key_lengths)
    if reader.left():
        raise BadRecordError(f"{reader.left()} bytes left over after the record")
    if int(segment_lengths.sum(dtype=np.uint64)) != points:
        raise BadRecordError("segment lengths do not add up to the number of points")
    if points and (int(key_codes.max()) >= keys or int(segment_runs.max()) >= runs):
        raise BadRecordError("a dictionary code points outside its dictionary")
    return PointColumns(
        runs=run_names,
        keys=key_names,
        run_codes=np.repeat(segment_runs, segment_lengths),
        key_codes=key_codes,
        steps=steps,
        timestamps=timestamps,
        values=values,
        created_at_ms=created_at_ms,
    )


def _decompress(packed: memoryview, codec: int, body_bytes: int) -> bytes:
    if codec == CODEC_NONE:
        body = bytes(packed)
    elif codec == CODEC_LZ4:
        try:
            body = lz4.block.decompress(packed, uncompressed_size=body_bytes)
        except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
            raise BadRecordError(f"body does not decompress: {error}") from error
    else:
        raise BadRecordError(f"unknown codec {codec}")
    if len(body) != body_bytes:
        raise BadRecordError(f"body has {len(body)} bytes where the header says {body_bytes}")
    return body


class _Reader:
    """Walks a body from its start; every take is checked against what is left."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self._at = 0

    def left(self) -> int:
        return len(self._body) - self._at

    def take(self, count: int, dtype: np.dtype[ScalarT]) -> NDArray[ScalarT]:
        size = count * dtype.itemsize
        if size > self.left():
            raise BadRecordError("record body is too short")
        column = np.frombuffer(self._body, dtype, count, self._at)
        self._at += size
        return column

    def names(self, lengths: NDArray[np.uint32]) -> Names:
        size = int(lengths.sum(dtype=np.uint64))
        if size > self.left():
            raise BadRecordError("record body is too short for its names")
        raw = self._body[self._at : self._at + size]
        self._at += size
        try:
            return Names.decode(raw, lengths)
        except ValueError as error:
            raise BadRecordError("a name is not UTF-8") from error
