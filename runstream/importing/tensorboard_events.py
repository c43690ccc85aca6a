"""TensorBoard's event files, read without TensorFlow: TFRecord framing and the few protobuf messages that matter.

A record is ``u64 length, u32 masked CRC32C of it, data, u32 masked CRC32C of the data``. The data is an ``Event``
(tensorflow/core/util/event.proto): 1 wall_time (double, seconds), 2 step, 5 summary; a ``Summary.Value``
(tensorflow/core/framework/summary.proto): 1 tag, 2 simple_value (float), 5 histo, 8 tensor, 9 metadata.

Nearly all records of a file are scalars that differ in their wall time, step and value only. They are sorted out by
length and tag with numpy, one of each kind is decoded by hand, and the rest is taken by position; whatever does not
look exactly the same is decoded by hand as well.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from runstream.importing.tensorboard_messages import (
    fields,
    number_at,
    plugin_of,
    signed,
    summed_buckets,
    summed_histogram,
    tensor_content,
)

_LENGTH, _CRC = struct.Struct("<Q"), struct.Struct("<I")
_MASK_DELTA = 0xA282EAD8
_CHUNK_BYTES = 16 << 20
# Lengths of records that are worth sorting out, and how many of a length are.
_LEAST_BYTES, _MOST_BYTES, _FEW = 24, 512, 8
_MULTIPLIER = np.uint64(0x100000001B3)


class Scalars(NamedTuple):
    """Points of one tag: steps, wall times in seconds, values."""

    tag: str
    steps: NDArray[np.int64]
    walls: NDArray[np.float64]
    values: NDArray[np.float64]


class Other(NamedTuple):
    """Something else: ``kind`` is ``text``, ``hparams``, ``histogram`` or ``skipped`` (its plugin's name)."""

    kind: str
    tag: str
    step: int
    wall: float
    content: Any


@dataclass
class EventFile:
    """One file, read from ``offset`` on; what is still being written is left for the next time."""

    path: Path
    offset: int = 0
    damaged: str | None = None
    plugins: dict[str, str] = field(default_factory=dict)

    def read(self) -> Iterator[Scalars | Other]:
        """Everything that has come since the last time."""
        with self.path.open("rb") as file:
            while self.damaged is None:
                file.seek(self.offset)
                data = file.read(_CHUNK_BYTES)
                starts, lengths, end = self._walk(data)
                if not starts and len(data) == _CHUNK_BYTES and self.damaged is None:
                    # A record larger than a chunk.
                    data += file.read(max(_LENGTH.unpack_from(data)[0] + 16 - len(data), 0))
                    starts, lengths, end = self._walk(data)
                if not starts:
                    return
                yield from self._decode(data, starts, lengths)
                self.offset += end

    def _walk(self, data: bytes) -> tuple[list[int], list[int], int]:
        """Where whole records begin, how long they are, and where the first that is not whole begins."""
        starts: list[int] = []
        ends: list[int] = []
        add_start, add_end, head = starts.append, ends.append, _LENGTH.unpack_from
        size, at = len(data), 0
        while at + 16 <= size:
            start = at + 12
            end = start + head(data, at)[0]
            if end + 4 > size:
                if _masked(crc32c(data[at : at + 8])) != _CRC.unpack_from(data, at + 8)[0]:
                    self._damage(at)
                break
            add_start(start)
            add_end(end)
            at = end + 4
        bad = self._first_bad(data, starts, ends)
        if bad is not None:
            at = starts[bad] - 12
            self._damage(at)
            del starts[bad:], ends[bad:]
        return starts, [end - start for start, end in zip(starts, ends, strict=True)], at

    def _first_bad(self, data: bytes, starts: list[int], ends: list[int]) -> int | None:
        """The first record whose checksum is wrong. A wrong length leads to something that is none."""
        found = np.array(
            [crc32c(data[start:end]) for start, end in zip(starts, ends, strict=True)], np.uint32
        )
        raw = np.frombuffer(data, np.uint8)
        stored = raw[np.array(ends, np.int64)[:, None] + np.arange(4)].copy().view("<u4").ravel()
        wrong = ((found >> np.uint32(15)) | (found << np.uint32(17))) + np.uint32(_MASK_DELTA) != stored
        return int(np.argmax(wrong)) if wrong.any() else None

    def _damage(self, at: int) -> None:
        self.damaged = f"damaged at byte {self.offset + at:,}: the rest is not read"

    def _decode(self, data: bytes, found: list[int], sizes: list[int]) -> Iterator[Scalars | Other]:
        raw = np.frombuffer(data, np.uint8)
        starts, lengths = np.array(found, np.int64), np.array(sizes, np.int64)
        slow: list[NDArray[np.intp]] = []
        for length in np.unique(lengths).tolist():
            group = np.flatnonzero(lengths == length)
            if length < _LEAST_BYTES or length > _MOST_BYTES or len(group) < _FEW:
                slow.append(group)
                continue
            rows = raw[starts[group][:, None] + np.arange(length)]
            for one in self._alike(data, rows, starts[group]):
                if isinstance(one, Scalars):
                    yield one
                else:
                    slow.append(group[one])
        if slow:
            for place in np.sort(np.concatenate(slow)).tolist():
                yield from self._by_hand(data[found[place] : found[place] + sizes[place]])

    def _alike(
        self, data: bytes, rows: NDArray[np.uint8], starts: NDArray[np.int64]
    ) -> Iterator[Scalars | NDArray[np.intp]]:
        """Records of one length: taken apart by the width of their step, and by everything but the numbers.

        What is not alike is named by its rows.
        """
        length = rows.shape[1]
        steps, widths = _varints(rows, 10)
        none = rows[:, 9] == 0x2A  # step 0 is not written
        steps[none], widths[none] = 0, -1
        first = (rows[:, 0] == 0x09) & (none | (rows[:, 9] == 0x10))
        yield np.flatnonzero(~first)
        for width in np.unique(widths[first]).tolist():
            mine = np.flatnonzero(first & (widths == width))
            head = 10 + width
            hashes = np.zeros(len(mine), np.uint64)
            part = np.ascontiguousarray(rows[mine, head:].T)
            # Up to the end of the shortest thing that may hold a number: tag and lengths are before it.
            ends = np.where(part[4] == 0x0A, 6 + part[5].astype(np.int64), 0)
            least = int(ends.min(initial=0))
            for column in range(min(int(ends.max(initial=0)), length - head)):
                mixed = (hashes ^ part[column]) * _MULTIPLIER
                hashes = mixed if column < least else np.where(column < ends, mixed, hashes)
            _, inverse = np.unique(hashes, return_inverse=True)
            by_tag = np.argsort(inverse, kind="stable")
            for kind in np.split(by_tag, np.cumsum(np.bincount(inverse))[:-1]):
                picked = mine[kind]
                sample = int(starts[picked[0]])
                found = number_at(data[sample : sample + length], self.plugins)
                if found is None:
                    yield picked
                    continue
                tag, place, dtype = found
                fixed = np.ones(length, bool)
                fixed[1:head] = False
                fixed[place : place + dtype.itemsize] = False
                same = (rows[picked][:, fixed] == rows[picked[0], fixed]).all(axis=1)
                yield picked[~same]
                picked = picked[same]
                walls = np.ascontiguousarray(rows[picked, 1:9]).view("<f8").ravel()
                values = (
                    np.ascontiguousarray(rows[picked, place : place + dtype.itemsize]).view(dtype).ravel()
                )
                yield Scalars(tag, steps[picked], walls, values.astype(np.float64))

    def _by_hand(self, event: bytes) -> Iterator[Scalars | Other]:
        wall, step = 0.0, 0
        summaries = []
        for number, value in fields(event):
            if number == 1:
                wall = value
            elif number == 2:
                step = signed(value)
            elif number == 5:
                summaries.append(value)
        for summary in summaries:
            for number, value in fields(summary):
                if number == 1:
                    yield self._value(value, step, wall)

    def _value(self, value: bytes, step: int, wall: float) -> Scalars | Other:
        # 1 tag, 2 simple_value, 4 image, 5 histo, 6 audio, 8 tensor, 9 metadata.
        parts = dict(fields(value))
        tag = parts.get(1, b"").decode("utf-8", "replace")
        simple, histogram, tensor, metadata = (parts.get(number) for number in (2, 5, 8, 9))
        other = "images" if 4 in parts else "audio" if 6 in parts else "unknown"
        plugin, plugin_content = plugin_of(metadata)
        # Only the first record of a tag has to name its plugin.
        plugin = plugin or self.plugins.get(tag, "")
        self.plugins[tag] = plugin
        if simple is not None:
            return _one(tag, step, wall, simple)
        if histogram is not None:
            return Other("histogram", tag, step, wall, summed_histogram(histogram))
        if plugin == "hparams":
            return Other("hparams", tag, step, wall, plugin_content)
        if tensor is not None:
            numbers, texts, shape = tensor_content(tensor)
            if plugin == "text":
                return Other("text", tag, step, wall, "\n".join(texts))
            if plugin == "histograms" and numbers is not None and len(shape) == 2 and shape[1] == 3:
                return Other("histogram", tag, step, wall, summed_buckets(numbers.reshape(-1, 3)))
            if numbers is not None and numbers.size == 1 and plugin in ("scalars", ""):
                return _one(tag, step, wall, float(numbers.ravel()[0]))
        return Other("skipped", tag, step, wall, plugin or other)


def _one(tag: str, step: int, wall: float, value: float) -> Scalars:
    return Scalars(tag, np.array([step], np.int64), np.array([wall]), np.array([value], np.float64))


def _masked(crc: int) -> int:
    return ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF


def _varints(rows: NDArray[np.uint8], at: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The varint that begins at column ``at`` of each row, and its width in bytes."""
    numbers = np.zeros(len(rows), np.uint64)
    widths = np.zeros(len(rows), np.int64)
    going = np.ones(len(rows), bool)
    for byte in range(min(10, rows.shape[1] - at)):
        column = rows[:, at + byte]
        numbers |= np.where(going, (column & 0x7F).astype(np.uint64) << np.uint64(7 * byte), np.uint64(0))
        widths += going
        going = going & (column >= 0x80)
        if not going.any():
            break
    return numbers.view(np.int64), widths
