"""Frames: what is written is read, number for number; damage costs what is damaged and nothing else."""

from __future__ import annotations

import math
import struct
from pathlib import Path

import pytest
from crc32c import crc32c
from hypothesis import given
from hypothesis import strategies as st

from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError
from runstream.schemas.frame import Columns

GOLDEN = Path(__file__).parent / "golden" / "frames_v1.rsf"
int64 = st.integers(-(2**63), 2**63 - 1)
points = st.lists(st.tuples(int64, int64, st.floats(), st.integers(0, 2**32 - 1)), min_size=1, max_size=9)


def one_frame(batch: list[tuple[int, int, float, int]]) -> bytes:
    return frame.points_encoder(len(batch))(
        *(number for column in zip(*batch, strict=True) for number in column)
    )


def rows(columns: Columns) -> list[tuple[int, int, bytes, int]]:
    count = len(columns)
    values = [columns.values[8 * at : 8 * at + 8] for at in range(count)]
    return sorted(
        zip(
            struct.unpack(f"<{count}q", columns.steps),
            struct.unpack(f"<{count}q", columns.timestamps),
            values,
            struct.unpack(f"<{count}I", columns.codes),
            strict=True,
        )
    )


def expected(batches: list[list[tuple[int, int, float, int]]]) -> list[tuple[int, int, bytes, int]]:
    return sorted((s, t, struct.pack("<d", v), c) for batch in batches for s, t, v, c in batch)


def sample() -> bytes:
    """A file of every kind of frame."""
    columns = Columns(
        struct.pack("<2q", -1, 2**62), struct.pack("<2q", 0, 1), struct.pack("<2d", math.inf, -0.0), bytes(8)
    )
    inner = frame.encode_columns(columns)
    return b"".join(
        [
            frame.encode_json(frame.FILE, {"run_id": "0123456789abcdef0123456789abcdef", "uri": "http://a"}),
            frame.encode_json(frame.CREATE, {"what": "run", "body": {"run_id": "x", "tags": []}}),
            frame.encode_names([(0, "loss"), (1, "Größe/é")]),
            one_frame([(0, 1_700_000_000_000, 0.5, 0)]),
            one_frame([(1, 1_700_000_000_001, math.nan, 1), (2, 1_700_000_000_002, -math.inf, 0)]),
            frame.encode_json(frame.PARAMS, {"lr": "0.1"}),
            frame.encode_json(frame.TAGS, {"note": "ü\n"}),
            frame.encode_json(frame.CALL, {"method": "POST", "path": "/p", "body": {"a": [1, None]}}),
            frame.encode_json(frame.STATUS, {"status": "FINISHED", "end_time": 1}),
            frame.encode_json(frame.MARK, {"offset": 2**40}),
            # Stored, not packed anew: LZ4 may choose other bytes from version to version.
            frame.encode(frame.PACKED, bytes.fromhex("f0") + bytes([len(inner) - 15]) + inner, len(inner)),
            frame.encode(frame.END, b""),
        ]
    )


def test_the_golden_file_is_what_is_written_and_read() -> None:
    assert GOLDEN.read_bytes() == sample()
    found = frame.scan(GOLDEN.read_bytes())
    assert [one.kind for one in found.frames] == [1, 4, 2, 3, 3, 5, 6, 7, 8, 9, 11, 10]
    assert found.skipped == 0
    data = GOLDEN.read_bytes()
    assert frame.decode_names(data, found.frames[2]) == [(0, "loss"), (1, "Größe/é")]
    assert frame.decode_json(data, found.frames[6]) == {"note": "ü\n"}
    inner = frame.decompress(data, found.frames[10], 1_000)
    assert len(frame.decode_points(inner, frame.scan(inner).frames[0])) == 2


@given(st.lists(points, min_size=1, max_size=12), st.booleans())
def test_points_survive_bit_for_bit(batches: list[list[tuple[int, int, float, int]]], trusted: bool) -> None:
    data = b"".join(map(one_frame, batches))
    found = frame.scan(data, trusted=trusted)
    assert found.skipped == 0
    assert rows(frame.joined([frame.decode_points(data, one) for one in found.frames])) == expected(batches)


@given(points, st.integers(1, 5_000), st.booleans())
def test_many_alike_are_one(batch: list[tuple[int, int, float, int]], times: int, trusted: bool) -> None:
    data = one_frame(batch) * times
    found = frame.scan(data, trusted=trusted)
    assert sum(one.points for one in found.frames) == times * len(batch)
    assert rows(frame.joined([frame.decode_points(data, one) for one in found.frames])) == expected(
        [batch] * times
    )


def test_a_tail_torn_at_every_byte_is_skipped_and_what_stands_before_it_stays() -> None:
    # Without the packed frame, whose inner one could be found for itself.
    data = b"".join(
        sample()[one.start : one.end] for one in frame.scan(sample()).frames if one.kind != frame.PACKED
    )
    ends = [one.end for one in frame.scan(data).frames]
    for cut in range(len(data)):
        whole = [end for end in ends if end <= cut]
        final = frame.scan(data[:cut])
        assert [one.end for one in final.frames] == whole
        assert final.end == cut
        following = frame.scan(data[:cut], final=False)
        assert [one.end for one in following.frames] == whole
        # Whoever follows goes on where the last whole frame ended, and loses nothing.
        rest = frame.scan(data[following.end :])
        assert len(following.frames) + len(rest.frames) == len(ends)
        assert following.skipped == rest.skipped == 0


def test_what_follows_a_torn_frame_is_found_again() -> None:
    first, last = frame.encode_json(frame.TAGS, {"a": "b" * 40}), one_frame([(1, 2, 3.0, 0)])
    for cut in range(1, len(first)):
        for final in (True, False):
            found = frame.scan(first[:cut] + last * 3, final=final)
            assert sum(one.points for one in found.frames) == 3, (cut, final)
            assert found.skipped == cut


@given(st.binary(max_size=300))
def test_bytes_of_any_kind_are_no_frames_and_no_error(noise: bytes) -> None:
    good = one_frame([(1, 2, 3.0, 0)])
    found = frame.scan(noise + good)
    assert sum(one.points for one in found.frames) >= 1
    frame.scan(noise, final=False)


@pytest.mark.parametrize("place", range(0, 48, 3))
def test_a_flipped_bit_is_noticed(place: int) -> None:
    good = one_frame([(1, 2, 3.0, 0)])
    bad = bytearray(good)
    bad[place] ^= 4
    found = frame.scan(bytes(bad) + good)
    assert sum(one.points for one in found.frames) == 1
    assert found.skipped == len(good)


def test_a_newer_version_is_said_and_not_skipped() -> None:
    newer = bytearray(frame.encode(frame.END, b""))
    newer[2] = 2
    newer[12:16] = struct.pack("<I", crc32c(bytes(newer[:12])))
    with pytest.raises(BadRecordError, match="newer Runstream"):
        frame.scan(bytes(newer))


def test_packed_frames_that_lie_about_their_size_are_refused() -> None:
    packed = frame.compress(one_frame([(1, 2, 3.0, 0)]))
    one = frame.scan(packed).frames[0]
    with pytest.raises(BadRecordError, match="larger than"):
        frame.decompress(packed, one, 10)
    with pytest.raises(BadRecordError, match="do not decompress"):
        frame.decompress(packed, one._replace(count=10), 100)
