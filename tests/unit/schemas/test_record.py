"""The queue record: what goes in comes out, bit for bit; anything else is refused with a reason."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from runstream.schemas.errors import BadRecordError
from runstream.schemas.record import (
    CODEC_LZ4,
    CODEC_NONE,
    HEADER,
    RecordBuilder,
    decode,
    point_count,
)

GOLDEN = Path(__file__).parent / "golden"
INT64 = st.integers(-(2**63), 2**63 - 1)
NAMES = st.text(min_size=1, max_size=250).filter(lambda text: text.isprintable())
POINT = st.tuples(NAMES, INT64, INT64, st.floats(width=64))
REQUESTS = st.lists(st.tuples(NAMES, st.lists(POINT, max_size=30)), max_size=8)
Request = tuple[str, list[tuple[str, int, int, float]]]


def build(requests: list[Request], codec: int, created_at_ms: int = 0) -> bytes:
    builder = RecordBuilder(created_at_ms)
    for run_id, points in requests:
        builder.add(
            run_id,
            [p[0] for p in points],
            [p[1] for p in points],
            [p[2] for p in points],
            [p[3] for p in points],
        )
    return builder.build(codec=codec)


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(REQUESTS, st.sampled_from([CODEC_NONE, CODEC_LZ4]), INT64)
def test_round_trip_is_exact(requests: list[Request], codec: int, created_at_ms: int) -> None:
    record = build(requests, codec, created_at_ms)
    columns = decode(record)
    got = [
        (columns.runs[r], columns.keys[k], s, t, bits(v))
        for r, k, s, t, v in zip(
            columns.run_codes.tolist(),
            columns.key_codes.tolist(),
            columns.steps.tolist(),
            columns.timestamps.tolist(),
            columns.values.tolist(),
            strict=True,
        )
    ]
    assert got == [(run, key, s, t, bits(v)) for run, points in requests for key, s, t, v in points]
    assert columns.created_at_ms == created_at_ms
    assert point_count(record) == len(got) == len(columns)


def test_every_nan_keeps_its_bits() -> None:
    odd_nan = struct.unpack("<d", b"\x01\x00\x00\x00\x00\x00\xf8\xff")[0]
    columns = decode(build([("r", [("k", 0, 0, odd_nan), ("k", 0, 0, -0.0)])], CODEC_LZ4))
    assert columns.values.tobytes() == b"\x01\x00\x00\x00\x00\x00\xf8\xff" + bits(-0.0)


@given(st.binary(max_size=400))
def test_garbage_is_refused(garbage: bytes) -> None:
    with pytest.raises(BadRecordError):
        decode(garbage)


@given(REQUESTS, st.data())
def test_a_damaged_record_never_crashes(requests: list[Request], data: st.DataObject) -> None:
    record = bytearray(build(requests, data.draw(st.sampled_from([CODEC_NONE, CODEC_LZ4]))))
    at = data.draw(st.integers(0, len(record) - 1))
    record[at] ^= data.draw(st.integers(1, 255))
    try:
        columns = decode(bytes(record))
    except BadRecordError:
        return
    # Damage in a value or a name cannot be seen here (the queue's checksum sees it), but shapes must agree.
    assert len(columns.run_codes) == len(columns.key_codes) == len(columns.values)


@given(REQUESTS, st.data())
def test_a_cut_record_is_refused(requests: list[Request], data: st.DataObject) -> None:
    record = build(requests, CODEC_NONE)
    cut = data.draw(st.integers(0, len(record) - 1))
    with pytest.raises(BadRecordError):
        decode(record[:cut])


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ((2, 1, 0, 0, 0, 0, 0, 0, 0), "unknown record version 2"),
        ((1, 9, 0, 0, 0, 0, 0, 0, 0), "unknown codec 9"),
        ((1, 0, 7, 0, 0, 0, 0, 0, 0), "reserved"),
        ((1, 1, 0, 4_000_000_000, 0, 0, 0, 4_000_000_000, 0), "impossible sizes"),
    ],
)
def test_reasons(header: tuple[int, ...], reason: str) -> None:
    with pytest.raises(BadRecordError, match=reason):
        decode(HEADER.pack(*header))


def test_a_number_that_does_not_fit_adds_nothing() -> None:
    builder = RecordBuilder(0)
    with pytest.raises(struct.error):
        builder.add("run", ["a", "b"], [1, 2**63], [0, 0], [0.0, 0.0])
    builder.add("run", ["c"], [1], [2], [3.0])
    columns = decode(builder.build())
    assert [columns.keys[code] for code in columns.key_codes] == ["c"]


def test_golden_v1() -> None:
    """Records that were written by the first release can be read for ever."""
    columns = decode((GOLDEN / "record-v1.bin").read_bytes())
    assert columns.runs == ["0" * 32, "f" * 32]
    assert columns.keys == ["loss", "träin/acc"]
    assert columns.run_codes.tolist() == [0, 0, 0, 1]
    assert columns.key_codes.tolist() == [0, 1, 0, 0]
    assert columns.steps.tolist() == [0, -1, 2**63 - 1, -(2**63)]
    assert columns.timestamps.tolist() == [1_700_000_000_000, 0, 2**63 - 1, 5]
    assert columns.created_at_ms == 1_700_000_000_123
    expected = [0.5, math.nan, math.inf, -math.inf]
    assert np.array_equal(columns.values, np.array(expected), equal_nan=True)
