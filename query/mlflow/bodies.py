"""The bodies of MLflow's metric-history answers, byte for byte as MLflow 3.17 writes them.

MLflow builds a protobuf message per point and prints it with ``json.dumps``; here numbers are printed by
column and joined with the fixed text between them, without an object per point.
"""

from __future__ import annotations

import json
from collections.abc import Iterable

import numpy as np
import orjson

from runstream.query.points.series import Floats, Ints, Series


def history_body(key: str, series: Series, next_page_token: str | None) -> bytes:
    """``metrics/get-history``: indented JSON, NaN as a string, ``{}`` for no points."""
    if not len(series):
        return b"{}"
    points = _points(
        b'    {\n      "key": ' + _text(key) + b',\n      "value": ',
        _floats(series.values, b'"NaN"'),
        b',\n      "timestamp": ',
        _ints(series.timestamps),
        b',\n      "step": ',
        _ints(series.steps),
        b"\n    },\n",
    )
    tail = b"\n  ]"
    if next_page_token is not None:
        tail += b',\n  "next_page_token": ' + _text(next_page_token)
    return b'{\n  "metrics": [\n' + points[:-2] + tail + b"\n}"


def interval_body(key: str, found: Iterable[tuple[str, Series]]) -> bytes:
    """``metrics/get-history-bulk-interval``: indented JSON with run ids, NaN as a string, ``{}`` for no
    points."""
    head = b'    {\n      "key": ' + _text(key) + b',\n      "value": '
    points = b"".join(
        _points(
            head,
            _floats(series.values, b'"NaN"'),
            b',\n      "timestamp": ',
            _ints(series.timestamps),
            b',\n      "step": ',
            _ints(series.steps),
            b',\n      "run_id": ' + _text(run_id) + b"\n    },\n",
        )
        for run_id, series in found
        if len(series)
    )
    if not points:
        return b"{}"
    return b'{\n  "metrics": [\n' + points[:-2] + b"\n  ]\n}"


def bulk_body(key: str, found: Iterable[tuple[str, Series]]) -> bytes:
    """``metrics/get-history-bulk``: compact JSON with sorted names, bare NaN, and a newline at the end."""
    head = b'{"key":' + _text(key) + b',"run_id":'
    points = b"".join(
        _points(
            head + _text(run_id) + b',"step":',
            _ints(series.steps),
            b',"timestamp":',
            _ints(series.timestamps),
            b',"value":',
            _floats(series.values, b"NaN"),
            b"},",
        )
        for run_id, series in found
        if len(series)
    )
    return b'{"metrics":[' + points[:-1] + b"]}\n"


def _text(value: str) -> bytes:
    return json.dumps(value).encode()


def _points(
    head: bytes,
    first: list[bytes],
    between1: bytes,
    second: list[bytes],
    between2: bytes,
    third: list[bytes],
    tail: bytes,
) -> bytes:
    """The points' texts, each followed by ``tail``."""
    count = len(first)
    parts = [between1] * (6 * count)
    parts[0::6] = [head] * count
    parts[1::6] = first
    parts[3::6] = second
    parts[4::6] = [between2] * count
    parts[5::6] = [text + tail for text in third]
    return b"".join(parts)


def _ints(column: Ints) -> list[bytes]:
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


def _floats(column: Floats, nan: bytes) -> list[bytes]:
    texts = orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
    size = np.abs(column)
    # Python writes 1e-05 and 1e-07 where orjson writes 0.00001 and 1e-7; its versions differ on 1e16 for
    # 1e+16.
    for position in np.flatnonzero((size >= 0.9e-5) & (size < 1e-4)).tolist():
        texts[position] = repr(float(column[position])).encode()
    for position in np.flatnonzero((size < 0.9e-5) & (size > 0)).tolist():
        text = texts[position]
        if text[-2:-1] == b"-":
            texts[position] = text[:-1] + b"0" + text[-1:]
    for position in np.flatnonzero(~(size < 1e15)).tolist():
        text = texts[position]
        if text == b"null":
            texts[position] = nan
        elif b"e+" not in text:
            texts[position] = text.replace(b"e", b"e+")
    return texts
