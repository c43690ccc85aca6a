"""The physical limit: the same bodies, decoded, appended to a synced file and inserted, with nothing else.

One process, no network, no HTTP, no checks, no read-your-writes: what the machine and the libraries allow
when every step runs back to back. ``python -m benchmarks.harness.limit BODIES INDEX FOLDER SECONDS`` prints JSON.
"""

from __future__ import annotations

import json
import os
import resource
import struct
import sys
import time
from pathlib import Path

import clickhouse_connect
import msgspec
import numpy as np

_BODIES_PER_SYNC = 16
_ROWS_PER_INSERT = 300_000
_COLUMNS = ["run_id", "key", "step", "timestamp", "value"]
_TABLE = """
create table points (
    run_id LowCardinality(String), key LowCardinality(String),
    step Int64 codec(DoubleDelta, ZSTD(1)),
    timestamp Int64 codec(DoubleDelta, ZSTD(1)),
    value Float64 codec(ZSTD(1))
) engine = ReplacingMergeTree order by (run_id, key, step, timestamp, value)
settings fsync_after_insert = 1, fsync_part_directory = 1
"""
# ClickHouse's Native format: 2 = 32-bit codes, bit 9 = the dictionary comes with the block.
_LOW_CARDINALITY = (1 << 9) | 2


class _Metric(msgspec.Struct, gc=False):
    key: str
    value: float
    timestamp: int
    step: int = 0


class _Batch(msgspec.Struct, gc=False):
    run_id: str
    metrics: list[_Metric]


class _Block:
    """Columns of one insert in ClickHouse's Native format."""

    def __init__(self) -> None:
        self.rows = 0
        self._runs: dict[str, int] = {}
        self._keys: dict[str, int] = {}
        self._columns: list[list[bytes]] = [[], [], [], [], []]

    def add(self, batch: _Batch) -> bytes:
        """Take a batch's points; returns their packed columns, which are what the log stores."""
        metrics = batch.metrics
        count = len(metrics)
        run = self._runs.setdefault(batch.run_id, len(self._runs))
        known = self._keys
        packed = (
            struct.pack("<I", run) * count,
            struct.pack(f"<{count}I", *[known.setdefault(m.key, len(known)) for m in metrics]),
            struct.pack(f"<{count}q", *[m.step for m in metrics]),
            struct.pack(f"<{count}q", *[m.timestamp for m in metrics]),
            struct.pack(f"<{count}d", *[m.value for m in metrics]),
        )
        for column, data in zip(self._columns, packed, strict=True):
            column.append(data)
        self.rows += count
        return b"".join(packed)

    def native(self) -> bytes:
        types = ["LowCardinality(String)"] * 2 + ["Int64", "Int64", "Float64"]
        parts = [_varint(len(types)), _varint(self.rows)]
        for name, kind, data, names in zip(
            _COLUMNS, types, self._columns, [self._runs, self._keys, None, None, None], strict=True
        ):
            parts += [_text(name), _text(kind)]
            if names is not None:
                parts.append(struct.pack("<QQQ", 1, _LOW_CARDINALITY, len(names)))
                parts += [_text(value) for value in names]
                parts.append(struct.pack("<Q", self.rows))
            parts += data
        return b"".join(parts)


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _text(value: str) -> bytes:
    data = value.encode()
    return _varint(len(data)) + data


def main(bodies: str, index_file: str, folder: str, seconds: str) -> None:
    index = np.load(index_file)
    client = clickhouse_connect.get_client(interface="chdb", path=folder + "/chdb")
    client.command(_TABLE)
    decode = msgspec.json.Decoder(_Batch).decode
    opening = [b'{"run_id": "%032x' % run for run in range(int(index["run"].max()) + 1)]
    phases = {"decode_and_pack": 0.0, "log": 0.0, "insert": 0.0}
    inserted, rows_done = 0, 0
    settings = {"optimize_on_insert": 0}
    log = os.open(folder + "/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    block, pending = _Block(), []
    with Path(bodies).open("rb", buffering=1 << 20) as file:
        cpu = resource.getrusage(resource.RUSAGE_SELF)
        began = mark = time.perf_counter()
        for entry in index:
            body = opening[entry["run"]] + file.read(int(entry["length"]))
            pending.append(block.add(decode(body)))
            if len(pending) == _BODIES_PER_SYNC:
                mark = _lap(phases, "decode_and_pack", mark)
                os.write(log, b"".join(pending))
                os.fdatasync(log)
                pending = []
                mark = _lap(phases, "log", mark)
            if block.rows >= _ROWS_PER_INSERT:
                mark = _lap(phases, "decode_and_pack", mark)
                client.raw_insert("points", _COLUMNS, block.native(), fmt="Native", settings=settings)
                rows_done += block.rows
                inserted += 1
                block = _Block()
                mark = _lap(phases, "insert", mark)
                if mark - began > float(seconds):
                    break
        if block.rows:
            client.raw_insert("points", _COLUMNS, block.native(), fmt="Native", settings=settings)
            rows_done += block.rows
            _lap(phases, "insert", mark)
        elapsed = time.perf_counter() - began
        used = resource.getrusage(resource.RUSAGE_SELF)
    stored = client.query("select count() from points").result_rows[0][0]
    if stored != rows_done:
        raise SystemExit(f"{stored} rows stored of {rows_done}")
    cpu_s = used.ru_utime + used.ru_stime - cpu.ru_utime - cpu.ru_stime
    facts = {
        "points": rows_done,
        "seconds": elapsed,
        "cpu_s": cpu_s,
        "inserts": inserted,
        "phases_s": phases,
        "peak_bytes": used.ru_maxrss * 1024,
    }
    print(json.dumps(facts), flush=True)
    os._exit(0)  # the embedded engine may not end by itself


def _lap(phases: dict[str, float], name: str, mark: float) -> float:
    now = time.perf_counter()
    phases[name] += now - mark
    return now


if __name__ == "__main__":
    main(*sys.argv[1:])
