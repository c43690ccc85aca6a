"""Bodies of the ingest route that mean harm, or have met it: refused in one sentence, in bounded time and memory."""

from __future__ import annotations

import struct
import time

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.ingest.gateway.writes.arrow import read_arrow
from runstream.ingest.gateway.writes.frames import read_frames
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError

RUN = "a" * 32
MOST = 1 << 24
FILE = frame.encode_json(frame.FILE, {"run_id": RUN})
GOOD = (
    FILE + frame.encode_names([(0, "loss"), (1, "é")]) + frame.points_encoder(2)(1, 2, 3, 4, 0.5, 0.25, 0, 1)
)


def arrow_stream(compression: str | None = None, points: int = 4) -> bytes:
    table = pa.table(
        {
            "run_id": pa.array([RUN] * points).dictionary_encode(),
            "key": ["loss"] * points,
            "step": pa.array([0] * points, pa.int64()),
            "timestamp": pa.array([0] * points, pa.int64()),
            "value": [0.0] * points,
        }
    )
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, table.schema, options=options) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
@settings(max_examples=300, deadline=None)
def test_a_byte_that_changed_is_seen(place: int, change: int) -> None:
    body = bytearray(GOOD)
    body[place] ^= change
    with pytest.raises(BadRecordError):
        read_frames(bytes(body), MOST)


@pytest.mark.parametrize("end", range(1, len(GOOD)))
def test_a_body_cut_short_is_refused_or_ends_with_a_whole_frame(end: int) -> None:
    whole_ends = {one.end for one in frame.scan(GOOD).frames}
    if end in whole_ends:
        assert read_frames(GOOD[:end], MOST) == []
        return
    with pytest.raises(BadRecordError):
        read_frames(GOOD[:end], MOST)


@given(
    st.sampled_from([frame.FILE, frame.NAMES, frame.POINTS, frame.PACKED]),
    st.binary(max_size=200),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=300, deadline=None)
def test_frames_that_are_sound_and_hold_nonsense_are_read_or_refused(
    kind: int, payload: bytes, count: int
) -> None:
    try:
        read_frames(FILE + frame.encode(kind, payload, count), MOST)
    except BadRecordError:
        pass


def test_big_endian_numbers_are_no_frames() -> None:
    head = struct.pack(">2sBBII", b"RS", 1, frame.POINTS, frame.POINT_BYTES, 1)
    with pytest.raises(BadRecordError):
        read_frames(FILE + head + bytes(4 + 32), MOST)


@pytest.mark.parametrize("bits", [0x7FF0000000000001, 0x7FF8DEADBEEF0000, 0xFFF8000000000001])
def test_what_a_nan_carries_is_kept(bits: int) -> None:
    payload = struct.pack("<qqQI", 1, 2, bits, 0)
    (run,) = read_frames(FILE + frame.encode_names([(0, "a")]) + frame.encode(frame.POINTS, payload, 1), MOST)
    assert run.values.tobytes() == struct.pack("<Q", bits)


def test_a_name_given_twice_counts_from_then_on() -> None:
    one = frame.points_encoder(1)(1, 1, 1.0, 0)
    body = FILE + frame.encode_names([(0, "a")]) + one + frame.encode_names([(0, "b")]) + one
    (run,) = read_frames(body, MOST)
    assert [run.names[code] for code in run.codes.tolist()] == ["a", "b"]


@pytest.mark.parametrize(
    "payload", [b"[" * 200_000, b"{}", b'{"run_id": 7}', b'{"run_id": "\\ud800"}', b"null", b"\xff"]
)
def test_a_file_that_does_not_say_whose_it_is_is_refused(payload: bytes) -> None:
    with pytest.raises(BadRecordError):
        read_frames(frame.encode(frame.FILE, payload), MOST)


def test_packed_frames_that_claim_more_than_may_be_are_not_unpacked() -> None:
    with pytest.raises(BadRecordError, match="larger"):
        read_frames(frame.compress(bytes(MOST + 8)), MOST)
    halves = frame.compress(FILE + frame.encode(frame.MARK, b'{"a":"' + b"x" * (MOST * 2 // 3) + b'"}')) * 2
    with pytest.raises(BadRecordError, match="larger"):
        read_frames(halves, MOST)


def test_time_is_in_proportion_to_the_bytes() -> None:
    """Headers that each claim all that follows, and names that come one by one, were quadratic. CPU time, with room."""
    began = time.thread_time()
    header = frame.HEAD.pack(b"RS", 1, frame.MARK, 1 << 19, 0) + bytes(4)
    with pytest.raises(BadRecordError):
        read_frames(header * (1 << 16), MOST)
    one = frame.points_encoder(1)
    body = b"".join(frame.encode_names([(at, f"k{at}")]) + one(at, 1, 1.0, at) for at in range(20_000))
    (run,) = read_frames(FILE + body, MOST)
    assert len(run) == 20_000
    assert sum(len(part.names) for part in run.cut(1_000)) == 20_000
    assert time.thread_time() - began < 20


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_an_arrow_stream_that_unpacks_to_too_much_is_refused_before(compression: str) -> None:
    bomb = arrow_stream(compression, points=1_000_000)
    assert len(bomb) < MOST // 4
    with pytest.raises(BadRecordError, match="larger"):
        read_arrow(bomb, MOST)
    assert len(read_arrow(arrow_stream(compression), MOST)[0]) == 4


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_an_arrow_stream_with_changed_bytes_is_read_or_refused(data: st.DataObject) -> None:
    compression = data.draw(st.sampled_from([None, "zstd"]))
    body = bytearray(arrow_stream(compression))
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(body)))
    try:
        read_arrow(bytes(body[:end]), MOST)
    except BadRecordError:
        pass


def test_arrow_indices_outside_their_dictionary_and_odd_types_are_refused() -> None:
    table = pa.table(
        {
            "run_id": pa.DictionaryArray.from_arrays(pa.array([7], pa.int32()), pa.array([RUN]), safe=False),
            "key": ["a"],
            "step": pa.array([1]),
            "timestamp": pa.array([1]),
            "value": [1.0],
        }
    )
    odd = table.set_column(0, "run_id", pa.array([RUN]))
    cases = [table, odd.set_column(2, "step", pa.array([1.5])), odd.set_column(1, "key", pa.array([3]))]
    for case in [*cases, odd.set_column(4, "value", pa.array(["1"]))]:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, case.schema) as writer:
            writer.write_table(case)
        with pytest.raises(BadRecordError):
            read_arrow(bytes(sink.getvalue()), MOST)
