"""Frames, version 1: what a client's spool file holds and what ``POST /api/1.0/runstream/ingest`` takes.

A file, and a request, is a sequence of frames, little-endian, each a multiple of eight bytes long::

    2s  magic = "RS"
    u8  version = 1
    u8  kind
    u32 payload_bytes    without the padding
    u32 count            what it counts depends on the kind
    u32 crc32c           of the twelve bytes above, the payload and the padding
    payload, then zeros up to a multiple of eight

Kinds, and what they hold (``J`` is one JSON object, UTF-8)::

     1 FILE      J     whose frames follow: {"run_id", …}; empties the dictionary
     2 NAMES     count names: u32 codes[count], u32 lengths[count] (bytes), the names joined, UTF-8
     3 POINTS    count points: i64 steps[], i64 timestamps[] (Unix, ms), f64 values[], u32 name_codes[]
     4 CREATE    J     a run (or experiment, or logged model) to be created under the id that it names
     5 PARAMS    J     {key: value}
     6 TAGS      J     {key: value}
     7 CALL      J     {"method", "path", "body"}: any other call of MLflow's REST API
     8 STATUS    J     {"status", "end_time", "run_name", "time_ms"}: any of them
     9 MARK      J     {"offset"}: everything before this offset has been delivered
    10 END             the writer has closed this file
    11 PACKED    count bytes of frames, compressed as one LZ4 block

Versions only grow: a reader knows every version up to its own. Golden files of every version live in
``tests/unit/schemas/golden``; ``docs/reference/wire.md`` describes the format for other languages. What a reader cannot
read (a torn write of a process that was killed, a disk that was full) it skips up to the next whole frame.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from crc32c import crc32c

from runstream.schemas.errors import BadRecordError

VERSION = 1
MAGIC = b"RS"
FILE, NAMES, POINTS, CREATE, PARAMS, TAGS, CALL, STATUS, MARK, END, PACKED = range(1, 12)

HEAD = struct.Struct("<2sBBII")
HEADER_BYTES = 16
# What a header may claim; more is damage. A batch of points is far smaller.
MAX_PAYLOAD_BYTES = 16 << 20
POINT_BYTES = 28

_CRC = struct.Struct("<I")
_START = MAGIC + bytes([VERSION])
_JSON = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


class Frame(NamedTuple):
    """One frame, or ``repeat`` frames of points in a row that are alike but for their numbers.

    It lies in its buffer from ``start`` to ``end``; ``size`` is the payload of each without padding.
    """

    kind: int
    count: int  # type: ignore[assignment]  # the header's word; nobody counts in a frame
    size: int
    start: int
    end: int
    repeat: int = 1

    @property
    def points(self) -> int:
        """The number of points in it."""
        return self.count * self.repeat if self.kind == POINTS else 0


class Columns(NamedTuple):
    """Points as little-endian buffers of equal length: int64, int64 (ms), float64 and uint32."""

    steps: bytes
    timestamps: bytes
    values: bytes
    codes: bytes

    def __len__(self) -> int:
        return len(self.codes) // 4


# --- writing -------------------------------------------------------------------------------------------------


def encode(kind: int, payload: bytes, count: int = 0) -> bytes:
    """One frame. Raises ``BadRecordError`` if the payload is larger than a frame may be."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise BadRecordError(f"a frame of {len(payload)} bytes is larger than {MAX_PAYLOAD_BYTES}")
    head = HEAD.pack(MAGIC, VERSION, kind, len(payload), count)
    body = payload + bytes(-len(payload) % 8)
    return b"%b%b%b" % (head, _CRC.pack(crc32c(body, crc32c(head))), body)


def encode_json(kind: int, value: Any) -> bytes:
    """A frame of one JSON object."""
    return encode(kind, _JSON.encode(value).encode("utf-8", "replace"))


def encode_names(names: Iterable[tuple[int, str]]) -> bytes:
    """A dictionary frame: codes and their names."""
    pairs = list(names)
    raw = [name.encode("utf-8", "replace") for _, name in pairs]
    count = len(pairs)
    columns = struct.pack(f"<{2 * count}I", *(code for code, _ in pairs), *map(len, raw))
    return encode(NAMES, columns + b"".join(raw), count)


def encode_columns(columns: Columns) -> bytes:
    """A frame of points from columns."""
    return encode(POINTS, b"".join(columns), len(columns))


@lru_cache(256)
def points_encoder(count: int) -> Callable[..., bytes]:
    """A function that makes the frame of ``count`` points from ``4 × count`` numbers: steps, timestamps, values,
    codes. It raises ``struct.error`` if one does not fit."""
    padding = -(POINT_BYTES * count) % 8
    pack = struct.Struct(f"<{2 * count}q{count}d{count}I{padding}x").pack
    head = HEAD.pack(MAGIC, VERSION, POINTS, POINT_BYTES * count, count)
    start = crc32c(head)
    pack_crc = _CRC.pack

    def encode_points(*numbers: Any) -> bytes:
        body = pack(*numbers)
        return head + pack_crc(crc32c(body, start)) + body

    return encode_points


def compress(frames: bytes) -> bytes:
    """Frames packed into one."""
    import lz4.block

    return encode(PACKED, lz4.block.compress(frames, store_size=False), len(frames))


# --- reading -------------------------------------------------------------------------------------------------


class Scan(NamedTuple):
    """What a buffer holds: whole frames; ``end`` is where reading goes on when there are more bytes, ``skipped``
    counts damaged bytes before that."""

    frames: list[Frame]
    end: int
    skipped: int


def scan(buffer: bytes, *, final: bool = True, trusted: bool = False, whole: bool = False) -> Scan:
    """Find the frames in ``buffer``, which begins at a frame's start.

    ``final``: nothing will follow, so that a torn frame at the end is damage; otherwise it waits for its rest.
    ``trusted``: frames of points need no check, for this process wrote them itself.
    ``whole``: damage is an error, and nothing is looked for behind it, which could take long.
    Raises ``BadRecordError`` for frames of a newer version.
    """
    frames: list[Frame] = []
    at = skipped = 0
    size = len(buffer)
    while size - at >= HEADER_BYTES:
        frame = _read(buffer, at, trusted)
        if frame is not None:
            frames.append(frame)
            at = frame.end
            continue
        if whole:
            break
        found = _resume(buffer, at)
        if found is None:
            if not final and _may_grow(buffer, at):
                break
            found = size if final else max(at + 1, size - HEADER_BYTES + 1)
        skipped += found - at
        at = found
    if whole and at < size:
        raise BadRecordError(f"no whole, sound frame begins at byte {at} of {size}")
    if final:
        skipped += size - at
        at = size
    return Scan(frames, at, skipped)


def _head(buffer: bytes, at: int) -> tuple[int, int, int, int] | None:
    """(kind, payload bytes, count, end) if a plausible header stands here."""
    magic, version, kind, length, count = HEAD.unpack_from(buffer, at)
    if magic != MAGIC or not kind or not version or length > MAX_PAYLOAD_BYTES:
        return None
    if version > VERSION:
        end = at + HEADER_BYTES + (length + 7) // 8 * 8
        if end <= len(buffer) and _sound(buffer, at, end):
            raise BadRecordError(f"frames of version {version} need a newer Runstream")
        return None
    if kind == POINTS and length != POINT_BYTES * count:
        return None
    return kind, length, count, at + HEADER_BYTES + (length + 7) // 8 * 8


def _sound(buffer: bytes, at: int, end: int) -> bool:
    """Whether the checksum of the frame in ``buffer[at:end]`` is right."""
    view = memoryview(buffer)
    body = crc32c(view[at + HEADER_BYTES : end], crc32c(view[at : at + 12]))
    return bool(body == _CRC.unpack_from(buffer, at + 12)[0])


def _read(buffer: bytes, at: int, trusted: bool) -> Frame | None:
    head = _head(buffer, at)
    if head is None:
        return None
    kind, length, count, end = head
    if end > len(buffer):
        return None
    if kind != POINTS or not count:
        return Frame(kind, count, length, at, end) if _sound(buffer, at, end) else None
    alike = _alike(buffer, at, end - at) if end < len(buffer) else 1
    if not trusted:
        alike = _sound_ones(buffer, at, end - at, alike)
        if not alike:
            return None
    return Frame(POINTS, count, length, at, at + alike * (end - at), alike)


def _sound_ones(buffer: bytes, at: int, size: int, alike: int) -> int:
    """How many of these frames with the same head are sound, up to the first that is not."""
    view = memoryview(buffer)
    start, read = crc32c(view[at : at + 12]), _CRC.unpack_from
    for place in range(at, at + alike * size, size):
        if crc32c(view[place + HEADER_BYTES : place + size], start) != read(buffer, place + 12)[0]:
            return (place - at) // size
    return alike


def _alike(buffer: bytes, at: int, size: int) -> int:
    """How many frames of this size with the very same head follow one another; galloping, compared in C."""
    head = buffer[at : at + 8]
    most = (len(buffer) - at) // size
    words = memoryview(buffer)[at : at + most * size].cast("Q")
    found, stride = 0, min(most, 4096)
    while found < most and stride:
        stride = min(stride, most - found)
        first = found * size // 8
        if words[first : first + stride * size // 8 : size // 8].tobytes() == head * stride:
            found += stride
        else:
            stride //= 4
    return max(found, 1)


def _may_grow(buffer: bytes, at: int) -> bool:
    """Whether what stands here can be a frame whose rest is still to come."""
    head = _head(buffer, at)
    return head is not None and head[3] > len(buffer)


def _resume(buffer: bytes, at: int) -> int | None:
    """Where the next whole, sound frame begins after a damaged one."""
    place = buffer.find(_START, at + 1)
    while 0 <= place <= len(buffer) - HEADER_BYTES:
        head = _head(buffer, place)
        if head is not None and head[3] <= len(buffer) and _sound(buffer, place, head[3]):
            return place
        place = buffer.find(_START, place + 1)
    return None


def payload(buffer: bytes, frame: Frame) -> bytes:
    """The payload of a single frame."""
    start = frame.start + HEADER_BYTES
    return buffer[start : start + frame.size]


def decode_json(buffer: bytes, frame: Frame) -> dict[str, Any]:
    """The object of a JSON frame; raises ``BadRecordError`` if it is none."""
    try:
        value = json.loads(payload(buffer, frame))
    except (ValueError, RecursionError) as error:
        raise BadRecordError(f"a frame of kind {frame.kind} does not hold JSON: {error}") from error
    if not isinstance(value, dict):
        raise BadRecordError(f"a frame of kind {frame.kind} does not hold a JSON object")
    return value


def decode_names(buffer: bytes, frame: Frame) -> list[tuple[int, str]]:
    """Codes and names of a dictionary frame; raises ``BadRecordError`` for names that are not UTF-8."""
    raw, count = payload(buffer, frame), frame.count
    if 8 * count > len(raw):
        raise BadRecordError("a dictionary is shorter than it says")
    numbers = struct.unpack_from(f"<{2 * count}I", raw)
    at = 8 * count
    if at + sum(numbers[count:]) != len(raw):
        raise BadRecordError("the names of a dictionary do not add up")
    names = []
    try:
        for code, length in zip(numbers[:count], numbers[count:], strict=True):
            names.append((code, raw[at : at + length].decode()))
            at += length
    except UnicodeDecodeError as error:
        raise BadRecordError("a name is not UTF-8") from error
    return names


def decode_points(buffer: bytes, frame: Frame) -> Columns:
    """The columns of one frame of points, or of all that are alike; copied in C, number for number."""
    count, size = frame.count, (frame.end - frame.start) // frame.repeat
    if frame.repeat == 1:
        at, wide = frame.start + HEADER_BYTES, 8 * count
        first, second, third, fourth = at + wide, at + 2 * wide, at + 3 * wide, at + 3 * wide + 4 * count
        return Columns(buffer[at:first], buffer[first:second], buffer[second:third], buffer[third:fourth])
    view = memoryview(buffer)[frame.start : frame.end]
    words, halves, width = view.cast("Q"), view.cast("I"), size // 8

    def column(first: int) -> bytes:
        return b"".join([words[first + i :: width].tobytes() for i in range(count)])

    codes = [halves[2 * (2 + 3 * count) + i :: 2 * width].tobytes() for i in range(count)]
    return Columns(column(2), column(2 + count), column(2 + 2 * count), b"".join(codes))


def decompress(buffer: bytes, frame: Frame, max_bytes: int) -> bytes:
    """The frames in a packed one; raises ``BadRecordError`` if it claims more than ``max_bytes`` or is broken."""
    import lz4.block

    if frame.count > max_bytes:
        raise BadRecordError(f"packed frames of {frame.count} bytes are larger than {max_bytes}")
    try:
        unpacked: bytes = lz4.block.decompress(payload(buffer, frame), uncompressed_size=frame.count)
    except (lz4.block.LZ4BlockError, ValueError, MemoryError) as error:
        raise BadRecordError(f"packed frames do not decompress: {error}") from error
    if len(unpacked) != frame.count:
        raise BadRecordError("packed frames are shorter than they say")
    return unpacked


def joined(columns: Sequence[Columns]) -> Columns:
    """One after the other."""
    return columns[0] if len(columns) == 1 else Columns(*map(b"".join, zip(*columns, strict=True)))
