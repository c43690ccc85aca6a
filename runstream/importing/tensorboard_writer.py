"""Writes TensorBoard's event files: scalars as tensors of float64, so that no bit is lost."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crc32c import crc32c

from runstream.schemas.varint import varint

_MASK_DELTA = 0xA282EAD8
# A SummaryMetadata: plugin_data {plugin_name: "scalars"}, data_class: DATA_CLASS_SCALAR.
_METADATA = b"\x0a\x09\x0a\x07scalars\x20\x01"
# A TensorProto: dtype DT_DOUBLE, an empty shape, eight bytes of content.
_TENSOR = b"\x08\x02\x12\x00\x22\x08"


class EventWriter:
    """One event file in a folder of its own; ``began_ms`` is part of its name, as TensorBoard's writers have it."""

    def __init__(self, folder: Path, began_ms: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._file = (folder / f"events.out.tfevents.{began_ms // 1000:010}.runstream").open("wb")
        self._write(b"\x09" + struct.pack("<d", began_ms / 1000) + _field(3, b"brain.Event:2"))
        self._prefixes: dict[str, bytes] = {}

    def scalars(
        self, keys: Sequence[str], steps: Sequence[int], times_ms: Sequence[int], values: Any
    ) -> None:
        """Append points; values are float64, times Unix milliseconds."""
        bits = values.astype("<f8").tobytes()
        for place, (key, step, time_ms) in enumerate(zip(keys, steps, times_ms, strict=True)):
            tag = self._prefixes.get(key)
            if tag is None:
                tag = self._prefixes[key] = _field(1, key.encode())
            tensor = _TENSOR + bits[8 * place : 8 * place + 8]
            value = tag + _field(8, tensor) + _field(9, _METADATA)
            event = b"\x09" + struct.pack("<d", time_ms / 1000) + b"\x10" + varint(step & (1 << 64) - 1)
            self._write(event + _field(5, _field(1, value)))

    def _write(self, event: bytes) -> None:
        length = struct.pack("<Q", len(event))
        self._file.write(length + _crc(length) + event + _crc(event))

    def __enter__(self) -> EventWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _crc(data: bytes) -> bytes:
    crc = crc32c(data)
    return struct.pack("<I", ((crc >> 15 | crc << 17) + _MASK_DELTA) & 0xFFFFFFFF)


def _field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content
