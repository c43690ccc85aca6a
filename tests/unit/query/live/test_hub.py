"""The hub: points reach those who listen, and a slow listener harms nobody else."""

from __future__ import annotations

import numpy as np
import orjson

from runstream.query.live.hub import Event, Hub, KeyFilter, encode
from runstream.schemas.record import PointColumns


def points(*rows: tuple[str, str, int, float]) -> PointColumns:
    runs = list(dict.fromkeys(row[0] for row in rows))
    keys = list(dict.fromkeys(row[1] for row in rows))
    return PointColumns(
        runs=runs,
        keys=keys,
        run_codes=np.array([runs.index(row[0]) for row in rows], np.uint32),
        key_codes=np.array([keys.index(row[1]) for row in rows], np.uint32),
        steps=np.array([row[2] for row in rows], np.int64),
        timestamps=np.array([row[2] * 10 for row in rows], np.int64),
        values=np.array([row[3] for row in rows]),
        created_at_ms=0,
    )


def steps(events: list[Event]) -> list[int]:
    return [step for event in events for step in event.steps]


async def test_listeners_get_their_runs_points() -> None:
    hub = Hub()
    first, second = hub.listen(["a"]), hub.listen(["a", "b"])
    assert first is not None
    assert second is not None
    hub.publish(points(("a", "k", 1, 1.0), ("b", "k", 2, 1.0), ("c", "k", 3, 1.0), ("a", "l", 4, 1.0)))
    assert steps(await first.take(1)) == [1, 4]
    assert sorted(steps(await second.take(1))) == [1, 2, 4]
    assert await first.take(0.01) == []
    hub.leave(first)
    hub.publish(points(("a", "k", 5, 1.0)))
    assert await first.take(0.01) == []
    assert steps(await second.take(1)) == [5]


async def test_a_slow_listener_is_dropped_alone() -> None:
    hub = Hub(max_unread_points=10)
    slow, quick = hub.listen(["a"]), hub.listen(["a"])
    assert slow is not None
    assert quick is not None
    for step in range(20):
        hub.publish(points(("a", "k", step, 1.0)))
        assert steps(await quick.take(1)) == [step]
    assert slow.dropped
    assert steps(await slow.take(1)) == list(range(10))
    assert not quick.dropped


def test_there_are_only_so_many_listeners() -> None:
    hub = Hub(max_listeners=2)
    first = hub.listen(["a"])
    assert first is not None
    assert hub.listen(["a"]) is not None
    assert hub.listen(["b"]) is None
    hub.leave(first)
    assert hub.listen(["b"]) is not None


def test_what_was_missed_is_remembered_for_a_while() -> None:
    now = 0.0
    hub = Hub(history_points=5, clock=lambda: now)
    listener = hub.listen(["a"])
    assert listener is not None
    hub.publish(points(("a", "k", 1, 1.0)))
    seen = hub.sequence
    hub.leave(listener)
    hub.publish(points(("a", "k", 2, 1.0), ("b", "k", 9, 1.0)))
    missed = hub.missed(["a"], seen)
    assert missed is not None
    assert steps(missed) == [2]
    assert hub.missed(["a"], hub.sequence) == []
    assert hub.missed(["a"], hub.sequence + 1) is None, "an event that was never sent"
    assert hub.missed(["b"], seen) is None, "nobody listened to this run"
    for step in range(3, 9):
        hub.publish(points(("a", "k", step, 1.0)))
    assert hub.missed(["a"], seen) is None, "more than is remembered"
    recent = hub.missed(["a"], hub.sequence - 2)
    assert recent is not None
    assert steps(recent) == [7, 8]
    now = 1_000.0
    assert hub.runs() == []
    assert hub.missed(["a"], hub.sequence) is None


def test_nobody_listening_costs_nothing() -> None:
    hub = Hub()
    hub.publish(points(("a", "k", 1, 1.0)))
    assert hub.sequence == 0


def test_events_as_json() -> None:
    event = Event(1, "a", ["k", "train/l", "k"], [1, 2, 3], [10, 20, 30], [float("nan"), 1.5, float("-inf")])
    assert orjson.loads(encode(event, KeyFilter(None)) or b"") == {
        "run_id": "a",
        "key": ["k", "train/l", "k"],
        "step": [1, 2, 3],
        "timestamp": [10, 20, 30],
        "value": ["NaN", 1.5, "-Infinity"],
    }
    assert orjson.loads(encode(event, KeyFilter(["train/*"])) or b"")["step"] == [2]
    assert orjson.loads(encode(event, KeyFilter(["[kx]"])) or b"")["step"] == [1, 3]
    assert encode(event, KeyFilter(["other", "*/x"])) is None
