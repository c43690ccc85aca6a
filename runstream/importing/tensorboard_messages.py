"""The few protobuf messages of TensorBoard that matter, decoded by hand.

Numbers of fields are those of tensorflow/core/framework (summary.proto, tensor.proto, types.proto) and of
tensorboard/plugins/hparams (plugin_data.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


def signed(number: int) -> int:
    """A varint as the int64 that it stands for."""
    return number - (1 << 64) if number >> 63 else number


def _varint(data: bytes, at: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[at]
        at += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, at
        shift += 7


def _places(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Number, wire type, start and end of each field's content."""
    at, size = 0, len(data)
    while at < size:
        key, at = _varint(data, at)
        wire = key & 7
        if wire == 0:
            start = at
            _, at = _varint(data, at)
        elif wire == 2:
            length, start = _varint(data, at)
            at = start + length
        else:
            start, at = at, at + (8 if wire == 1 else 4)
        yield key >> 3, wire, start, at


def fields(data: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: bytes, unsigned integers, doubles, floats."""
    for number, wire, start, end in _places(data):
        if wire == 2:
            yield number, data[start:end]
        elif wire == 0:
            yield number, _varint(data, start)[0]
        else:
            yield number, struct.unpack_from("<d" if wire == 1 else "<f", data, start)[0]


_FLOAT, _DOUBLE = np.dtype("<f4"), np.dtype("<f8")


def number_at(event: bytes, plugins: dict[str, str]) -> tuple[str, int, np.dtype[Any]] | None:
    """Tag, place and type of the number in an event of a single scalar; ``None`` for any other event."""
    summaries = [(start, end) for number, _, start, end in _places(event) if number == 5]
    if len(summaries) != 1:
        return None
    base, stop = summaries[0]
    values = [
        (base + start, base + end) for number, _, start, end in _places(event[base:stop]) if number == 1
    ]
    if len(values) != 1:
        return None
    base, stop = values[0]
    tag, found, plugin = "", None, ""
    for number, wire, start, end in _places(event[base:stop]):
        if number == 1:
            tag = event[base + start : base + end].decode("utf-8", "replace")
        elif number == 2 and wire == 5:
            found = (base + start, _FLOAT)
        elif number == 8:
            found = _tensor_number(event, base + start, base + end)
        elif number == 9:
            plugin = plugin_of(event[base + start : base + end])[0]
    plugin = plugin or plugins.get(tag, "")
    if found is None or plugin not in ("", "scalars"):
        return None
    plugins[tag] = plugin
    return tag, found[0], found[1]


def _tensor_number(event: bytes, start: int, end: int) -> tuple[int, np.dtype[Any]] | None:
    """Place and type of a scalar tensor's float or double."""
    kinds: dict[tuple[int, int], np.dtype[Any]]
    kinds = {(5, 1): _FLOAT, (6, 2): _DOUBLE, (4, 1): _FLOAT, (4, 2): _DOUBLE}
    kind, found = 0, None
    for number, wire, at, stop in _places(event[start:end]):
        if number == 1:
            kind = _varint(event, start + at)[0]
        elif (number, kind) in kinds and wire in (1, 2, 5):
            dtype = kinds[number, kind]
            if stop - at != dtype.itemsize or found is not None:
                return None
            found = (start + at, dtype)
    return found


# tensorflow/core/framework/types.proto
_TYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    9: "<i8",
    10: "?",
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}
_FIXED = {5: "<f4", 6: "<f8"}


def tensor_content(data: bytes) -> tuple[NDArray[Any] | None, list[str], list[int]]:
    """Numbers, texts and shape of a ``TensorProto``."""
    kind, numbers, texts, shape = 0, None, [], []
    for number, value in fields(data):
        if number == 1:
            kind = value
        elif number == 2:
            for inner, dimension in fields(value):
                if inner == 2:
                    shape.append(next((signed(size) for place, size in fields(dimension) if place == 1), 0))
        elif number == 4 and value and kind in _TYPES:
            numbers = np.frombuffer(value, _TYPES[kind]).astype(np.float64)
        elif number in _FIXED:
            one = np.frombuffer(value, _FIXED[number]) if isinstance(value, bytes) else np.array([value])
            numbers = one.astype(np.float64) if numbers is None else np.concatenate([numbers, one])
        elif number == 8:
            texts.append(value.decode("utf-8", "replace"))
        elif number in (7, 10, 11):
            several = _packed(value) if isinstance(value, bytes) else [value]
            numbers = np.array([signed(one) for one in several], np.float64)
    return numbers, texts, shape


def _packed(data: bytes) -> list[int]:
    at, found = 0, []
    while at < len(data):
        number, at = _varint(data, at)
        found.append(number)
    return found


def plugin_of(metadata: bytes | None) -> tuple[str, bytes]:
    """A ``SummaryMetadata``'s plugin: its name and content."""
    for number, value in fields(metadata or b""):
        if number == 1:
            parts = dict(fields(value))
            return parts.get(1, b"").decode("utf-8", "replace"), parts.get(2, b"")
    return "", b""


def summed_histogram(data: bytes) -> dict[str, float]:
    """A ``HistogramProto``, summed up exactly: 1 min, 2 max, 3 num, 4 sum, 5 sum_squares."""
    found = {number: value for number, value in fields(data) if number <= 5}
    count = found.get(3, 0.0)
    summary = {"min": found.get(1, 0.0), "max": found.get(2, 0.0), "num": count}
    if count:
        mean = found.get(4, 0.0) / count
        summary["mean"] = mean
        summary["std"] = max(found.get(5, 0.0) / count - mean * mean, 0.0) ** 0.5
    return summary


def summed_buckets(buckets: NDArray[np.float64]) -> dict[str, float]:
    """Rows of left edge, right edge, count: no more is known than the edges."""
    held = buckets[buckets[:, 2] > 0]
    if not len(held):
        return {"num": 0.0}
    return {"min": float(held[0, 0]), "max": float(held[-1, 1]), "num": float(held[:, 2].sum())}


def hparams(content: bytes) -> tuple[dict[str, str], dict[str, Any]]:
    """An ``HParamsPluginData``: the hyperparameters of a session's start, and what is said of its times and end."""
    params: dict[str, str] = {}
    about: dict[str, Any] = {}
    for number, value in fields(content):
        if number == 3:
            for inner, one in fields(value):
                if inner == 1:
                    entry = dict(fields(one))
                    params[entry.get(1, b"").decode("utf-8", "replace")] = _json_value(entry.get(2, b""))
                elif inner == 4:
                    about["group"] = one.decode("utf-8", "replace")
                elif inner == 5:
                    about["start_s"] = one
        elif number == 4:
            ended = dict(fields(value))
            about["status"] = ended.get(1, 0)
            about["end_s"] = ended.get(2)
    return params, about


def _json_value(data: bytes) -> str:
    """A ``google.protobuf.Value`` as text."""
    for number, value in fields(data):
        if number == 2:
            return repr(int(value)) if value == int(value) and abs(value) < 1 << 53 else repr(value)
        if number == 3:
            return str(value.decode("utf-8", "replace"))
        if number == 4:
            return "True" if value else "False"
    return ""
