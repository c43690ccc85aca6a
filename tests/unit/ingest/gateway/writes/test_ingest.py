"""The ingest route without HTTP: what a body holds is in the queue, bit for bit; what is refused is named."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import orjson
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runstream.ingest.gateway.http.admission import Admission, RefusedError
from runstream.ingest.gateway.http.upstream import Answer
from runstream.ingest.gateway.writes.arrow import read_arrow
from runstream.ingest.gateway.writes.batching import Batcher
from runstream.ingest.gateway.writes.frames import read_frames
from runstream.ingest.gateway.writes.ingest import FRAMES, Ingest
from runstream.ingest.queue.protocol import Producer
from runstream.schemas import frame
from runstream.schemas.errors import BadRecordError, MlflowError
from runstream.schemas.record import decode
from runstream.schemas.wire import ARROW

RUN, OTHER, GONE = "a" * 32, "b" * 32, "c" * 32
Point = tuple[str, str, int, int, float]


class NoTelemetry:
    def appended(self, points: int, seconds: float, error: Exception | None) -> None:
        """Nobody looks."""


class Records:
    """A producer of two partitions that keeps what it is given."""

    def __init__(self) -> None:
        self.kept: list[bytes] = []

    def route(self, run_id: str) -> int:
        return len(run_id) + ord(run_id[0]) & 1

    async def append(self, partition: int, record: bytes) -> None:
        self.kept.append(record)


class Verdicts:
    """MLflow's verdicts as the admission hands them on: one run does not exist."""

    async def check(self, run_id: str, identity: object) -> None:
        if run_id == GONE:
            body = orjson.dumps(
                {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"Run with id={GONE} not found"}
            )
            raise RefusedError(Answer(404, body, "application/json"))


def body_of(points: Sequence[Point], *, packed: bool = False) -> bytes:
    """Frames of these points, a frame for each."""
    parts, run, codes = [], None, dict[str, int]()
    for run_id, key, step, timestamp, value in points:
        if run_id != run:
            run, codes = run_id, {}
            parts.append(frame.encode_json(frame.FILE, {"run_id": run_id}))
        if key not in codes:
            # Codes as wide apart as a client likes.
            codes[key] = 7 * len(codes) + 3
            parts.append(frame.encode_names([(codes[key], key)]))
        parts.append(frame.points_encoder(1)(step, timestamp, value, codes[key]))
    data = b"".join(parts)
    return frame.compress(data) if packed else data


def arrow_of(points: Sequence[Point], *, dictionary: bool) -> bytes:
    runs, keys, steps, timestamps, values = zip(*points, strict=True)
    columns = [pa.array(runs), pa.array(keys), pa.array(steps, pa.int64())]
    if dictionary:
        columns[:2] = [column.dictionary_encode() for column in columns[:2]]
    columns += [pa.array(timestamps, pa.int64()), pa.array(values, pa.float64())]
    table = pa.table(columns, names=["run_id", "key", "step", "timestamp", "value"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    return bytes(sink.getvalue())


class Setting:
    def __init__(self) -> None:
        self.records = Records()
        batcher = Batcher(
            cast(Producer, self.records),
            NoTelemetry(),
            linger_ms=1,
            max_record_bytes=1 << 20,
            max_pending_bytes=1 << 26,
            append_timeout_s=10,
        )
        self.ingest = Ingest(batcher, cast(Admission, Verdicts()), max_body_bytes=1 << 20)

    def stored(self) -> list[tuple[str, str, int, int, bytes]]:
        found = []
        for record in self.records.kept:
            columns = decode(record)
            found += [
                (columns.runs[run], columns.keys[key], step, timestamp, struct.pack("<d", value))
                for run, key, step, timestamp, value in zip(
                    columns.run_codes.tolist(),
                    columns.key_codes.tolist(),
                    columns.steps.tolist(),
                    columns.timestamps.tolist(),
                    columns.values.tolist(),
                    strict=True,
                )
            ]
        return sorted(found)


def bits(points: Sequence[Point]) -> list[tuple[str, str, int, int, bytes]]:
    return sorted((run, key, step, time, struct.pack("<d", value)) for run, key, step, time, value in points)


int64 = st.integers(-(2**63), 2**63 - 1)
some_points = st.lists(
    st.tuples(
        st.sampled_from([RUN, OTHER]),
        st.sampled_from(["loss", "train/é", "a b", "x" * 250]),
        int64,
        st.integers(0, 2**63 - 1),
        st.floats(),
    ),
    min_size=1,
    max_size=30,
)


@given(some_points, st.booleans())
@settings(max_examples=60, deadline=None)
async def test_frames_are_stored_bit_for_bit(points: list[Point], packed: bool) -> None:
    setting = Setting()
    answer = await setting.ingest.store(body_of(points, packed=packed), FRAMES, ())
    assert answer == {"stored": len(points), "refused": []}
    assert setting.stored() == bits(points)


@given(some_points, st.booleans())
@settings(max_examples=60, deadline=None)
async def test_arrow_is_stored_bit_for_bit(points: list[Point], dictionary: bool) -> None:
    setting = Setting()
    answer = await setting.ingest.store(arrow_of(points, dictionary=dictionary), ARROW, ())
    assert answer == {"stored": len(points), "refused": []}
    assert setting.stored() == bits(points)


async def test_what_is_refused_is_named_and_the_rest_is_stored() -> None:
    setting = Setting()
    good: list[Point] = [(RUN, "loss", 1, 0, 1.0), (OTHER, "loss", 2, 5, float("nan"))]
    bad: list[Point] = [
        (RUN, "no?", 1, 0, 1.0),
        (RUN, "x" * 251, 1, 0, 1.0),
        (RUN, "../up", 1, 0, 1.0),
        (RUN, "", 1, 0, 1.0),
        (OTHER, "early", 1, -1, 1.0),
        (GONE, "loss", 1, 0, 1.0),
        ("no id!", "loss", 1, 0, 1.0),
    ]
    answer = await setting.ingest.store(body_of(sorted([*good, *bad])), FRAMES, ())
    assert answer["stored"] == 2
    assert setting.stored() == bits(good)
    named = {(one["run_id"], one.get("key")) for one in answer["refused"]}
    assert named == {(run, None if run in (GONE, "no id!") else key) for run, key, *_ in bad}
    gone = next(one for one in answer["refused"] if one["run_id"] == GONE)
    assert gone["code"] == "RESOURCE_DOES_NOT_EXIST"


async def test_many_points_at_once_are_cut_into_records_of_their_own_size() -> None:
    setting = Setting()
    points: list[Point] = [(RUN, f"k{step % 5}", step, step, step / 7) for step in range(60_000)]
    assert (await setting.ingest.store(body_of(points), FRAMES, ()))["stored"] == len(points)
    assert setting.stored() == bits(points)
    assert max(map(len, setting.records.kept)) < 2 << 20


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"x" * 40, "no whole, sound frame"),
        (frame.points_encoder(1)(1, 1, 1.0, 0), "whose they are"),
        (body_of([(RUN, "a", 1, 1, 1.0)])[:-8], "no whole, sound frame"),
        (
            frame.encode_json(frame.FILE, {"run_id": RUN}) + frame.points_encoder(1)(1, 1, 1.0, 9),
            "outside its dictionary",
        ),
        (
            frame.encode_json(frame.FILE, {"run_id": RUN}) + frame.encode_names([(2**31, "a")]),
            "the largest is",
        ),
        (frame.encode_json(frame.PARAMS, {"a": "b"}), "kind 5"),
        (frame.compress(frame.compress(b"")), "kind 11"),
    ],
)
def test_bodies_that_are_not_whole_are_refused(body: bytes, said: str) -> None:
    with pytest.raises(BadRecordError, match=said):
        read_frames(body, 1 << 20)


@pytest.mark.parametrize("missing", ["run_id", "key", "step", "timestamp", "value"])
def test_arrow_without_a_column_or_with_nulls_is_refused(missing: str) -> None:
    def stream(table: pa.Table) -> bytes:
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return cast(bytes, sink.getvalue().to_pybytes())

    whole = pa.ipc.open_stream(arrow_of([(RUN, "a", 1, 1, 1.0)], dictionary=False)).read_all()
    with pytest.raises(BadRecordError, match="Arrow"):
        read_arrow(stream(whole.drop_columns([missing])), 1 << 20)
    column = whole.column(missing)
    holes = whole.set_column(whole.column_names.index(missing), missing, pa.array([None], column.type))
    with pytest.raises(BadRecordError, match="Arrow"):
        read_arrow(stream(holes), 1 << 20)
    with pytest.raises(BadRecordError, match="Arrow"):
        read_arrow(b"nothing of the kind", 1 << 20)
    with pytest.raises(BadRecordError, match="larger"):
        read_arrow(stream(whole), 1)


def test_arrow_takes_timestamps_and_narrower_numbers() -> None:
    table = pa.table(
        {
            "run_id": [RUN],
            "key": ["a"],
            "step": pa.array([3], pa.int16()),
            "timestamp": pa.array([1_700_000_000_123_456], pa.timestamp("us", "UTC")),
            "value": pa.array([0.5], pa.float32()),
        }
    )
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    (run,) = read_arrow(sink.getvalue().to_pybytes(), 1 << 20)
    assert (run.steps.tolist(), run.timestamps.tolist(), run.values.tolist()) == (
        [3],
        [1_700_000_000_123],
        [0.5],
    )
    assert run.values.dtype == np.float64


async def test_an_unknown_type_is_refused() -> None:
    setting = Setting()
    with pytest.raises(MlflowError) as refused:
        await setting.ingest.store(b"", "application/json", ())
    assert refused.value.code == "UNSUPPORTED_MEDIA_TYPE"


def test_it_says_what_it_takes() -> None:
    offers: dict[str, Any] = Setting().ingest.offers()
    assert offers["frames"] == frame.VERSION
    assert ARROW in offers["types"]
