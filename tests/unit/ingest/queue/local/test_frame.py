"""The local log's frames: what is written is read, and whatever else stands there is told apart."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.ingest.queue.local.files import segment_name
from runstream.ingest.queue.local.frame import HEADER_BYTES, encode_header, parse_header
from runstream.ingest.queue.local.segment import SegmentReader

offsets = st.integers(min_value=0, max_value=2**63)


@given(offset=offsets, payload=st.binary(max_size=500))
def test_a_header_is_read_back(offset: int, payload: bytes) -> None:
    header = encode_header(offset, payload)
    assert len(header) == HEADER_BYTES
    parsed = parse_header(b"xyz" + header, 3, offset)
    assert parsed is not None
    assert parsed[0] == len(payload)


@given(offset=offsets, other=offsets, payload=st.binary(max_size=50))
def test_a_header_counts_only_where_it_was_written(offset: int, other: int, payload: bytes) -> None:
    assert (parse_header(encode_header(offset, payload), 0, other) is not None) == (offset == other)


@given(payload=st.binary(max_size=50), bit=st.integers(0, HEADER_BYTES * 8 - 1))
def test_any_flipped_bit_of_a_header_is_seen(payload: bytes, bit: int) -> None:
    header = bytearray(encode_header(77, payload))
    header[bit // 8] ^= 1 << bit % 8
    assert parse_header(bytes(header), 0, 77) is None


@settings(max_examples=60, deadline=None)
@given(
    payloads=st.lists(st.binary(max_size=300), max_size=12),
    base=st.integers(0, 10_000),
    max_bytes=st.integers(1, 400),
)
def test_a_segment_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, payloads: list[bytes], base: int, max_bytes: int
) -> None:
    directory = tmp_path_factory.mktemp("segment")
    frames = write_segment(directory, base, payloads)
    reader = SegmentReader(directory, base)
    offset, found = base, []
    while more := reader.read(offset, max_bytes, closed=False):
        found += more
        offset = more[-1].next_offset
    assert [(frame.offset, frame.payload, frame.fault) for frame in found] == [
        (at, payload, None) for at, payload in zip(frames, payloads, strict=True)
    ]
    assert reader.skip_frames(base) == offset == reader.end()
    reader.close()


def test_a_log_inside_a_payload_is_no_frame(tmp_path: Path) -> None:
    """A record may hold anything, a copy of a log too; a search for the next frame must not fall for it."""
    inner = encode_header(0, b"inner") + b"inner" + encode_header(21, b"x") + b"x"
    starts = write_segment(tmp_path, 0, [inner * 3, b"next"])
    reader = SegmentReader(tmp_path, 0)
    assert reader.find_frame(1, reader.end()) == starts[1]
    reader.close()


def write_segment(directory: Path, base: int, payloads: list[bytes]) -> list[int]:
    """A segment file with these records; returns their offsets."""
    offset, starts = base, []
    with (directory / segment_name(base)).open("wb") as file:
        for payload in payloads:
            starts.append(offset)
            file.write(encode_header(offset, payload) + payload)
            offset += HEADER_BYTES + len(payload)
        os.fsync(file.fileno())
    return starts
