"""From decoded records to one ClickHouse Native block, column by column.

The Native format is described in ClickHouse's documentation (Formats, Native) and in its
``SerializationLowCardinality``: a block is its numbers of columns and rows, then each column's name, type and
data. A ``LowCardinality(String)`` column is a version, flags with the width of its codes, a dictionary of
strings, and the codes.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from schemas.record import PointColumns

_DICTIONARY_VERSION = 1
# SerializationLowCardinality: the block carries the dictionary's keys itself ("additional keys").
_HAS_ADDITIONAL_KEYS = 1 << 9
_CODE_TYPES: tuple[tuple[int, np.dtype[np.unsignedinteger]], ...] = (
    (1 << 8, np.dtype("<u1")),
    (1 << 16, np.dtype("<u2")),
    (1 << 32, np.dtype("<u4")),
)
_ONE_BYTE = [bytes((number,)) for number in range(128)]


def merge(parts: Sequence[PointColumns]) -> PointColumns:
    """All points of ``parts``, in order, under one dictionary of runs and one of keys.

    Costs a copy of the columns, and Python work per dictionary entry of each part, not per point.
    ``created_at_ms`` is the oldest.
    """
    if len(parts) == 1:
        return parts[0]
    runs, run_codes = _merge_codes([(part.runs, part.run_codes) for part in parts])
    keys, key_codes = _merge_codes([(part.keys, part.key_codes) for part in parts])
    return PointColumns(
        runs=runs,
        keys=keys,
        run_codes=run_codes,
        key_codes=key_codes,
        steps=np.concatenate([part.steps for part in parts]),
        timestamps=np.concatenate([part.timestamps for part in parts]),
        values=np.concatenate([part.values for part in parts]),
        created_at_ms=min(part.created_at_ms for part in parts),
    )


def native_block(points: PointColumns) -> bytes:
    """The points as one block of the columns ``schemas.migrations.METRICS_COLUMNS``, in their order."""
    return b"".join(
        [
            _varuint(5),
            _varuint(len(points)),
            _header("run_id", "LowCardinality(String)"),
            *_low_cardinality(points.runs, points.run_codes),
            _header("key", "LowCardinality(String)"),
            *_low_cardinality(points.keys, points.key_codes),
            _header("step", "Int64"),
            points.steps.astype("<i8", copy=False).data,
            _header("timestamp", "Int64"),
            points.timestamps.astype("<i8", copy=False).data,
            _header("value", "Float64"),
            points.values.astype("<f8", copy=False).data,
        ]
    )


def _merge_codes(
    columns: list[tuple[list[str], NDArray[np.uint32]]],
) -> tuple[list[str], NDArray[np.uint32]]:
    index: dict[str, int] = {}
    merged = np.empty(sum(len(codes) for _, codes in columns), np.uint32)
    at = 0
    for names, codes in columns:
        translation = np.array([index.setdefault(name, len(index)) for name in names], np.uint32)
        end = at + len(codes)
        np.take(translation, codes, out=merged[at:end])
        at = end
    return list(index), merged


def _low_cardinality(names: list[str], codes: NDArray[np.uint32]) -> list[bytes | memoryview]:
    """A column's data; empty for no rows, as ClickHouse itself writes it."""
    if not len(codes):
        return []
    width, dtype = next(
        (width, dtype) for width, (limit, dtype) in enumerate(_CODE_TYPES) if len(names) <= limit
    )
    return [
        struct.pack("<QQQ", _DICTIONARY_VERSION, _HAS_ADDITIONAL_KEYS | width, len(names)),
        _strings(names),
        struct.pack("<Q", len(codes)),
        codes.astype(dtype).data,
    ]


def _strings(names: list[str]) -> bytes:
    """A String column: each text after its length in bytes."""
    encoded = [name.encode() for name in names]
    pieces: list[bytes] = [b""] * (2 * len(encoded))
    pieces[::2] = [_ONE_BYTE[size] if (size := len(name)) < 128 else _varuint(size) for name in encoded]
    pieces[1::2] = encoded
    return b"".join(pieces)


def _header(name: str, kind: str) -> bytes:
    return _strings([name, kind])


def _varuint(number: int) -> bytes:
    """LEB128, as everywhere in ClickHouse's formats."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)
